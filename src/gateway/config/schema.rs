//! The schema of the configuration as the loader and the documentation read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use serde_json::Value;

use super::Config;

/// The schema of all keys.
pub(super) struct Schema(Value);

/// What may stand at one place of the configuration.
#[derive(Default)]
pub(super) struct Shape<'a> {
    /// `string`, `integer`, `array` and so on.
    pub(super) types: BTreeSet<&'a str>,
    /// The keys of a table; several schemas where variants share one.
    pub(super) properties: BTreeMap<&'a str, Vec<&'a Value>>,
    /// Keys that have to be there.
    pub(super) required: BTreeSet<&'a str>,
    /// The entries of a list.
    pub(super) items: Vec<&'a Value>,
    /// The values of a table with keys of any name.
    pub(super) entries: Vec<&'a Value>,
    /// The only texts that are allowed, if there are such.
    pub(super) texts: Vec<&'a str>,
    /// A unit, or another name for the kind of text or number.
    pub(super) format: Option<&'a str>,
    /// No other keys than `properties`.
    is_closed: bool,
}

impl Shape<'_> {
    /// Whether a key of that name may not stand here.
    pub(super) fn is_strange(&self, key: &str) -> bool {
        self.is_closed && !self.properties.contains_key(key) && self.entries.is_empty()
    }

    /// A table with keys of its own.
    pub(super) fn is_table(&self) -> bool {
        let is_other = |kind: &&&str| !matches!(**kind, "object" | "null");
        !self.properties.is_empty() && !self.types.iter().any(|kind| is_other(&kind))
    }
}

/// One step from the root to a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a value, such as `namespace[0].name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    pub(super) fn key(&self, key: &str) -> Path {
        self.with(Step::Key(key.to_owned()))
    }

    pub(super) fn with(&self, step: Step) -> Path {
        Path(self.0.iter().cloned().chain([step]).collect())
    }

    pub(super) fn parent(&self) -> Path {
        Path(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// The path that a text such as `a.b[0].c` writes; `None` for other texts.
    pub(super) fn parse(text: &str) -> Option<Path> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (key, mut indices) = part.split_at(part.find('[').unwrap_or(part.len()));
            let is_word = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if key.is_empty() || !key.chars().all(is_word) {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            while let Some(rest) = indices.strip_prefix('[') {
                let (index, rest) = rest.split_once(']')?;
                steps.push(Step::Index(index.parse().ok()?));
                indices = rest;
            }
            if !indices.is_empty() {
                return None;
            }
        }
        Some(Path(steps))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Schema {
    pub(super) fn get() -> &'static Schema {
        static SCHEMA: LazyLock<Schema> =
            LazyLock::new(|| Schema(schemars::schema_for!(Config).to_value()));
        &SCHEMA
    }

    /// As JSON Schema.
    pub(super) fn value(&self) -> &Value {
        &self.0
    }

    pub(super) fn root(&self) -> Shape<'_> {
        self.shape(&[&self.0])
    }

    /// All that one of these schemas allows.
    pub(super) fn shape<'a>(&'a self, nodes: &[&'a Value]) -> Shape<'a> {
        let mut shape = Shape::default();
        for node in nodes {
            self.gather(node, &mut shape);
        }
        shape
    }

    /// The shape at a path.
    pub(super) fn at(&self, path: &Path) -> Option<Shape<'_>> {
        let mut shape = self.root();
        for step in &path.0 {
            let nodes = match step {
                Step::Key(key) => shape.properties.get(key.as_str()).unwrap_or(&shape.entries),
                Step::Index(_) => &shape.items,
            };
            if nodes.is_empty() {
                return None;
            }
            shape = self.shape(nodes);
        }
        Some(shape)
    }

    fn gather<'a>(&'a self, node: &'a Value, shape: &mut Shape<'a>) {
        if let Some(reference) = node["$ref"].as_str() {
            let target = self.0.pointer(reference.trim_start_matches('#'));
            target.into_iter().for_each(|target| self.gather(target, shape));
        }
        for key in ["allOf", "anyOf", "oneOf"] {
            let parts = node[key].as_array().into_iter().flatten();
            parts.for_each(|part| self.gather(part, shape));
        }
        match &node["type"] {
            Value::String(kind) => drop(shape.types.insert(kind)),
            Value::Array(kinds) => shape.types.extend(kinds.iter().filter_map(Value::as_str)),
            _ => {}
        }
        let known = |format: &&str| matches!(*format, "time with unit" | "bytes");
        shape.format = shape.format.or(node["format"].as_str().filter(known));
        let listed = node["enum"].as_array().into_iter().flatten();
        shape.texts.extend(listed.chain([&node["const"]]).filter_map(Value::as_str));
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            shape.properties.entry(key).or_default().push(property);
        }
        let required = node["required"].as_array().into_iter().flatten();
        shape.required.extend(required.filter_map(Value::as_str));
        shape.items.extend(node.get("items"));
        for key in ["additionalProperties", "unevaluatedProperties"] {
            match &node[key] {
                Value::Bool(is_open) => shape.is_closed |= !is_open,
                entries @ Value::Object(_) => shape.entries.push(entries),
                _ => {}
            }
        }
    }

    /// What is said of a key, or of what it refers to.
    pub(super) fn said<'a>(&'a self, node: &'a Value) -> Option<&'a str> {
        let own = node["description"].as_str();
        own.or_else(|| {
            let target = self.0.pointer(node["$ref"].as_str()?.trim_start_matches('#'))?;
            target["description"].as_str()
        })
    }

    /// Every path to a key, lists entered at index 0; in the order of the names.
    pub(super) fn paths(&self) -> Vec<Path> {
        let mut found = Vec::new();
        self.walk(&Path::default(), &self.root(), &mut found);
        found
    }

    fn walk(&self, path: &Path, shape: &Shape<'_>, found: &mut Vec<Path>) {
        for (key, nodes) in &shape.properties {
            let (path, inner) = (path.key(key), self.shape(nodes));
            let items = self.shape(&inner.items);
            // A table of conditions may contain itself; its own keys have been said then.
            if path.0.len() < 12 {
                self.walk(&path, &inner, found);
                self.walk(&path.with(Step::Index(0)), &items, found);
            }
            found.push(path);
        }
    }
}

/// The one of `known` that is most like `word`, if any is like it.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(word, name);
    let scored = known.into_iter().map(|name| (likeness(name), name));
    let best = scored.max_by(|left, right| left.0.total_cmp(&right.0))?;
    (best.0 >= 0.55).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_they_are_read() {
        for text in ["a", "server.listen[1]", "namespace[0].route[12].do"] {
            assert_eq!(Path::parse(text).expect(text).to_string(), text);
        }
        for text in ["", "a b", "a.", "a[x]", "namespace \"/\""] {
            assert_eq!(Path::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_of_several() {
        let known = ["ping_timeout", "ping_interval"];
        assert_eq!(nearest("ping_intervall", known), Some("ping_interval"));
        assert_eq!(nearest("colour", ["ping_timeout", "listen"]), None);
    }

    #[test]
    fn keys_of_all_parts_are_found() {
        let paths: Vec<String> = Schema::get().paths().iter().map(Path::to_string).collect();
        for path in ["server.listen", "server.cors.origins", "namespace[0].name", "api.listen"] {
            assert!(paths.iter().any(|known| known == path), "{path} in {paths:?}");
        }
        assert!(Schema::get().root().is_strange("sever"));
    }
}
