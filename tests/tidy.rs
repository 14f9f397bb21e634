//! The style limits of the house, checked on every file that git knows or would add.
//!
//! A finding reads `file:line: rule`. The scanner works on lines whose comments and strings are
//! blanked out, which is enough to count, to match braces and to see paths. Each rule has a test
//! below that feeds it a bad snippet, so that no rule is silently dead.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// Code lines of a Rust file, its tests not counted; blank lines and comments are not code.
const FILE_LINES_MAX: usize = 700;
/// Lines of a function outside tests, signature and braces included.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters of a line.
const COLUMNS_MAX: usize = 100;
/// The only files that may say `unsafe`: two that call the kernel, and the tests of one of them.
const UNSAFE_FILES: [&str; 3] =
    ["src/shard/ring.rs", "src/shard/ring/tests.rs", "bench-harness/src/sys.rs"];
/// Names that say nothing about what a file holds.
const FILE_NAMES: [&str; 4] = ["utils.rs", "common.rs", "types.rs", "helpers.rs"];
/// Manifests whose dependencies have a reason above them.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "bench-harness/Cargo.toml"];
/// What a folder must not mention; `*` at the end lets the name go on.
const BANNED_PATHS: [(&str, &[&str]); 3] = [
    (
        "src/proto/",
        &[
            "crate::hub",
            "crate::shard",
            "crate::server",
            "crate::socket",
            "glommio",
            "io_uring",
            "std::net::Tcp*",
            "Instant::now",
            "SystemTime::now",
            "log::*",
        ],
    ),
    (
        "src/hub/",
        &[
            "crate::shard",
            "crate::server",
            "crate::socket",
            "glommio",
            "io_uring",
            "std::net::Tcp*",
            "Instant::now",
            "SystemTime::now",
            "RefCell",
        ],
    ),
    // A user of the library like others; shards are reached by what they are offered.
    ("src/gateway/", &["crate::hub", "crate::proto", "crate::shard", "glommio", "io_uring"]),
];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// A Rust file and its blanked forms; all have the same lines.
struct Source {
    path: String,
    text: String,
    /// Without comments and without the insides of strings.
    code: Vec<String>,
    /// Without the insides of strings, with comments.
    prose: Vec<String>,
    /// Whether a line belongs to a test, by `#[cfg(test)]` or by the file.
    test: Vec<bool>,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let (code, prose) = blank(text);
        let lines = |text: &str| text.split('\n').map(str::to_string).collect::<Vec<_>>();
        let (code, prose) = (lines(&code), lines(&prose));
        let inside = path.starts_with("src/") || path.starts_with("bench-harness/src/");
        let whole = !inside || path.ends_with("/tests.rs") || path.contains("/tests/");
        let test = if whole { vec![true; code.len()] } else { test_lines(&code) };
        Source { path: path.to_string(), text: text.to_string(), code, prose, test }
    }

    fn finding(&self, line: usize, rule: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: line + 1, rule: rule.into() }
    }

    /// Lines of code outside tests, numbered from 0.
    fn own(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code.iter().map(String::as_str).enumerate();
        lines.filter(|(at, _)| !self.test[*at])
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

/// Blanks `text`: (without comments and strings, without strings). Newlines stay.
fn blank(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut prose) = (String::new(), String::new());
    let mut at = 0;
    while at < chars.len() {
        let (end, kind) = span(&chars, at);
        for &c in &chars[at..end] {
            let (in_code, in_prose) = match (c, kind) {
                ('\n', _) => ('\n', '\n'),
                (_, Span::Comment) => (' ', c),
                (_, Span::Text) => ('"', '"'),
                (_, Span::Code) => (c, c),
            };
            code.push(in_code);
            prose.push(in_prose);
        }
        at = end;
    }
    (code, prose)
}

#[derive(Clone, Copy)]
enum Span {
    Code,
    Comment,
    Text,
}

