//! The schema as people read it: a TOML file with every key, and a page of all keys.

use std::fmt::Write as _;

use serde_json::Value;

use super::schema::{Path, Schema, Shape, Step};

/// Columns of a comment in the file.
const COLUMNS: usize = 96;

/// One key of a table.
struct Key<'a> {
    path: Path,
    name: &'a str,
    /// What it is, without marks of Markdown's paragraphs.
    said: String,
    default: Option<&'a Value>,
    shape: Shape<'a>,
    /// The shape of its entries, if it is a list.
    items: Shape<'a>,
}

impl Key<'_> {
    fn is_list_of_tables(&self) -> bool {
        self.items.is_table()
    }
}

/// The keys of a table: plain ones first, then tables, then lists of tables, as TOML wants it.
fn keys<'a>(schema: &'a Schema, path: &Path, shape: &Shape<'a>) -> Vec<Key<'a>> {
    let read = |(name, nodes): (&&'a str, &Vec<&'a Value>)| {
        let find = |field| nodes.iter().find_map(|node| node.get(field));
        let inner = schema.shape(nodes);
        let said = nodes.iter().find_map(|node| schema.said(node)).unwrap_or_default();
        Key {
            path: path.key(name),
            name,
            said: said.split_whitespace().collect::<Vec<_>>().join(" "),
            default: find("default"),
            items: schema.shape(&inner.items),
            shape: inner,
        }
    };
    let mut keys: Vec<Key<'a>> = shape.properties.iter().map(read).collect();
    keys.sort_by_key(|key| (key.is_list_of_tables(), key.shape.is_table()));
    keys
}

/// The file; everything that is not set by default is a comment.
pub(super) fn defaults(schema: &Schema) -> String {
    let mut out = String::from(
        "# The configuration of corecast: every key with its default. Keys that begin with \"# \"\n\
         # are not set. Each can be set by an environment variable too, server.path for\n\
         # instance by CORECAST_SERVER_PATH, and the name of the first namespace by\n\
         # CORECAST_NAMESPACE_0_NAME.\n",
    );
    table(schema, &Path::default(), &schema.root(), Some(&Value::Null), &mut out);
    out
}

/// Writes a table; `set` is its own default, which may say more than those of its keys. `None` if
/// it is not set.
fn table(schema: &Schema, path: &Path, shape: &Shape<'_>, set: Option<&Value>, out: &mut String) {
    for (at, mut key) in keys(schema, path, shape).into_iter().enumerate() {
        let own = key.default.filter(|value| !value.is_null());
        key.default = own.or_else(|| set?.get(key.name)).or(key.default);
        let header = key.path.to_string().replace("[0]", "");
        if at > 0 || path.0.is_empty() {
            out.push('\n');
        }
        comment(&key.said, out);
        if key.is_list_of_tables() {
            let _ = writeln!(out, "# [[{header}]]");
            table(schema, &key.path.with(Step::Index(0)), &key.items, None, out);
        } else if key.shape.is_table() {
            // A table that may be missing is missing by default.
            let own = key.default.unwrap_or(&Value::Null);
            let is_missing = key.default.is_some_and(Value::is_null);
            let set = set.filter(|_| !is_missing).map(|_| own);
            let _ = writeln!(out, "{}[{header}]", if set.is_some() { "" } else { "# " });
            table(schema, &key.path, &key.shape, set, out);
        } else {
            let default = key.default.filter(|value| !value.is_null());
            let mark = if set.is_some() && default.is_some() { "" } else { "# " };
            let value = default.map_or_else(|| example(&key.shape).to_owned(), toml);
            let _ = writeln!(out, "{mark}{} = {value}", key.name);
        }
    }
}

/// Wraps a text.
fn comment(text: &str, out: &mut String) {
    let mut line = String::from("#");
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {word}");
    }
    if line.len() > 1 {
        let _ = writeln!(out, "{line}");
    }
}

