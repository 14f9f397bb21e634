//! The configuration as it was written: file, environment and flags laid over each other, and the
//! place of each key, for errors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::schema::{Path, Schema, Shape, Step, nearest};

/// What was set, and where.
#[derive(Default)]
pub(super) struct Source {
    /// Name and text of the file.
    file: Option<(String, String)>,
    /// All that was set.
    pub(super) tree: Value,
    /// Variables and flags, by the path that they set.
    origins: BTreeMap<Path, String>,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// It is not to be read, or no TOML.
    pub(super) fn read(path: Option<&std::path::Path>) -> Result<Source, String> {
        let Some(path) = path else {
            return Ok(Source { tree: Value::Object(Map::new()), ..Source::default() });
        };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        Source::parse(name, text)
    }

    pub(super) fn parse(name: String, text: String) -> Result<Source, String> {
        let tree = toml::from_str::<Value>(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            // No more than the message: the line itself may hold a secret.
            format!("{name}:{line}: {}", error.message().trim())
        })?;
        Ok(Source { file: Some((name, text)), tree, origins: BTreeMap::new() })
    }

    /// Lays environment variables over what there is. Adds to `problems` values that their key
    /// cannot have, and entries of lists that do not follow on the others. Returns variables that
    /// look as if they were meant for the gateway, but name no key.
    pub(super) fn overlay_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<String>,
    ) -> Vec<String> {
        let schema = Schema::get();
        let (mut set, mut unknown) = (BTreeMap::new(), Vec::new());
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| !OTHERS.contains(rest)) else {
                continue;
            };
            match find_variable(schema, &Path::default(), &schema.root(), rest) {
                Some(path) => drop(set.insert(path, (name, text))),
                None => unknown.extend(doubt(schema, &name)),
            }
        }
        for (path, (name, text)) in set {
            let shape = schema.at(&path).unwrap_or_default();
            let outcome = match value_of(schema, &shape, &text) {
                Some(value) => self.set(&path, value, name),
                None => Err(format!("{name}: {path}: {}", expected(&shape))),
            };
            problems.extend(outcome.err());
        }
        unknown
    }

    /// Sets one value; `origin` is the variable or flag that says it.
    ///
    /// # Errors
    /// An entry of a list that does not follow on the others.
    pub(super) fn set(&mut self, path: &Path, value: Value, origin: String) -> Result<(), String> {
        let schema = Schema::get();
        let (mut place, mut here) = (&mut self.tree, Path::default());
        for step in &path.0 {
            let next = here.with(step.clone());
            match step {
                Step::Key(key) => {
                    if !place.is_object() {
                        *place = Value::Object(Map::new());
                    }
                    // A list that is not written anywhere begins as its default.
                    place = &mut place[key.as_str()];
                    if place.is_null() {
                        *place = default_of(schema, &next).unwrap_or(Value::Null);
                    }
                }
                Step::Index(index) => {
                    if !place.is_array() {
                        *place = Value::Array(Vec::new());
                    }
                    let Value::Array(entries) = place else { return Ok(()) };
                    if *index > entries.len() {
                        let next = entries.len();
                        return Err(format!("{origin}: {here}: the next one is number {next}"));
                    }
                    if *index == entries.len() {
                        entries.push(Value::Null);
                    }
                    place = &mut entries[*index];
                }
            }
            here = next;
        }
        *place = value;
        self.origins.insert(path.clone(), origin);
        Ok(())
    }

    /// Takes out what no key has a place for; says each of them, with the nearest key there is.
    pub(super) fn take_unknown(&mut self) -> Vec<String> {
        let (schema, mut found) = (Schema::get(), Vec::new());
        unknown_keys(schema, &Path::default(), &schema.root(), &self.tree, &mut found);
        let mut said = Vec::new();
        for path in found {
            let text = unknown_key(schema, &path);
            said.push(self.at(&path, &text));
            self.take(&path);
        }
        said
    }

    /// Takes a value out, so that its default counts. False if it cannot be: the places of the
    /// entries behind it have to stay what they are in the file.
    pub(super) fn take(&mut self, path: &Path) -> bool {
        let Some((last, before)) = path.0.split_last() else { return false };
        match (last, look_up(&mut self.tree, before)) {
            (Step::Key(key), Some(Value::Object(table))) => table.remove(key).is_some(),
            (Step::Index(index), Some(Value::Array(list))) if *index + 1 == list.len() => {
                list.pop().is_some()
            }
            _ => false,
        }
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Value> {
        path.0.iter().try_fold(&self.tree, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    /// A message with the place of its key before it: file and line, or the variable or flag.
    pub(super) fn at(&self, path: &Path, message: &str) -> String {
        // Itself, or the whole that it is a part of.
        let mut wholes = (1..=path.0.len()).rev().map(|count| Path(path.0[..count].to_vec()));
        if let Some(origin) = wholes.find_map(|whole| self.origins.get(&whole)) {
            return format!("{origin}: {path}: {message}");
        }
        // A table of which only a part comes from elsewhere.
        let inner = self.origins.iter().find(|(set, _)| set.0.starts_with(&path.0));
        let colon = if path.0.is_empty() { "" } else { ": " };
        match (&self.file, self.line(path), inner) {
            (Some((name, _)), Some(line), _) => format!("{name}:{line}: {path}{colon}{message}"),
            (_, _, Some((_, origin))) => format!("{origin}: {path}{colon}{message}"),
            (Some((name, _)), None, None) => format!("{name}: {path}{colon}{message}"),
            (None, _, None) => format!("{path}{colon}{message}"),
        }
    }

    /// The same for a message that begins with its key, or with `namespace "NAME": `.
    pub(super) fn locate(&self, message: &str) -> String {
        let (path, rest) = self.path_of(message);
        if path.0.is_empty() { message.to_owned() } else { self.at(&path, rest) }
    }

    fn path_of<'a>(&self, message: &'a str) -> (Path, &'a str) {
        if let Some((name, rest)) =
            message.strip_prefix("namespace \"").and_then(|rest| rest.split_once("\": "))
        {
            let list = self.tree["namespace"].as_array().into_iter().flatten();
            let at = list.enumerate().filter(|(_, entry)| entry["name"] == *name).last();
            let Some((index, _)) = at else { return (Path::default(), message) };
            let path = Path::default().key("namespace").with(Step::Index(index));
            let inner = led(rest);
            return match inner {
                Some((inner, text)) => (Path(path.0.into_iter().chain(inner.0).collect()), text),
                None => (path, rest),
            };
        }
        let is_key = |path: &Path| Schema::get().at(path).is_some();
        led(message).filter(|(path, _)| is_key(path)).unwrap_or((Path::default(), message))
    }

    /// The line of the deepest step of a path that the file has.
    fn line(&self, path: &Path) -> Option<usize> {
        let (_, text) = self.file.as_ref()?;
        let table = DeTable::parse(text).ok()?;
        let mut steps = path.0.iter();
        let Some(Step::Key(first)) = steps.next() else { return None };
        let (key, mut value) = table.get_ref().get_key_value(first.as_str())?;
        let mut found = key.span().start;
        for step in steps {
            let next = match (step, value.get_ref()) {
                (Step::Key(key), DeValue::Table(table)) => {
                    table.get_key_value(key.as_str()).map(|(key, value)| (key.span().start, value))
                }
                (Step::Index(index), DeValue::Array(list)) => {
                    list.get(*index).map(|value| (value.span().start, value))
                }
                _ => None,
            };
            let Some((start, inner)) = next else { break };
            (found, value) = (start, inner);
        }
        Some(line_of(text, found))
    }
}

/// What the names of all variables begin with.
const PREFIX: &str = "CORECAST_";
/// Variables that are no keys.
const OTHERS: [&str; 1] = ["CONFIG"];

/// A text that begins with a path, and what comes behind it.
fn led(text: &str) -> Option<(Path, &str)> {
    let (key, rest) = text.split_once(": ")?;
    Some((Path::parse(key)?, rest))
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

fn look_up<'a>(tree: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(tree, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

/// The default of a list, as the schema says it.
fn default_of(schema: &Schema, path: &Path) -> Option<Value> {
    let Some(Step::Key(key)) = path.0.last() else { return None };
    let nodes = schema.at(&path.parent())?.properties.remove(key.as_str())?;
    let default = nodes.iter().find_map(|node| node.get("default"));
    default.filter(|value| value.is_array()).cloned()
}

/// The key that the rest of a variable's name means: `SERVER_PING_INTERVAL`, `NAMESPACE_0_NAME`.
fn find_variable(schema: &Schema, path: &Path, shape: &Shape<'_>, rest: &str) -> Option<Path> {
    if rest.is_empty() {
        return Some(path.clone());
    }
    for (key, nodes) in &shape.properties {
        let Some(after) = rest.strip_prefix(&variable_part(key)) else { continue };
        let path = path.key(key);
        if after.is_empty() {
            return Some(path);
        }
        let (inner, shape) = (after.strip_prefix('_'), schema.shape(nodes));
        let found = inner.and_then(|after| find_variable(schema, &path, &shape, after));
        if found.is_some() {
            return found;
        }
    }
    if !shape.items.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let index = rest[..digits].parse().ok()?;
        let after = rest[digits..].strip_prefix('_').unwrap_or(&rest[digits..]);
        let path = path.with(Step::Index(index));
        return find_variable(schema, &path, &schema.shape(&shape.items), after);
    }
    let is_free = shape.properties.is_empty() && !shape.entries.is_empty();
    is_free.then(|| path.key(&rest.to_ascii_lowercase()))
}

fn variable_part(key: &str) -> String {
    key.to_ascii_uppercase().replace('-', "_")
}

/// The variable that sets a key.
pub(super) fn variable(path: &Path) -> String {
    let parts = path.0.iter().map(|step| match step {
        Step::Key(key) => variable_part(key),
        Step::Index(index) => index.to_string(),
    });
    format!("{PREFIX}{}", parts.collect::<Vec<_>>().join("_"))
}

/// What to say of a variable without a key. Other programs have variables with this prefix, and so
/// have services of Kubernetes, so only those are named that begin as a table does or are nearly
/// right.
fn doubt(schema: &Schema, name: &str) -> Option<String> {
    let known: Vec<String> = schema.paths().iter().map(variable).collect();
    let near = nearest(name, known.iter().map(String::as_str));
    let is_near = |near: &&str| strsim::normalized_damerau_levenshtein(name, near) >= 0.8;
    if let Some(near) = near.filter(is_near) {
        return Some(format!("{name}: there is no such key; did you mean {near}?"));
    }
    // `CORECAST_AUTH_SECRET` is meant for nobody else, and without it everybody may come.
    let rest = name.strip_prefix(PREFIX)?;
    let root = schema.root();
    let mut tables = root.properties.keys().map(|key| variable_part(key));
    let is_table = tables.any(|table| {
        rest.strip_prefix(&table).is_some_and(|rest| rest.starts_with('_') && !is_service(rest))
    });
    is_table.then(|| format!("{name}: there is no such key, so it is ignored"))
}

/// Whether the end of a variable is one of those that Kubernetes makes for a service.
fn is_service(end: &str) -> bool {
    end == "_PORT" || ["_SERVICE_", "_PORT_"].iter().any(|start| end.starts_with(start))
}

/// The value that a variable's text means where its key may have this shape.
fn value_of(schema: &Schema, shape: &Shape<'_>, text: &str) -> Option<Value> {
    let may = |kind| shape.types.contains(kind);
    if shape.types.is_empty() && shape.texts.is_empty() {
        // Anything may be there: what is no JSON is a text.
        return Some(serde_json::from_str(text).unwrap_or_else(|_| text.into()));
    }
    if may("string") || !shape.texts.is_empty() {
        return Some(text.into());
    }
    if may("boolean") {
        return text.parse::<bool>().ok().map(Value::from);
    }
    if may("integer") || may("number") {
        return serde_json::from_str::<Value>(text).ok().filter(Value::is_number);
    }
    if may("array") && !text.trim_start().starts_with('[') {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let item = schema.shape(&shape.items);
        return entries.map(|entry| value_of(schema, &item, entry)).collect();
    }
    let value = serde_json::from_str::<Value>(text).ok()?;
    Some(value).filter(|value| value.is_array() || value.is_object())
}

fn expected(shape: &Shape<'_>) -> &'static str {
    let may = |kind| shape.types.contains(kind);
    match () {
        () if may("boolean") => "true or false is wanted",
        () if may("integer") => "a whole number is wanted",
        () if may("number") => "a number is wanted",
        () if may("array") => "a list is wanted, separated by commas or as JSON",
        () => "a JSON object is wanted",
    }
}

fn unknown_keys(
    schema: &Schema,
    path: &Path,
    shape: &Shape<'_>,
    value: &Value,
    found: &mut Vec<Path>,
) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = path.key(key);
                let nodes = shape.properties.get(key.as_str()).unwrap_or(&shape.entries);
                if !nodes.is_empty() {
                    unknown_keys(schema, &path, &schema.shape(nodes), value, found);
                } else if shape.is_strange(key) {
                    found.push(path);
                }
            }
        }
        Value::Array(list) => {
            let shape = schema.shape(&shape.items);
            for (index, value) in list.iter().enumerate() {
                unknown_keys(schema, &path.with(Step::Index(index)), &shape, value, found);
            }
        }
        _ => {}
    }
}

fn unknown_key(schema: &Schema, path: &Path) -> String {
    let Some(Step::Key(key)) = path.0.last() else { return String::new() };
    let shape = schema.at(&path.parent()).unwrap_or_default();
    let near = nearest(key, shape.properties.keys().copied()).map(str::to_owned);
    // The right key in the wrong table.
    let elsewhere = || {
        let is_same = |path: &Path| matches!(path.0.last(), Some(Step::Key(other)) if other == key);
        let paths = schema.paths().into_iter().filter(is_same).min_by_key(|path| path.0.len());
        paths.map(|path| path.to_string().replace("[0]", ""))
    };
    let last = || shape.properties.keys().copied().collect::<Vec<_>>().join(", ");
    match near.or_else(elsewhere) {
        Some(near) => format!("there is no such key; did you mean \"{near}\"?"),
        None => format!("there is no such key; known here: {}", last()),
    }
}