/// The comment, literal or single character of code that begins at `at`, and where it ends.
fn span(chars: &[char], at: usize) -> (usize, Span) {
    let rest = &chars[at..];
    let starts = |text: &str| text.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c));
    let in_word = at > 0 && is_word(chars[at - 1]);
    if starts("//") {
        let length = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        return (at + length, Span::Comment);
    }
    if starts("/*") {
        return (at + block_comment(rest), Span::Comment);
    }
    if !in_word {
        let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|p| starts(p)).unwrap_or("");
        let quote = &rest[prefix.len()..];
        let hashes = quote.iter().take_while(|c| **c == '#').count();
        if prefix.ends_with('r') && quote.get(hashes) == Some(&'"') {
            let body = &quote[hashes + 1..];
            let is_end = |i: &usize| {
                body[*i] == '"' && body[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
            };
            let length = (0..body.len()).find(is_end).map_or(body.len(), |i| i + 1 + hashes);
            return (at + prefix.len() + hashes + 1 + length, Span::Text);
        }
        if !prefix.ends_with('r') && quote.first() == Some(&'"') {
            return (at + prefix.len() + 1 + quoted(&quote[1..], '"'), Span::Text);
        }
        let is_char = quote.get(1) == Some(&'\\') || quote.get(2) == Some(&'\'');
        if quote.first() == Some(&'\'') && is_char && matches!(prefix, "" | "b") {
            return (at + prefix.len() + 1 + quoted(&quote[1..], '\''), Span::Text);
        }
    } else if starts("\"") {
        return (at + 1 + quoted(&rest[1..], '"'), Span::Text);
    }
    (at + 1, Span::Code)
}

/// Length of a block comment, comments inside it included.
fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Length of a literal after its opening quote, the closing one included.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Marks the item below each `#[cfg(test)]`, up to its closing brace or semicolon.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    for at in 0..code.len() {
        if let Some(column) = code[at].find("#[cfg(test)]") {
            let end = item_end(code, at, column + "#[cfg(test)]".len());
            test[at..=end].fill(true);
        }
    }
    test
}

/// The line on which the item ends that begins after `column` of line `from`.
fn item_end(code: &[String], from: usize, column: usize) -> usize {
    let (mut braces, mut others) = (0i32, 0i32);
    for (at, line) in code.iter().enumerate().skip(from) {
        let start = if at == from { column } else { 0 };
        for c in line[start..].chars() {
            match c {
                '(' | '[' => others += 1,
                ')' | ']' => others -= 1,
                '{' => braces += 1,
                '}' => braces -= 1,
                _ => {}
            }
            if others == 0 && braces == 0 && matches!(c, '}' | ';') {
                return at;
            }
        }
    }
    code.len() - 1
}

/// Columns at which `word` stands in `line`. A `*` at its end lets a longer name match.
fn mentions(line: &str, word: &str) -> Vec<usize> {
    let (word, open) = word.strip_suffix('*').map_or((word, false), |word| (word, true));
    let stands = |(at, _): &(usize, &str)| {
        let before = line[..*at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (open || !after.is_some_and(is_word))
    };
    line.match_indices(word).filter(stands).map(|(at, _)| at).collect()
}

/// All paths that the `use` statements name: (line of the statement, path).
fn used_paths(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (at, line) in source.own() {
        let Some(&column) = mentions(line, "use").first() else { continue };
        if !matches!(line[..column].trim(), "" | "pub" | "pub(crate)" | "pub(super)") {
            continue;
        }
        let mut statement = line[column + 3..].to_string();
        let mut next = at + 1;
        while !statement.contains(';') && next < source.code.len() {
            statement.push_str(&source.code[next]);
            next += 1;
        }
        let mut flat = Vec::new();
        let tree: String = statement.split(';').next().unwrap_or("").split_whitespace().collect();
        flatten(&tree, "", &mut flat);
        paths.extend(flat.into_iter().map(|path| (at, path)));
    }
    paths
}

/// `a::{b, c::{d}}` to `a::b`, `a::c::d`.
fn flatten(tree: &str, prefix: &str, out: &mut Vec<String>) {
    let mut depth = 0;
    let split = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    for part in tree.split(split).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => {
                let inner = rest.strip_suffix('}').unwrap_or(rest);
                flatten(inner, &format!("{prefix}{head}"), out);
            }
            None => out.push(format!("{prefix}{part}")),
        }
    }
}

