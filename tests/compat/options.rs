//! `docs/options.md` is made of the documentation comments of the options and of their default
//! values. `UPDATE_DOCS=1 cargo test --test compat` writes it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const HEAD: &str = "# Options

Made of `src/options.rs` by `tests/compat.rs`; edit the comments there. Times are `Duration`s,
sizes are in bytes. The names in parentheses are those of Socket.IO. `Options` is read once, by
`Server::new`, which refuses what is out of range and names the rule.
";

/// A struct of options: its name, what it is, its fields.
struct Table {
    name: String,
    doc: String,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    kind: String,
    doc: String,
}

/// All structs with public fields that a file declares.
fn tables(source: &str) -> Vec<Table> {
    let mut found: Vec<Table> = Vec::new();
    let (mut doc, mut is_inside) = (String::new(), false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            let text = text.trim();
            let gap = if doc.is_empty() { "" } else { " " };
            write!(doc, "{gap}{}", if text.is_empty() { "<br>" } else { text }).unwrap();
            continue;
        }
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{', '<', '(']).next().unwrap_or_default().to_string();
            is_inside = rest.ends_with('{');
            found.push(Table { name, doc: plain(&doc), fields: Vec::new() });
        } else if let Some((name, kind)) =
            line.strip_prefix("pub ").and_then(|it| it.split_once(": ")).filter(|_| is_inside)
        {
            let (name, kind) = (name.to_string(), kind.trim_end_matches(',').to_string());
            let field = Field { name, kind, doc: plain(&doc) };
            found.last_mut().unwrap().fields.push(field);
        } else if line == "}" {
            is_inside = false;
        } else if line.starts_with("#[") {
            continue;
        }
        doc.clear();
    }
    found
}

/// Without the links of rustdoc, examples, and what a cell cannot hold.
fn plain(doc: &str) -> String {
    let mut doc = doc.split(" <br> ```").next().unwrap_or_default().to_string();
    while let Some(at) = doc.find("[`") {
        let Some(end) = doc[at..].find("`]").map(|end| at + end) else { break };
        let inner = doc[at + 2..end].to_string();
        let mut rest = &doc[end + 2..];
        if rest.starts_with('(') {
            rest = rest.split_once(')').map_or("", |(_, rest)| rest);
        }
        doc = format!("{}`{inner}`{rest}", &doc[..at]);
    }
    doc.replace('|', "\\|")
}

/// Fields and values of a struct as `{:#?}` prints it, each on one line.
fn defaults(debug: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in debug.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        if indent == 4 && !text.starts_with(['}', ')', ']']) {
            let (name, value) = text.split_once(": ").unwrap();
            found.push((name.to_string(), value.to_string()));
        } else if indent >= 4 {
            let value = &mut found.last_mut().unwrap().1;
            let gap =
                if value.ends_with(['(', '[']) || text.starts_with([')', ']']) { "" } else { " " };
            write!(value, "{gap}{text}").unwrap();
        }
    }
    for (_, value) in &mut found {
        let end = value.trim_end_matches(',').replace(",)", ")").replace(", }", " }");
        *value = end.replace(",]", "]").replace('|', "\\|");
    }
    found
}

/// What Rust calls it, without its path.
fn kind_of(kind: &str) -> String {
    kind.rsplit("::").next().unwrap_or_default().to_string()
}

fn page() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources: Vec<_> = fs::read_dir(root).unwrap().map(|it| it.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|it| it == "rs"));
    sources.sort();
    let all: Vec<Table> = sources
        .iter()
        .flat_map(|path| tables(&fs::read_to_string(path).unwrap()))
        .filter(|table| !table.fields.is_empty())
        .collect();
    let options = all.iter().find(|table| table.name == "Options").unwrap();
    let values = defaults(&format!("{:#?}", corecast::Options::default()));
    let names: Vec<&String> = options.fields.iter().map(|field| &field.name).collect();
    assert_eq!(names, values.iter().map(|(name, _)| name).collect::<Vec<_>>());

    let mut page = HEAD.to_string();
    page.push_str("\n## Options\n\n| field | type | default | what it does |\n|---|---|---|---|\n");
    for (field, (name, value)) in options.fields.iter().zip(&values) {
        let Field { kind, doc, .. } = field;
        assert!(!doc.is_empty(), "{name} says nothing");
        writeln!(page, "| `{name}` | `{}` | `{value}` | {doc} |", kind_of(kind)).unwrap();
    }
    // The structs that options consist of, and theirs.
    let mut listed = vec!["Options"];
    let mut waiting: Vec<&Table> = vec![options];
    while let Some(table) = waiting.pop() {
        for part in &all {
            let is_part = |field: &Field| {
                field.kind.split(|c: char| !c.is_alphanumeric()).any(|word| word == part.name)
            };
            if listed.contains(&part.name.as_str()) || !table.fields.iter().any(is_part) {
                continue;
            }
            listed.push(&part.name);
            waiting.push(part);
            writeln!(page, "\n## {}\n\n{}\n", part.name, part.doc.replace(" <br> ", "\n\n"))
                .unwrap();
            page.push_str("| field | type | what it does |\n|---|---|---|\n");
            for Field { name, kind, doc } in &part.fields {
                writeln!(page, "| `{name}` | `{}` | {doc} |", kind_of(kind)).unwrap();
            }
        }
    }
    page
}

#[test]
fn the_page_of_the_options_is_what_they_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let (mut left, mut right) = (there.lines(), page.lines());
    while let (Some(is), Some(wanted)) = (left.next(), right.next()) {
        assert_eq!(is, wanted, "docs/options.md; UPDATE_DOCS=1 cargo test --test compat writes it");
    }
    assert_eq!(there.len(), page.len(), "docs/options.md ends too early or too late");
}

#[test]
fn comments_and_defaults_are_read() {
    let source = "/// One. See [`Error::Limit`](crate::Error::Limit) or [`A`].\n#[derive(Debug)]\n\
        pub struct A {\n    /// First\n    /// line.\n    ///\n    /// More.\n    \
        pub b: Option<x::B>,\n}\n\
        fn f() {\n    pub c: u8,\n}\n";
    let read = tables(source);
    assert_eq!((read.len(), read[0].name.as_str()), (1, "A"));
    assert_eq!(read[0].doc, "One. See `Error::Limit` or `A`.");
    let [Field { name, kind, doc }] = &read[0].fields[..] else { panic!() };
    assert_eq!((name.as_str(), kind.as_str()), ("b", "Option<x::B>"));
    assert_eq!(doc, "First line. <br> More.");
    let debug = "A {\n    a: 25s,\n    b: Some(\n        B {\n            c: 1,\n\
        \x20       },\n    ),\n    d: [],\n}";
    let pairs = defaults(debug);
    let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(pairs, [("a", "25s"), ("b", "Some(B { c: 1 })"), ("d", "[]")]);
}
