//! Tables and differential tests of the JSON validator.

use serde::de::IgnoredAny;
use serde_json::Value;
use simd_json::{Buffers, Tape};

use super::*;

fn valid(text: &str) -> bool {
    validate(text, 128).is_ok()
}

#[test]
fn rfc_8259_is_accepted() {
    let texts = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "7",
        "-12.50",
        "1e9",
        "1E+9",
        "0.1e-2",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        " [ ] ",
        "\t\r\n{ \n}\t",
        "[1,2]",
        "[ 1 , 2 ]",
        "{\"a\":1}",
        "{ \"a\" : { \"b\" : [ ] } , \"c\" : null }",
        "[[],[[]],{}]",
        "[{\"a\":[{}]},{\"b\":[]}]",
        r#""\"\\\/\b\f\n\r\t\u0041\uD83D\ude00""#,
        // JSON.parse takes these, typed parsers need not: range, halves of pairs, equal keys.
        "1e999",
        "-1e-999",
        r#""\ud800""#,
        r#""\udc00\ud800x""#,
        r#"{"a":1,"a":2}"#,
        r#""\u0000""#,
        // DEL, U+2028 and everything beyond ASCII stand for themselves.
        "\"\u{7f}\u{2028}é😀\"",
        "{\"__proto__\":1}",
    ];
    for text in texts {
        assert_eq!(validate(text, 128), Ok(()), "{text:?}");
    }
    let digits = "9".repeat(400);
    assert!(valid(&digits) && valid(&format!("-0.{digits}e{digits}")));
}

fn assert_refused(texts: &[&str]) {
    for text in texts {
        assert_eq!(validate(text, 128), Err(Error::Syntax), "{text:?}");
    }
}

#[test]
fn broken_structure_is_refused() {
    assert_refused(&[
        "",
        " ",
        "[",
        "]",
        "{",
        "}",
        "[}",
        "{]",
        "[1}",
        "{\"a\":1]",
        "[1,]",
        "[,1]",
        "[,]",
        "[1 2]",
        "{,}",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":}",
        "{:1}",
        "{1:2}",
        "{a:1}",
        "{\"a\" 1}",
        "{\"a\",1}",
        "[\"a\":1]",
        "[1]]",
        "[1][2]",
        "1 2",
        "[1]x",
        ",",
        ":",
        "1,",
        "{\"a\":1}}",
    ]);
}

#[test]
fn broken_scalars_are_refused() {
    assert_refused(&[
        "nul",
        "nulL",
        "True",
        "tru",
        "falsy",
        "truefalse",
        "undefined",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "-01",
        "00",
        "1.",
        ".1",
        "1.e1",
        "1e",
        "1e+",
        "1e+-1",
        "0x1",
        "1_0",
        "--1",
        "1a",
        "0b1",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\",
        "\"\\u",
        "\"a\nb\"",
        "\"\u{0}\"",
        "\"\u{1f}\"",
        "\"\t\"",
        "[1]\u{0}",
        "\u{feff}[]",
        "[\u{a0}]",
        "[\u{b}]",
        "[\u{c}]",
        "//c\n1",
        "/**/1",
        "é",
        "[é]",
    ]);
}

#[test]
fn depth_is_limited_without_stack_and_in_linear_time() {
    let nest = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    for depth_max in [1, 63, 64, 65, 128, 512] {
        assert_eq!(validate(&nest(depth_max), depth_max), Ok(()));
        assert_eq!(validate(&nest(depth_max + 1), depth_max), Err(Error::TooDeep));
    }
    assert_eq!(validate(&nest(DEPTH_MAX + 1), usize::MAX), Err(Error::TooDeep));
    assert_eq!(validate("1", 0), Ok(()));
    assert_eq!(validate("[]", 0), Err(Error::TooDeep));
    assert_eq!(validate(&"[".repeat(100_000), 128), Err(Error::TooDeep));
    assert_eq!(validate(&"{\"a\":".repeat(100_000), 128), Err(Error::TooDeep));
    assert_eq!(validate(&"[".repeat(100), 128), Err(Error::Syntax));
    // The kind of each open bracket is remembered across the 64 bits of a word.
    let mixed = "[{\"a\":".repeat(100) + "1" + &"}]".repeat(100);
    assert_eq!(validate(&mixed, 200), Ok(()));
    assert_eq!(validate(&mixed.replacen("}]", "]}", 1), 200), Err(Error::Syntax));
    // Siblings are not depth.
    assert_eq!(validate(&format!("[{}[]]", "[],".repeat(10_000)), 2), Ok(()));
}