// The rules for Rust files.

fn file_length(source: &Source) -> Vec<Finding> {
    let whole = !source.is_below(&["src/", "bench-harness/src/"]);
    let is_code =
        |(at, line): &(usize, &String)| !line.trim().is_empty() && (whole || !source.test[*at]);
    let lines = source.code.iter().enumerate().filter(is_code).count();
    let rule = format!("{lines} lines of code; at most {FILE_LINES_MAX} in a file");
    (lines > FILE_LINES_MAX).then(|| source.finding(0, rule)).into_iter().collect()
}

fn function_length(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in source.own() {
        for column in mentions(line, "fn") {
            let name: String =
                line[column + 2..].trim_start().chars().take_while(|c| is_word(*c)).collect();
            let lines = item_end(&source.code, at, column) - at + 1;
            if !name.is_empty() && lines > FUNCTION_LINES_MAX {
                let rule = format!("fn {name} has {lines} lines; at most {FUNCTION_LINES_MAX}");
                findings.push(source.finding(at, rule));
            }
        }
    }
    findings
}

fn columns(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().enumerate();
    let long = lines.filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    let rule = format!("longer than {COLUMNS_MAX} columns");
    long.map(|(at, _)| source.finding(at, rule.clone())).collect()
}

fn layers(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, banned) in BANNED_PATHS.iter().filter(|(folder, _)| source.is_below(&[folder])) {
        for path in *banned {
            let rule = format!("{folder} must not mention {}", path.trim_end_matches('*'));
            let used = used_paths(source).into_iter();
            let used = used.filter(|(_, used)| mentions(used, path).first() == Some(&0));
            let in_use: BTreeSet<usize> = used.map(|(at, _)| at).collect();
            let in_code = source.own().filter(|(_, line)| !mentions(line, path).is_empty());
            let lines: BTreeSet<usize> = in_code.map(|(at, _)| at).chain(in_use).collect();
            findings.extend(lines.into_iter().map(|at| source.finding(at, rule.clone())));
        }
    }
    findings
}

fn unsafe_word(source: &Source) -> Vec<Finding> {
    if UNSAFE_FILES.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let lines =
        source.code.iter().enumerate().filter(|(_, line)| !mentions(line, "unsafe").is_empty());
    lines.map(|(at, _)| source.finding(at, "unsafe code lives in shard/ring.rs only")).collect()
}

fn banned_words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, _) in source.own().filter(|(_, line)| line.contains(".unwrap()")) {
        findings
            .push(source.finding(at, "unwrap() outside tests; use ?, or expect with the reason"));
    }
    for (at, line) in source.prose.iter().enumerate() {
        for word in ["TODO", "FIXME"].iter().filter(|word| !mentions(line, word).is_empty()) {
            findings.push(source.finding(at, format!("{word}; open an issue instead")));
        }
    }
    for (at, line) in source.code.iter().enumerate() {
        let declared = ["struct", "enum", "trait", "type"].iter().flat_map(|word| {
            mentions(line, word).into_iter().map(|column| &line[column + word.len()..])
        });
        for name in declared.map(|rest| rest.split(|c| !is_word(c)).find(|s| !s.is_empty())) {
            let vague = |name: &&str| name.contains("Manager") || name.contains("Helper");
            if let Some(name) = name.filter(vague) {
                findings.push(source.finding(at, format!("{name}: name what it is")));
            }
        }
    }
    findings
}

fn file_name(source: &Source) -> Vec<Finding> {
    let name = source.path.rsplit('/').next().unwrap_or("");
    let rule = format!("{name}: name the file for what it holds");
    FILE_NAMES.contains(&name).then(|| source.finding(0, rule)).into_iter().collect()
}

fn module_doc(source: &Source) -> Vec<Finding> {
    let documented = source.text.starts_with("//!") || source.text.starts_with("#!/");
    let needed =
        source.is_below(&["src/", "bench-harness/src/", "tests/", "examples/", "benches/"]);
    let rule = "a file begins with a //! paragraph";
    (needed && !documented).then(|| source.finding(0, rule)).into_iter().collect()
}

