//! JSONP polling (B-19): payloads as scripts and as form fields, for browsers without CORS.
//!
//! A GET is answered with a call of one of the client's functions, a POST brings its payload in the
//! field `d` of a form. It knows no session and keeps no state.

use super::{http, json};

/// Digits of a function's number that are kept; a client numbers its own few polls.
const DIGITS_MAX: usize = 10;

/// The digits of the query's `j`, which names the function. All else is left out, so that what is
/// answered is never what somebody wrote into a link.
pub fn callback(j: &str) -> Box<str> {
    j.chars().filter(char::is_ascii_digit).take(DIGITS_MAX).collect()
}

/// Appends the script that hands a payload to the client's function.
pub fn encode(callback: &str, payload: &str, out: &mut Vec<u8>) {
    out.reserve(payload.len() + payload.len() / 8 + 32);
    out.extend_from_slice(b"___eio[");
    out.extend_from_slice(callback.as_bytes());
    out.extend_from_slice(b"](");
    // JSON may hold these two as they are, scripts before ES2019 may not.
    if payload.contains(['\u{2028}', '\u{2029}']) {
        let mut literal = Vec::with_capacity(payload.len() + 32);
        json::write_string(payload, &mut literal);
        let literal = String::from_utf8_lossy(&literal);
        let literal = literal.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
        out.extend_from_slice(literal.as_bytes());
    } else {
        json::write_string(payload, out);
    }
    out.extend_from_slice(b");");
}

/// The payload in the field `d` of a form; `None` if the field is missing, or there are two.
pub fn decode(form: &str) -> Option<String> {
    let mut fields = http::query_pairs(form).filter(|(name, _)| name == "d");
    let (_, value) = fields.next()?;
    fields.next().is_none().then(|| unescape(&value))
}

/// Browsers turn the line ends of a field into CRLF, so clients escape them: `\n` in two characters
/// is a line end, and one backslash more before it says that it is not.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut slashes = 0;
    for c in text.chars() {
        match (c, slashes) {
            ('\\', _) => slashes += 1,
            ('n', 1) => {
                slashes = 0;
                out.push('\n');
            }
            _ => {
                let kept = slashes - usize::from(c == 'n' && slashes > 1);
                out.extend(std::iter::repeat_n('\\', kept));
                slashes = 0;
                out.push(c);
            }
        }
    }
    out.extend(std::iter::repeat_n('\\', slashes));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b19_a_payload_is_a_script() {
        let script = |j: &str, payload: &str| {
            let mut out = Vec::new();
            encode(&callback(j), payload, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(script("0", "2:40"), "___eio[0](\"2:40\");");
        assert_eq!(script("a1);alert(2)//3", "6"), "___eio[123](\"6\");");
        assert_eq!(script("", "6"), "___eio[](\"6\");");
        assert_eq!(script(&"9".repeat(5_000), "6"), "___eio[9999999999](\"6\");");
        let payload = "42[\"a\\n\u{2028}\u{2029}😀\"]\x1e6";
        let expected = "___eio[7](\"42[\\\"a\\\\n\\u2028\\u2029😀\\\"]\\u001e6\");";
        assert_eq!(script("7", payload), expected);
        // What it is inside of a script, read as the JSON that it also is.
        let literal = script("7", payload);
        let literal = literal.trim_start_matches("___eio[7](").trim_end_matches(");");
        assert_eq!(serde_json::from_str::<String>(literal).expect("a literal"), payload);
    }

    #[test]
    fn b19_a_form_holds_a_payload() {
        let table = [
            ("d=2%3A40", Some("2:40")),
            ("d=4a+b%20c", Some("4a b c")),
            ("x=1&d=4%C3%A9&y", Some("4é")),
            ("d=", Some("")),
            ("d", Some("")),
            ("", None),
            ("D=4", None),
            ("d=4a&d=4b", None),
            // A line end, the text `\n`, that text with another backslash, other escapes.
            ("d=a%5Cnb", Some("a\nb")),
            ("d=a%5C%5Cnb", Some("a\\nb")),
            ("d=a%5C%5C%5Cnb", Some("a\\\\nb")),
            ("d=%5C%5Cu00e9%5C%22%5Ct%5C", Some("\\\\u00e9\\\"\\t\\")),
            ("d=%5Cn%5Cnn", Some("\n\nn")),
        ];
        for (form, expected) in table {
            assert_eq!(decode(form).as_deref(), expected, "{form}");
        }
    }
}
