//! Texts and JSON of the configuration with places for what an event brings.
//!
//! `{user}`, `{socket}`, `{namespace}`, `{event}`, `{time}` (milliseconds since 1970),
//! `{args[0].key}` and `{claims.key}`; `{{` and `}}` are braces.

use std::borrow::Cow;

use serde_json::Value;

use super::Refusal;
use super::path::Path;
use crate::gateway::auth::claim;
use crate::gateway::clock;

/// What the places of a template stand for.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) socket: &'a str,
    /// `None` for an anonymous client.
    pub(crate) user: Option<&'a str>,
    pub(crate) claims: &'a Value,
    pub(crate) event: &'a str,
    /// The arguments as JSON, without brackets.
    pub(crate) args: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    User,
    Socket,
    Namespace,
    Event,
    Time,
    Arg(Path),
    Claim(Box<str>),
}

impl Part {
    fn parse(name: &str) -> Result<Part, String> {
        Ok(match name {
            "user" => Part::User,
            "socket" => Part::Socket,
            "namespace" => Part::Namespace,
            "event" => Part::Event,
            "time" => Part::Time,
            _ => {
                if let Some(path) = name.strip_prefix("args") {
                    Part::Arg(Path::parse(path)?)
                } else if let Some(path) = name.strip_prefix("claims.").filter(|it| !it.is_empty())
                {
                    Part::Claim(path.into())
                } else {
                    return Err(format!(
                        "\"{{{name}}}\" is none of {{user}}, {{socket}}, {{namespace}}, {{event}}, \
                         {{time}}, {{args[0].key}}, {{claims.key}}"
                    ));
                }
            }
        })
    }

    /// The value as text; `None` if there is none, or if it is no text and no whole number.
    fn text<'a>(&'a self, context: &Context<'a>) -> Option<Cow<'a, str>> {
        Some(match self {
            Part::Text(text) => Cow::Borrowed(&**text),
            Part::User => Cow::Borrowed(context.user?),
            Part::Socket => Cow::Borrowed(context.socket),
            Part::Namespace => Cow::Borrowed(context.namespace),
            Part::Event => Cow::Borrowed(context.event),
            Part::Time => clock::millis().to_string().into(),
            Part::Arg(path) => scalar(path.find(context.args)?)?,
            Part::Claim(path) => match claim(context.claims, path)? {
                Value::String(text) => Cow::Borrowed(text.as_str()),
                Value::Number(number) if !number.is_f64() => number.to_string().into(),
                _ => return None,
            },
        })
    }

    /// Appends the value as JSON; `null` if there is none.
    fn json(&self, context: &Context<'_>, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self {
            Part::Arg(path) => {
                out.extend_from_slice(path.find(context.args).unwrap_or("null").as_bytes());
                Ok(())
            }
            Part::Claim(path) => {
                serde_json::to_writer(out, claim(context.claims, path).unwrap_or(&Value::Null))
            }
            Part::Time => serde_json::to_writer(out, &clock::millis()),
            other => serde_json::to_writer(out, &other.text(context)),
        }
    }

    fn name(&self) -> String {
        match self {
            Part::Text(text) => text.to_string(),
            Part::User => "user".into(),
            Part::Socket => "socket".into(),
            Part::Namespace => "namespace".into(),
            Part::Event => "event".into(),
            Part::Time => "time".into(),
            Part::Arg(path) => path.to_string(),
            Part::Claim(path) => format!("claims.{path}"),
        }
    }
}

/// The text that a JSON string or a whole number stands for.
fn scalar(json: &str) -> Option<Cow<'_, str>> {
    if json.starts_with('"') {
        return match serde_json::from_str::<&str>(json) {
            Ok(text) => Some(Cow::Borrowed(text)),
            // With escapes.
            Err(_) => serde_json::from_str(json).ok().map(Cow::Owned),
        };
    }
    let digits = json.strip_prefix('-').unwrap_or(json);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_whole.then_some(Cow::Borrowed(json))
}