#[test]
fn every_position_of_a_special_character_is_seen() {
    for len in 0..80 {
        for at in 0..len {
            for bad in ["\n", "\u{0}", "\\q"] {
                let text = format!("\"{}{bad}{}\"", "é".repeat(at), "x".repeat(len - at));
                assert!(!valid(&text), "{text:?}");
            }
            let text = format!("\"{}\\\"{}\"", "x".repeat(at), "\u{ff}".repeat(len - at));
            assert!(valid(&text), "{text:?}");
            assert_eq!(split_string(&text).expect("a string").1, "");
        }
    }
}

/// A random document, and then a few random wounds.
fn mutated(rng: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 48] = [
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "\\ud83d",
        "\\ude00",
        "\\n",
        "\"a\"",
        "\"_placeholder\"",
        "true",
        "false",
        "null",
        "0",
        "1",
        "-",
        "+",
        ".",
        "e",
        "E",
        "12",
        "1e5",
        "1e999",
        "-0.0",
        "99999999999999999999",
        " ",
        "\t",
        "\n",
        "\r",
        "\u{0}",
        "\u{1f}",
        "é",
        "😀",
        "\u{2028}",
        "x",
        "tru",
        "nul",
        "//",
        "'",
        "00",
        "0x",
        "\u{7f}",
        "\"key\":",
        "[[[[",
    ];
    fn value(rng: &mut fastrand::Rng, depth: usize, out: &mut String) {
        let open = ["[", "{"].get(rng.usize(..if depth > 4 { 9 } else { 4 }));
        let Some(open) = open else {
            let scalars =
                ["\"a\\u00e9b\"", "\"\"", "true", "null", "-1.5e3", "0", "\"\\ud83d\\ude00\""];
            return out.push_str(rng.choice(scalars).expect("not empty"));
        };
        out.push_str(open);
        for item in 0..rng.usize(..4) {
            out.push_str(if item > 0 { "," } else { "" });
            if *open == "{" {
                out.push_str(rng.choice(["\"k\":", "\"long key of an object\" :"]).expect("2"));
            }
            value(rng, depth + 1, out);
        }
        out.push_str(if *open == "[" { "]" } else { "}" });
    }
    let mut text = String::new();
    value(rng, 0, &mut text);
    for _ in 0..rng.usize(..4) {
        let mut chars: Vec<char> = text.chars().collect();
        let at = rng.usize(..=chars.len());
        let end = (at + rng.usize(..3)).min(chars.len());
        let piece = if rng.bool() { *rng.choice(PIECES.iter()).expect("48") } else { "" };
        chars.splice(at..end, piece.chars());
        text = chars.into_iter().collect();
    }
    text
}

/// Against three parsers. Documented differences:
/// * serde_json ignoring values (`IgnoredAny`): none;
/// * serde_json building values: refuses numbers beyond f64 and unpaired surrogates (and more
///   than 127 levels, which these documents do not reach);
/// * simd-json: refuses the same, and integers beyond u64; accepts nothing that we refuse.
#[test]
fn other_parsers_agree_on_mutated_documents() {
    let seed = 20_260_714;
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut good, mut typed, mut simd) = (0, 0, 0);
    let mut buffers = Buffers::default();
    for round in 0..200_000 {
        let text = mutated(&mut rng);
        let ours = valid(&text);
        let ignored = serde_json::from_str::<IgnoredAny>(&text).is_ok();
        assert_eq!(ours, ignored, "seed {seed}, round {round}: {text:?}");
        match serde_json::from_str::<Value>(&text) {
            Ok(_) => assert!(ours, "{text:?}"),
            Err(error) if ours => {
                let reason = error.to_string();
                let known = ["out of range", "surrogate", "hex escape"];
                assert!(known.iter().any(|known| reason.contains(known)), "{reason}: {text:?}");
                typed += 1;
            }
            Err(_) => {}
        }
        let mut input = text.clone().into_bytes();
        let mut tape = Tape(Vec::new());
        match simd_json::fill_tape(&mut input, &mut buffers, &mut tape) {
            Ok(()) => assert!(ours, "simd-json accepts {text:?}"),
            Err(_) => simd += usize::from(ours),
        }
        good += usize::from(ours);
    }
    assert!((40_000..180_000).contains(&good), "{good} valid documents are no mixture");
    for text in ["1e999", "99999999999999999999", r#""\ud800""#] {
        let mut input = text.to_owned().into_bytes();
        let mut tape = Tape(Vec::new());
        let found = simd_json::fill_tape(&mut input, &mut buffers, &mut tape).is_ok();
        assert!(valid(text) && !found, "{text}");
    }
    assert!(typed > 100 && simd >= typed, "{typed}, {simd}: the differences were not reached");
}

