//! `docs/compatibility.md` does not rot: each row of `tests/compat/rows.txt` is there once, in
//! order, with a state, and every test that it names exists.
#![allow(clippy::unwrap_used)] // In a test, a panic is a finding.

#[path = "compat/options.rs"]
mod options;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Whether a row may say `open`, for what is still being built.
const OPEN_ALLOWED: bool = false;

const ROWS: &str = include_str!("compat/rows.txt");
const PAGE: &str = include_str!("../docs/compatibility.md");

/// The names of all tests: functions of Rust and Python, titles of `node --test`, scripts.
struct Tests {
    functions: BTreeSet<String>,
    /// Text of the files in `tests/npm`.
    npm: String,
    python: BTreeSet<String>,
    scripts: BTreeSet<String>,
}

impl Tests {
    fn of_the_repository() -> Tests {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut functions = BTreeSet::new();
        for folder in ["src", "tests", "bench-harness/src"] {
            for file in files(&root.join(folder), "rs") {
                functions.extend(rust_tests(&file));
            }
        }
        let npm = files(&root.join("tests/npm"), "mjs").concat();
        let python = files(&root.join("tests/python"), "py");
        let python = python.iter().flat_map(|file| after(file, "def ", |c| c == '(')).collect();
        let scripts = fs::read_dir(root.join("scripts")).unwrap();
        let scripts = scripts.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        Tests { functions, npm, python, scripts }
    }

    /// Whether a name from the page is that of a test.
    fn has(&self, name: &str) -> bool {
        if let Some(title) = name.strip_prefix("npm: ") {
            let quoted = |quote| self.npm.contains(&format!("test({quote}{title}{quote}"));
            return quoted('"') || quoted('`');
        }
        if let Some(name) = name.strip_prefix("python: ") {
            return self.python.contains(name);
        }
        // Cases of the fuzzing client, which a script runs as a whole: `autobahn 6.4.*`.
        if let Some(cases) = name.strip_prefix("autobahn ") {
            let is_range = cases.chars().all(|c| c.is_ascii_digit() || ".*-".contains(c));
            return is_range && self.scripts.contains("autobahn.sh");
        }
        self.functions.contains(name)
    }
}

/// The text of all files below a folder with an ending; none where there is no such folder.
fn files(folder: &Path, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("node_modules") {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// What stands between `start` and the first character that is an end, at each `start`.
fn after(text: &str, start: &str, is_end: fn(char) -> bool) -> Vec<String> {
    let rest = text.split(start).skip(1);
    rest.map(|rest| rest.split(is_end).next().unwrap_or_default().to_string()).collect()
}

/// Functions below `#[test]`, other attributes and comments between them.
fn rust_tests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let mut rest =
                lines.by_ref().skip_while(|it| it.starts_with("#[") || it.starts_with("//"));
            let name = rest.next().and_then(|it| it.strip_prefix("fn "));
            found.extend(name.and_then(|it| it.split('(').next()).map(str::to_string));
        }
    }
    found
}

/// Rows of a page: id, words, state.
fn table(page: &str) -> Vec<[&str; 3]> {
    let (_, rows) = page.split_once("## Row by row").unwrap_or_default();
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter_map(|line| {
        let (id, rest) = line.split_once(" | ")?;
        let (words, state) = rest.split_once(" | ")?;
        Some([id, words, state])
    });
    rows.filter(|[id, ..]| *id != "row").collect()
}

/// What is wrong with the state of a row: `kind: reason: tests`, the reason where it differs.
fn fault(state: &str, tests: &Tests) -> Option<String> {
    let (kind, rest) = state.split_once(": ").unwrap_or((state, ""));
    match (kind, rest.rsplit_once(": `")) {
        ("open", _) if OPEN_ALLOWED && rest.is_empty() => None,
        ("not", _) if rest.len() > 5 => None,
        ("done", None) => missing(rest, tests),
        ("differs", Some((reason, names))) if reason.len() > 5 => {
            missing(&format!("`{names}"), tests)
        }
        _ => Some(format!("a bad state: {state}")),
    }
}

/// The first name in backticks that is no test; an answer too if there is no name.
fn missing(names: &str, tests: &Tests) -> Option<String> {
    let mut names = names.split('`').skip(1).step_by(2).peekable();
    if names.peek().is_none() {
        return Some("no test is named".into());
    }
    names.find(|name| !tests.has(name)).map(|name| format!("there is no test {name}"))
}

#[test]
fn every_row_has_a_state_and_tests_that_exist() {
    let tests = Tests::of_the_repository();
    let expected: Vec<(&str, &str)> =
        ROWS.lines().filter_map(|line| line.split_once('\t')).collect();
    let rows = table(PAGE);
    for ((id, words), [row, said, _]) in expected.iter().zip(&rows) {
        assert_eq!((id, words), (row, said), "the next row of tests/compat/rows.txt is {id}");
    }
    assert_eq!(expected.len(), rows.len(), "rows of the page and of tests/compat/rows.txt");
    let ids: BTreeSet<&str> = expected.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.len(), expected.len(), "an id is there twice");
    let faults: Vec<String> = rows
        .iter()
        .filter_map(|[id, _, state]| fault(state, &tests).map(|fault| format!("{id}: {fault}")))
        .collect();
    assert!(faults.is_empty(), "docs/compatibility.md\n{}", faults.join("\n"));
}

#[test]
fn a_bad_state_is_found() {
    let tests = Tests {
        functions: rust_tests("#[test]\n#[ignore]\nfn a() {}\nfn not_a_test() {}")
            .into_iter()
            .collect(),
        npm: "test(\"b c\", async () => {})".into(),
        python: after("def test_d(url):", "def ", |c| c == '(').into_iter().collect(),
        scripts: BTreeSet::from(["autobahn.sh".into()]),
    };
    for good in [
        "done: `a`",
        "done: `a`, `npm: b c`, `python: test_d`, `autobahn 6.4.*`",
        "differs: `1e1` is refused, a bound, `max_rooms`: `a`",
        "not: there is no such thing",
    ] {
        assert_eq!(fault(good, &tests), None, "{good}");
    }
    for bad in [
        "done",
        "done: `not_a_test`",
        "done: `a`, `npm: b`",
        "differs: `a`",
        "differs: for a reason",
        "differs: for a reason, `max_rooms`",
        "not",
        "perhaps",
        "open: soon",
    ] {
        assert!(fault(bad, &tests).is_some(), "{bad}");
    }
    let page =
        "| x | y | done |\n## Row by row\n| row | what | state |\n|---|---|---|\n| A | b | c |\n";
    assert_eq!(table(page), [["A", "b", "c"]]);
}