/// A text with places.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    /// # Errors
    /// A brace without its partner, or a place of no known name.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let (mut parts, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let place = rest.split_once('}').filter(|_| brace == "{");
            let (name, behind) = place.ok_or_else(|| format!("\"{text}\": a lone brace"))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::parse(name)?);
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Template(parts))
    }

    /// The same, where a lone `args[0].room` or `claims.team` needs no braces.
    ///
    /// # Errors
    /// As [`Template::parse`].
    pub(crate) fn parse_room(text: &str) -> Result<Template, String> {
        if text.starts_with("args[") || text.starts_with("claims.") {
            return Ok(Template(vec![Part::parse(text)?]));
        }
        match text {
            "" => Err("a room needs a name".into()),
            _ => Template::parse(text),
        }
    }

    /// Whether it can be filled before there is an event: all that it needs is who the client is.
    pub(crate) fn needs_user_alone(&self) -> bool {
        let is_known = |part: &Part| matches!(part, Part::Text(_) | Part::User | Part::Claim(_));
        self.0.iter().all(is_known)
    }

    /// Whether it is a text without places.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first place.
    pub(crate) fn start(&self) -> &str {
        match self.0.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The name that it makes. What a client has sent, or may have chosen for its token, stays
    /// within its segment: beside other parts it is not empty and has no `:`. Nothing that is put
    /// in has control characters, which permissions have for wildcards.
    ///
    /// # Errors
    /// `missing_value`: there is nothing to put in a place. `bad_room`: it does not fit there.
    pub(crate) fn fill(&self, context: &Context<'_>) -> Result<String, Refusal> {
        let mut out = String::new();
        for part in &self.0 {
            let text = part.text(context).ok_or_else(|| {
                let name = part.name();
                Refusal { code: "missing_value", message: format!("{name}: no text or number") }
            })?;
            let wrong = |what| {
                let message = format!("{}: must not {what}", part.name());
                Refusal { code: "bad_room", message }
            };
            let is_foreign =
                matches!(part, Part::Arg(_) | Part::Claim(_) | Part::User | Part::Event);
            if is_foreign && self.0.len() > 1 && (text.is_empty() || text.contains(':')) {
                return Err(wrong("be empty or contain \":\""));
            }
            if !matches!(part, Part::Text(_)) && text.chars().any(char::is_control) {
                return Err(wrong("have control characters"));
            }
            out.push_str(&text);
        }
        Ok(out)
    }
}

/// A JSON value with places in its texts. A text that is one place and nothing else becomes the
/// value as it is, whatever its type; values of clients keep their bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// JSON without places.
    Plain(Box<str>),
    Place(Place),
    Text(Template),
    List(Vec<Json>),
    /// Keys are JSON already.
    Object(Vec<(Box<str>, Json)>),
}

/// One place of a template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place(Part);

impl Json {
    /// # Errors
    /// As [`Template::parse`], for any text in it.
    pub(crate) fn parse(value: &Value) -> Result<Json, String> {
        let json = match value {
            Value::String(text) => {
                let mut template = Template::parse(text)?;
                match &*template.0 {
                    [] | [Part::Text(_)] => Json::plain(template.start()),
                    [_] => match template.0.pop() {
                        Some(part) => Json::Place(Place(part)),
                        None => Json::plain(""),
                    },
                    _ => Json::Text(template),
                }
            }
            Value::Array(items) => {
                let items: Vec<Json> = items.iter().map(Json::parse).collect::<Result<_, _>>()?;
                match items.iter().all(Json::is_plain) {
                    true => Json::of_list(&items),
                    false => Json::List(items),
                }
            }
            Value::Object(fields) => Json::parse_object(fields)?,
            other => Json::Plain(other.to_string().into()),
        };
        Ok(json)
    }

    fn parse_object(fields: &serde_json::Map<String, Value>) -> Result<Json, String> {
        let mut object = Vec::with_capacity(fields.len());
        for (key, value) in fields {
            let key = Value::from(key.as_str()).to_string();
            object.push((key.into_boxed_str(), Json::parse(value)?));
        }
        Ok(Json::Object(object))
    }

    fn plain(text: &str) -> Json {
        Json::Plain(Value::from(text).to_string().into())
    }

    fn of_list(items: &[Json]) -> Json {
        let texts = items.iter().filter_map(|item| match item {
            Json::Plain(text) => Some(&**text),
            _ => None,
        });
        Json::Plain(format!("[{}]", texts.collect::<Vec<_>>().join(",")).into())
    }

    fn is_plain(&self) -> bool {
        matches!(self, Json::Plain(_))
    }