// The rules for other files.

/// Every dependency has a comment line right above it.
fn dependency_reasons(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut inside, mut depth, mut above) = (false, 0i32, "");
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let header = line.starts_with('[') && depth == 0;
        let named = |line: &str| line.contains("dependencies.");
        if header {
            inside = line.contains("dependencies");
        }
        let is_dependency =
            if header { named(line) } else { inside && depth == 0 && line.contains('=') };
        if is_dependency && !line.starts_with('#') && !above.starts_with('#') {
            let rule = "a dependency has its reason in a comment above it".to_string();
            findings.push(Finding { path: path.to_string(), line: at + 1, rule });
        }
        if header {
            inside &= !named(line);
        } else if !line.starts_with('#') {
            let count = |c| line.matches(c).count() as i32;
            depth += count('[') + count('{') - count(']') - count('}');
        }
        above = line;
    }
    findings
}

/// Files named in backticks exist.
fn named_files(path: &str, text: &str, files: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let spans = line.split('`').skip(1).step_by(2).filter(|_| !fenced);
        for span in spans.filter_map(file_like) {
            if !is_known(span, files) {
                let rule = format!("`{span}` is not in the repository");
                findings.push(Finding { path: path.to_string(), line: at + 1, rule });
            }
        }
    }
    findings
}

/// The path that a code span begins with, if it may be one of the repository.
fn file_like(span: &str) -> Option<&str> {
    let word = span.split_whitespace().next()?;
    let word = word.split("::").next()?.trim_end_matches('/');
    let word = word.split(':').next()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let ending = [".rs", ".md", ".toml", ".sh", ".mjs"].iter().any(|end| word.ends_with(end));
    let bare_ending =
        word.starts_with('.') && word.matches('.').count() == 1 && !word.contains('/');
    let like = word.chars().all(legal) && !word.starts_with('/') && !bare_ending;
    (like && (ending || span.contains('/')) && !word.is_empty()).then_some(word)
}

/// Whether `word` ends the path of a file or folder, or begins with no folder of ours at all.
fn is_known(word: &str, files: &BTreeSet<String>) -> bool {
    let word = word.trim_start_matches("./");
    let (tail, inner) = (format!("/{word}"), format!("/{word}/"));
    let stands = |file: &String| {
        let file = format!("/{file}");
        file.ends_with(&tail) || file.contains(&inner)
    };
    let ending = [".rs", ".md", ".toml", ".sh", ".mjs"].iter().any(|end| word.ends_with(end));
    let first = format!("/{}/", word.split('/').next().unwrap_or(""));
    let ours = files.iter().any(|file| format!("/{file}").contains(&first));
    files.iter().any(stands) || !(ending || ours)
}