/// What a key without a default may look like.
fn example(shape: &Shape<'_>) -> &'static str {
    let may = |kind| shape.types.contains(kind);
    match () {
        () if may("string") || !shape.texts.is_empty() => "\"\"",
        () if may("boolean") => "false",
        () if may("integer") || may("number") => "0",
        () if may("array") => "[]",
        () => "{}",
    }
}

/// A value as TOML writes it.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Object(table) => {
            let entries = table.iter().filter(|(_, value)| !value.is_null());
            let quoted = |key: &String| Value::from(key.as_str());
            let entries = entries.map(|(key, value)| format!("{} = {}", quoted(key), toml(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        // JSON's escapes are also TOML's.
        other => other.to_string(),
    }
}

const HEAD: &str = "# Configuration

Made by `corecast config reference` of the comments in the code; a test keeps it so.

`corecast serve --config FILE` reads a TOML file; `corecast config check --config FILE` says what is
wrong with one, `corecast config default` prints one with every key, `corecast config schema` is its
JSON Schema for editors.

Each key is an environment variable as well: `CORECAST_` and its path in capitals with underscores.
`server.ping_interval` is `CORECAST_SERVER_PING_INTERVAL`, the name of the first namespace is
`CORECAST_NAMESPACE_0_NAME`; lists are separated by commas or written as JSON, tables are JSON. The
common keys are flags too: see `corecast serve --help`. A flag counts before a variable, a variable
before the file, the file before the default.

Times have a unit: `25s`, `500ms`, `1h 30m`. Sizes are numbers of bytes or have one: `64KiB`, `1MB`.
Where a key holds a secret, the key with `_file` behind its name reads it from a file instead.

SIGHUP and `POST /reload` read the file again. *Not reloaded* marks what needs a restart; a
reload that changes such a key says so and leaves it.
";

/// The page of all keys.
pub(super) fn reference(schema: &Schema) -> String {
    let mut out = HEAD.to_owned();
    chapter(schema, &Path::default(), &schema.root(), "", &mut out);
    out
}

fn chapter(schema: &Schema, path: &Path, shape: &Shape<'_>, said: &str, out: &mut String) {
    let keys = keys(schema, path, shape);
    let (tables, plain): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| key.shape.is_table() || key.is_list_of_tables());
    if !path.0.is_empty() {
        let name = path.to_string().replace("[0]", "");
        let is_list = matches!(path.0.last(), Some(Step::Index(_)));
        let heading = if is_list { format!("[[{name}]]") } else { format!("[{name}]") };
        let _ = writeln!(out, "\n## `{heading}`\n\n{said}");
    }
    if !plain.is_empty() {
        out.push_str("\n| key | value | default | effect |\n|---|---|---|---|\n");
    }
    for key in plain {
        let default = match key.default {
            Some(Value::Null) | None if shape.required.contains(key.name) => "must be set".into(),
            Some(Value::Null) | None => "not set".into(),
            Some(value) => format!("`{}`", cell(&toml(value))),
        };
        let (name, kind, said) = (key.name, kind(schema, &key.shape), cell(&key.said));
        let _ = writeln!(out, "| `{name}` | {kind} | {default} | {said} |");
    }
    for key in tables {
        match key.is_list_of_tables() {
            true => chapter(schema, &key.path.with(Step::Index(0)), &key.items, &key.said, out),
            false => chapter(schema, &key.path, &key.shape, &key.said, out),
        }
    }
}

/// What cannot stand in a cell as it is.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What may be written for a key.
fn kind(schema: &Schema, shape: &Shape<'_>) -> String {
    if !shape.texts.is_empty() {
        return shape.texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(format) = shape.format {
        return format.to_owned();
    }
    if shape.types.contains("array") {
        return format!("list: {}", kind(schema, &schema.shape(&shape.items)));
    }
    let kinds = shape.types.iter().filter(|kind| **kind != "null");
    let named = kinds.map(|kind| match *kind {
        "string" => "text",
        "integer" => "whole number",
        "boolean" => "true or false",
        "object" => "table",
        other => other,
    });
    let named = named.collect::<Vec<_>>().join(" or ");
    if named.is_empty() { "anything".into() } else { named }
}