    /// Appends the value. What is missing is `null`, and nothing within a text.
    ///
    /// # Errors
    /// A claim cannot be written as JSON, which cannot be.
    pub(crate) fn fill(
        &self,
        context: &Context<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        match self {
            Json::Plain(text) => out.extend_from_slice(text.as_bytes()),
            Json::Place(Place(part)) => part.json(context, out)?,
            Json::Text(template) => {
                let texts = template.0.iter().filter_map(|part| part.text(context));
                serde_json::to_writer(out, &texts.collect::<String>())?;
            }
            Json::List(items) => {
                out.push(b'[');
                fill_all(items, context, out)?;
                out.push(b']');
            }
            Json::Object(fields) => {
                out.push(b'{');
                for (at, (key, value)) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    value.fill(context, out)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

/// Appends values with commas between them.
///
/// # Errors
/// As [`Json::fill`].
pub(crate) fn fill_all<'j>(
    items: impl IntoIterator<Item = &'j Json>,
    context: &Context<'_>,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        item.fill(context, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context<'a>(claims: &'a Value, args: &'a str) -> Context<'a> {
        Context { namespace: "/n", socket: "s1", user: Some("ada"), claims, event: "e", args }
    }

    fn fill(template: &str, args: &str) -> Result<String, &'static str> {
        let claims = json!({
            "team": "red", "n": 7, "https://x.y/z": "odd", "deep": { "a.b": 1 },
            "two": "a:b", "rest": "\u{2}",
        });
        let template = Template::parse_room(template).expect(template);
        template.fill(&context(&claims, args)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn places_are_filled() {
        for (template, name) in [
            ("room:{user}", "room:ada"),
            ("{namespace}-{socket}-{event}", "/n-s1-e"),
            ("doc:{args[0].id}", "doc:d1"),
            ("args[0].id", "d1"),
            ("{args[1]}", "5"),
            ("claims.team", "red"),
            ("team:{claims.team}:{claims.n}", "team:red:7"),
            ("{claims.https://x.y/z}", "odd"),
            ("{claims.deep.a.b}", "1"),
            ("a{{b}}", "a{b}"),
        ] {
            assert_eq!(fill(template, r#"{"id":"d1"},5"#).as_deref(), Ok(name), "{template}");
        }
    }

    #[test]
    fn what_clients_send_stays_in_its_place() {
        for (template, args, code) in [
            ("doc:{args[0]}", r#""a:b""#, "bad_room"),
            ("doc:{args[0]}", r#""\u003a""#, "bad_room"),
            ("doc:{args[0]}", r#""""#, "bad_room"),
            ("doc:{args[0]}", "", "missing_value"),
            ("doc:{args[0]}", "{}", "missing_value"),
            ("doc:{args[0]}", "1.5", "missing_value"),
            ("doc:{args[0]}", "true", "missing_value"),
            ("args[0].room", r#"{"room":null}"#, "missing_value"),
            ("doc:{claims.none}", "", "missing_value"),
            ("doc:{claims.two}", "", "bad_room"),
            ("doc:{claims.rest}", "", "bad_room"),
            ("claims.rest", "", "bad_room"),
            ("args[0]", r#""a\u0001""#, "bad_room"),
        ] {
            assert_eq!(fill(template, args), Err(code), "{template} {args}");
        }
        let template = Template::parse_room("room:{event}").expect("a template");
        let prefixed = Context { event: "x:admin", ..context(&Value::Null, "") };
        assert_eq!(template.fill(&prefixed).map_err(|refusal| refusal.code), Err("bad_room"));
        // Alone, it may name any room; braces in it mean nothing.
        assert_eq!(fill("args[0]", r#""a:{user}""#).as_deref(), Ok("a:{user}"));
        assert_eq!(fill("x:{args[0]}", r#""{user}""#).as_deref(), Ok("x:{user}"));
    }

    #[test]
    fn bad_templates_are_refused() {
        for text in ["{", "}", "a{b", "{nobody}", "{args}", "{args[x]}", "{claims.}", "{}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
        assert!(Template::parse_room("").is_err());
    }

    #[test]
    fn json_keeps_types_and_bytes() {
        let value = json!({
            "from": "{user}", "text": "{args[0].text}", "n": "{args[1]}", "none": "{args[9]}",
            "hello": "hi {user}, {args[0].text}{args[9]}!", "plain": [1, "a", { "b": null }],
            "claims": "{claims.team}", "list": ["{event}", 1], "braces": "{{}}",
        });
        let json = Json::parse(&value).expect("a template");
        let claims = json!({ "team": ["a", 1] });
        let mut out = Vec::new();
        let args = r#"{"text":"a\u0041\"<"},1.50"#;
        json.fill(&context(&claims, args), &mut out).expect("filled");
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains(r#""text":"a\u0041\"<""#) && text.contains(r#""n":1.50"#), "{text}");
        let filled: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(filled["hello"], "hi ada, aA\"<!");
        assert_eq!(filled["none"], Value::Null);
        assert_eq!(filled["claims"], json!(["a", 1]));
        assert_eq!(filled["list"], json!(["e", 1]));
        assert_eq!(filled["plain"], value["plain"]);
        assert_eq!(filled["braces"], "{}");
    }
}