#[test]
fn placeholders_need_a_number_in_range() {
    let check = |text: &str| {
        assert!(valid(text), "{text}");
        Validator::new().placeholders(text, 2)
    };
    for text in [
        r#"["a",{"_placeholder":true,"num":0},{"num":1,"_placeholder":true}]"#,
        r#"[{"x":[{"_placeholder":true,"num":1,"more":{"a":[]}}]},{"_placeholder":true,"num":1}]"#,
        // Not marked, or marked with something else than true.
        r#"[{"num":"splice"},{"_placeholder":false,"num":9},{"_placeholder":"true"}]"#,
        r#"[{"_placeholder":1},{"_placeholder":[true]},{"_placeholder":{"a":true}}]"#,
        r#"["_placeholder",true,{"a":"_placeholder","b":true}]"#,
        // The last of equal keys counts.
        r#"[{"_placeholder":true,"_placeholder":false}]"#,
        r#"[{"_placeholder":true,"num":"splice","num":0}]"#,
        r#" [ { "_placeholder" : true , "num" : 1 } ] "#,
        "1",
        "\"_placeholder\"",
        "[]",
    ] {
        assert!(check(text), "{text}");
    }
    for text in [
        r#"[{"_placeholder":true}]"#,
        r#"[{"_placeholder":true,"num":2}]"#,
        r#"[{"_placeholder":true,"num":-1}]"#,
        r#"[{"_placeholder":true,"num":-0}]"#,
        r#"[{"_placeholder":true,"num":0.5}]"#,
        r#"[{"_placeholder":true,"num":1e0}]"#,
        r#"[{"_placeholder":true,"num":"0"}]"#,
        r#"[{"_placeholder":true,"num":"splice"}]"#,
        r#"[{"_placeholder":true,"num":null}]"#,
        r#"[{"_placeholder":true,"num":[0]}]"#,
        r#"[{"_placeholder":true,"num":{"num":0}}]"#,
        r#"[{"_placeholder":true,"num":18446744073709551616}]"#,
        r#"[{"_placeholder":true,"num":0,"num":7}]"#,
        r#"[{"_pl\u0061ceholder":true,"n\u0075m":"splice"}]"#,
        r#"[{"a":{"b":[[{"num":3,"_placeholder":true}]]}}]"#,
        r#"[{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":5}}]"#,
        r#"{"_placeholder" : true}"#,
    ] {
        assert!(!check(text), "{text}");
    }
}

#[test]
fn strings_survive_writing_and_reading() {
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..20_000 {
        let text: String = (0..rng.usize(..24))
            .map(|_| match rng.u8(..4) {
                0 => char::from(rng.u8(..0x20)),
                1 => *rng.choice(&['"', '\\', '/', 'u', '\u{7f}']).expect("5"),
                2 => rng.char(..),
                _ => rng.alphanumeric(),
            })
            .collect();
        let mut out = Vec::new();
        write_string(&text, &mut out);
        assert_eq!(out.len(), string_len(&text));
        let out = String::from_utf8(out).expect("UTF-8");
        assert_eq!(serde_json::from_str::<String>(&out).expect("a string"), text);
        assert!(valid(&out));
        let (inside, rest) = split_string(&out).expect("a string");
        assert_eq!((unescape(inside).as_ref(), rest), (text.as_str(), ""));
    }
    assert_eq!(
        unescape(r"\ud83d\ude00 \ud83d \ude00 \ud83d\u0041"),
        "😀 \u{fffd} \u{fffd} \u{fffd}A"
    );
    // Never reached by validated text; here only for the absence of panics.
    for text in ["\\", "\\u", "\\u1", "\\u12é", "\\ud83d\\u", "\\ud83d\\uzzzz", "\\u+123"] {
        assert!(!unescape(text).is_empty() || text == "\\");
        assert!(!Validator::new().placeholders(text, 1) || !valid(text));
    }
}