/// Nothing names a developer's machine or the host of a package registry.
fn places(path: &str, text: &str) -> Vec<Finding> {
    const FOLDERS: [&str; 3] =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tm", "p/wt")];
    const HOSTS: [&str; 5] = [
        concat!("crates", ".io"),
        concat!("npmjs", ".org"),
        concat!("npmjs", ".com"),
        concat!("pypi", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let mut findings = Vec::new();
    let absolute = |line: &str, folder: &str| {
        let before = |(at, _)| line[..at].chars().next_back();
        let inside = |c| is_word(c) || "./-}".contains(c);
        line.match_indices(folder).any(|found| !before(found).is_some_and(inside))
    };
    for (at, line) in text.lines().enumerate() {
        for folder in FOLDERS.iter().filter(|folder| absolute(line, folder)) {
            let rule = format!("{folder} is a path of one machine");
            findings.push(Finding { path: path.to_string(), line: at + 1, rule });
        }
        for host in HOSTS.iter().filter(|host| line.contains(**host)) {
            let rule = format!("{host}: do not name a registry's host");
            findings.push(Finding { path: path.to_string(), line: at + 1, rule });
        }
    }
    findings
}

fn rust_findings(source: &Source) -> Vec<Finding> {
    let rules = [
        file_length,
        function_length,
        columns,
        layers,
        unsafe_word,
        banned_words,
        file_name,
        module_doc,
    ];
    rules.iter().flat_map(|rule| rule(source)).collect()
}

/// Files that git tracks or would track, in the working tree.
fn repository_files(root: &Path) -> BTreeSet<String> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").current_dir(root).args(list).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    names.lines().filter(|name| root.join(name).is_file()).map(str::to_string).collect()
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = repository_files(root);
    assert!(files.contains("src/lib.rs"), "git lists no files: {files:?}");
    let mut findings = Vec::new();
    for path in &files {
        // Files that are no text have no lines; lock files and foreign code are not written here.
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        if path.ends_with("Cargo.lock") || path.ends_with("package-lock.json") {
            continue;
        }
        if path.starts_with("vendor/") {
            continue;
        }
        findings.extend(places(path, &text));
        if path.ends_with(".rs") {
            findings.extend(rust_findings(&Source::new(path, &text)));
        }
        if MANIFESTS.contains(&path.as_str()) {
            findings.extend(dependency_reasons(path, &text));
        }
        let page = path.starts_with("docs/") && path.ends_with(".md");
        if page || path == "README.md" || path == "ARCHITECTURE.md" {
            findings.extend(named_files(path, &text, &files));
        }
    }
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// Each rule finds what it is for, and leaves alone what looks like it.
mod rules {
    use super::*;

    const DOC: &str = "//! A file.\n";

    /// Lines of `rule`'s findings in a file `path` of `text`, numbered from 1.
    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn blanking() {
        let check = |text: &str, code: &str, prose: &str| {
            assert_eq!(blank(text), (code.to_string(), prose.to_string()));
        };
        check("a // b\nc", "a     \nc", "a // b\nc");
        check("a /* b /* c */ d */ e", "a                   e", "a /* b /* c */ d */ e");
        check("f(\"{\\\"\")", "f(\"\"\"\"\")", "f(\"\"\"\"\")");
        check("r#\"a\"b\"# c", "\"\"\"\"\"\"\"\" c", "\"\"\"\"\"\"\"\" c");
        check("br\"\\\" c", "\"\"\"\"\" c", "\"\"\"\"\" c");
        check("'{' '\\'' b'}'", "\"\"\" \"\"\"\" \"\"\"\"", "\"\"\" \"\"\"\" \"\"\"\"");
        check("&'a str, 'b'", "&'a str, \"\"\"", "&'a str, \"\"\"");
        check("\"// n\" x", "\"\"\"\"\"\" x", "\"\"\"\"\"\" x");
        check("r#type = br", "r#type = br", "r#type = br");
    }

    #[test]
    fn long_files() {
        let long = format!("{DOC}{}", "static X: u8 = 0;\n".repeat(FILE_LINES_MAX + 1));
        assert_eq!(lines(file_length, "src/a.rs", &long), [1]);
        assert_eq!(lines(file_length, "tests/a.rs", &long), [1]);
        assert_eq!(lines(file_length, "src/a/tests.rs", &long), []);
        let comments = format!("{DOC}{}", "// why\n\n".repeat(FILE_LINES_MAX + 1));
        assert_eq!(lines(file_length, "src/a.rs", &comments), []);
        let tests = format!("{DOC}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(lines(file_length, "src/a.rs", &tests), []);
        let before = format!("#[cfg(test)]\nmod tests;\n{long}");
        assert_eq!(lines(file_length, "src/a.rs", &before), [1]);
    }

    #[test]
    fn long_functions() {
        let body = "    let _ = [0u8; 2];\n".repeat(FUNCTION_LINES_MAX - 2);
        let fits = format!("{DOC}fn f(a: [u8; 2]) {{\n{body}}}\n");
        let long = format!("{DOC}fn f(a: [u8; 2])\n{{\n{body}}}\n");
        assert_eq!(lines(function_length, "src/a.rs", &fits), []);
        assert_eq!(lines(function_length, "src/a.rs", &long), [2]);
        assert_eq!(lines(function_length, "bench-harness/src/a.rs", &long), [2]);
        assert_eq!(lines(function_length, "tests/a.rs", &long), []);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(lines(function_length, "src/a.rs", &tests), []);
        let declared = format!("trait T {{\n    fn f(a: fn(u8));\n{body}}}\n");
        assert_eq!(lines(function_length, "src/a.rs", &declared), []);
        let brace = format!("fn f() {{\n    g(\"}}\", '}}'); // }}\n{body}{body}}}\n");
        assert_eq!(lines(function_length, "src/a.rs", &brace), [1]);
    }

    #[test]
    fn long_lines() {
        let text = format!("{}\n{}\n", "ä".repeat(COLUMNS_MAX), "ä".repeat(COLUMNS_MAX + 1));
        assert_eq!(lines(columns, "tests/a.rs", &text), [2]);
    }

    #[test]
    fn layers_that_look_up() {
        for bad in [
            "use crate::hub::Hub;",
            "use crate::{error::Error, shard};",
            "pub use crate::{\n    server::Server,\n};",
            "fn f() { crate::shard::ring::f() }",
            "use std::{io, net::{TcpStream}};",
            "fn f(s: std::net::TcpListener) {}",
            "use io_uring::IoUring;",
            "use glommio;",
            "fn f() { std::time::Instant::now(); }",
            "fn f() { Instant::now(); }",
            "fn f() { log::info!(\"x\"); }",
            "use log::info;",
        ] {
            assert_eq!(lines(layers, "src/proto/a.rs", bad), [1], "{bad}");
        }
        for bad in ["use std::cell::{Cell, RefCell};", "use crate::shard;", "glommio::f();"] {
            assert_eq!(lines(layers, "src/hub/a.rs", bad), [1], "{bad}");
            assert_eq!(lines(layers, "src/shard/a.rs", bad), [], "{bad}");
        }
        for bad in
            ["use crate::hub::id::Id;", "use crate::{Server, shard::Shard};", "glommio::f();"]
        {
            assert_eq!(lines(layers, "src/gateway/a.rs", bad), [1], "{bad}");
        }
        for good in
            ["use crate::{Raw, Server};", "use super::hub::A;", "use std::net::TcpListener;"]
        {
            assert_eq!(lines(layers, "src/gateway/a.rs", good), [], "{good}");
        }
        for good in [
            "use std::rc::Rc;\nuse crate::proto::{self, http};\nlet shard = 1; // crate::shard",
            "fn f(now: Instant, catalog: u8) { catalog::f(); dialog::f(); shard(\"RefCell\") }",
            "#[cfg(test)]\nmod tests {\n    use std::cell::RefCell;\n}",
            "use crate::error::Error;\nuse crate::options::Limits;",
        ] {
            assert_eq!(lines(layers, "src/hub/a.rs", good), [], "{good}");
        }
    }

    #[test]
    fn unsafe_elsewhere() {
        let text = "// unsafe\n#![forbid(unsafe_code)]\nfn f() { unsafe { g(\"unsafe\") } }\n";
        assert_eq!(lines(unsafe_word, "src/shard/mod.rs", text), [3]);
        assert_eq!(lines(unsafe_word, "tests/a.rs", text), [3]);
        assert_eq!(lines(unsafe_word, "src/shard/ring.rs", text), []);
        assert_eq!(lines(unsafe_word, "bench-harness/src/sys.rs", text), []);
    }

    #[test]
    fn words() {
        let text = "fn f() { g().unwrap(); }\n// TODO: more\nstruct RoomManager;\n\
            enum HelperKind {}\n/* FIXME */\nlet s = \"TODO .unwrap() struct Helper\";\n\
            fn manager() { Manager::new(); g().unwrap_or(1); }\n\
            #[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }\n";
        let found = lines(banned_words, "src/a.rs", text);
        assert_eq!(found, [1, 2, 5, 3, 4]);
        assert_eq!(lines(banned_words, "tests/a.rs", "fn f() { g().unwrap(); }"), []);
    }

    #[test]
    fn file_names_and_first_lines() {
        assert_eq!(lines(file_name, "src/hub/utils.rs", DOC), [1]);
        assert_eq!(lines(file_name, "src/hub/rooms.rs", DOC), []);
        assert_eq!(lines(module_doc, "src/hub/rooms.rs", "use std::io;\n//! Late.\n"), [1]);
        assert_eq!(lines(module_doc, "src/hub/rooms.rs", ""), [1]);
        assert_eq!(lines(module_doc, "src/hub/rooms.rs", DOC), []);
        assert_eq!(lines(module_doc, "build.rs", ""), []);
    }

    #[test]
    fn dependencies() {
        let lines = |text: &str| -> Vec<usize> {
            dependency_reasons("Cargo.toml", text).iter().map(|finding| finding.line).collect()
        };
        let good = "[package]\nname = \"x\"\n[dependencies]\n# Why.\na = \"1\"\n# Why.\nb = { \
            version = \"1\",\n  features = [\n    \"c\",\n  ] }\n\n[lints.rust]\nunsafe_code = 1\n\
            # Why.\n[dev-dependencies.d]\nversion = \"1\"\n";
        assert_eq!(lines(good), []);
        assert_eq!(lines("[dependencies]\na = \"1\"\n# Why.\nb = \"1\"\nc = \"1\"\n"), [2, 5]);
        assert_eq!(lines("[dev-dependencies]\n# Why.\n\na = \"1\"\n"), [4]);
        assert_eq!(lines("[target.'cfg(unix)'.dependencies]\na.workspace = true\n"), [2]);
        assert_eq!(lines("[x]\n\n[dependencies.a]\nversion = \"1\"\n"), [3]);
    }

    #[test]
    fn files_in_documents() {
        let files = ["src/hub/mod.rs", "docs/a.md", "scripts/test.sh", ".ci/run", "Cargo.toml"];
        let files = files.map(str::to_string).into();
        let found = |text: &str| named_files("README.md", text, &files).len();
        for good in [
            "`src/hub/mod.rs`, `hub/mod.rs`, `mod.rs`, `src/hub/`, `hub`, `src/`, `docs/a.md`",
            "`scripts/test.sh --all` `./scripts/test.sh` `.ci/run` `Cargo.toml` `mod.rs:12`",
            "`src/hub/mod.rs::Hub` `/socket.io/` `text/plain` `msg/s` `src/*.rs` `.rs` `a::b/c`",
            "```\n`src/gone.rs`\n```\nsrc/gone.rs without backticks",
            "`http://127.0.0.1:3000/x` `/proc/self/limits` `127.0.0.1/8`",
        ] {
            assert_eq!(found(good), 0, "{good}: {:?}", named_files("", good, &files));
        }
        for bad in ["`src/gone.rs`", "`gone.md`", "`src/gone`", "`scripts/gone.sh x`", "`b.mjs`"] {
            assert_eq!(found(bad), 1, "{bad}");
        }
        assert_eq!(named_files("docs/a.md", "\n`a` `x.rs`\n", &files)[0].line, 2);
    }

    #[test]
    fn places_of_one_machine() {
        let line = |text: &str| places("a.sh", text).first().map(|finding| finding.line);
        for bad in [
            concat!("cd /wo", "rk/main"),
            concat!("\"/ro", "ot/.cargo\""),
            concat!("in /tm", "p/wt/ops"),
            concat!("https://static.crates", ".io/x"),
            concat!("registry.npmjs", ".org"),
        ] {
            assert_eq!(line(&format!("\n{bad}\n")), Some(2), "{bad}");
        }
        for good in ["cd ./work/x", "src/work/a.rs", "$x/root/y", "/tmp/a", "${root}/work/"] {
            assert_eq!(line(good), None, "{good}");
        }
    }

    #[test]
    fn a_finding_names_file_line_and_rule() {
        let finding = Source::new("src/a.rs", "").finding(6, "too long");
        assert_eq!(finding.to_string(), "src/a.rs:7: too long");
    }
}
