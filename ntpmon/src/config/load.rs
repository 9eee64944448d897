//! From the file, the environment and the flags to one [`Config`]. Each setting is read and checked
//! by itself, so that every fault is found in one go and each is told with where it stands; also
//! one that a later source puts right.

mod lists;

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use self::lists::Placed;
pub use self::lists::Shown;
use super::{
    Config, DEFAULT_FILE, Entry,
    entries::{LISTS, List, is_section},
    keys::{CONFIG_VARIABLE, ELSEWHERE, KEYS, Key, Kind, PREFIX, SHORT, similar},
};
use crate::alert::rule::Rule;

/// Where settings come from, the later over the earlier.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, which must be there; nothing: [`DEFAULT_FILE`], if it is there.
    pub file: Option<PathBuf>,
    /// The environment's variables; those that are not ours are passed over.
    pub environment: BTreeMap<OsString, OsString>,
    /// What the command line says.
    pub flags: Vec<Flag>,
}

/// A flag that sets a key.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As it is typed: `--listen`.
    pub name: &'static str,
    /// The key that it sets.
    pub key: &'static str,
    /// What it sets it to.
    pub value: Value,
}

impl Sources {
    /// This process's environment, the file that it or the command line names, and flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let environment: BTreeMap<_, _> = env::vars_os().collect();
        let named = || {
            let name = environment.get(OsStr::new(CONFIG_VARIABLE))?;
            (!name.is_empty()).then(|| PathBuf::from(name))
        };
        Self {
            file: file.or_else(named),
            environment,
            flags,
        }
    }
}

/// Where a setting stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is the default.
    Default,
    /// On a line of a file.
    File(PathBuf, usize),
    /// In a variable of the environment.
    Environment(String),
    /// In a flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path, line) => write!(formatter, "{}:{line}", path.display()),
            Self::Environment(name) => write!(formatter, "environment: {name}"),
            Self::Flag(name) => write!(formatter, "flag: {name}"),
        }
    }
}

/// A configuration, and how it came to be.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What is not wrong and probably not meant.
    pub warnings: Vec<String>,
    sources: BTreeMap<&'static str, Source>,
    lists: BTreeMap<&'static str, Vec<Placed>>,
}

impl Loaded {
    /// Where a key's value comes from.
    #[must_use]
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }

    /// A key's value, as the file would have it; nothing where it is not set.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value> {
        // Only paths that are not UTF-8 cannot be written, and none was read.
        let whole = Value::try_from(&self.config).ok()?;
        key.split('.')
            .try_fold(&whole, |value, part| value.get(part))
            .cloned()
    }
}

/// One thing that is wrong, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// All that is wrong, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Faults {
    /// Each by itself.
    #[must_use]
    pub fn all(&self) -> &[Fault] {
        &self.0
    }
}

impl Config {
    /// Reads every source, checks every value, and merges them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Loaded, Faults> {
        let mut merge = Merge::default();
        let file = merge.file(sources.file.as_deref());
        merge.environment(&sources.environment);
        for flag in &sources.flags {
            merge.set(flag.key, flag.value.clone(), Source::Flag(flag.name));
        }
        merge.finish(file)
    }
}

/// What was gathered so far.
#[derive(Debug, Default)]
struct Merge {
    settings: BTreeMap<&'static str, (Value, Source)>,
    lists: BTreeMap<&'static str, Vec<Placed>>,
    warnings: Vec<String>,
    faults: Vec<Fault>,
}

impl Merge {
    /// Returns the file that was read.
    fn file(&mut self, named: Option<&Path>) -> Option<PathBuf> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => {
                self.text(path, &text);
                Some(path.to_path_buf())
            }
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.fault(format!(
                    "reading the configuration {}: {error}",
                    path.display()
                ));
                None
            }
        }
    }

    fn text(&mut self, path: &Path, text: &str) {
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(1, |span| line_of(text, &span));
            // What is wrong, and what would be right, are on lines of their own.
            let message = error.message().trim().replace('\n', ", ");
            self.fault(format!("{}:{line}: {message}", path.display()));
        }
        // What was left out where the text made no sense would be told as something else.
        if errors.is_empty()
            && let Ok(values) = text.parse::<Table>()
        {
            let place = Place { path, text };
            self.section(place, "", document.get_ref(), &values);
        }
    }

    fn section(&mut self, place: Place<'_>, section: &str, spans: &DeTable<'_>, values: &Table) {
        for (name, span) in spans {
            let Some(value) = values.get(name.get_ref().as_ref()) else {
                continue;
            };
            let path = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            let source = place.source(name.span());
            if let Some(key) = Key::find(&path) {
                self.set(key.path, value.clone(), source);
            } else if let Some(list) = List::find(&path) {
                self.list(place, list, (span.get_ref(), value), &source);
            } else if !is_section(&path) {
                self.unknown(&path, section, &source);
            } else if let (DeValue::Table(spans), Value::Table(values)) = (span.get_ref(), value) {
                self.section(place, &path, spans, values);
            } else {
                self.fault(wrong(
                    &path,
                    value,
                    &source,
                    &format!("a section, [{path}]"),
                ));
            }
        }
    }

    fn unknown(&mut self, path: &str, section: &str, source: &Source) {
        let lists = LISTS.iter().map(|list| list.path);
        let paths = KEYS.iter().map(|key| key.path).chain(lists);
        let mut within: Vec<&str> = Vec::new();
        for path in paths.clone() {
            let rest = match section {
                "" => Some(path),
                _ => path
                    .strip_prefix(section)
                    .and_then(|rest| rest.strip_prefix('.')),
            };
            let name = rest.map(|rest| rest.split_once('.').map_or(rest, |(name, _)| name));
            within.extend(name.filter(|name| !within.contains(name)));
        }
        let name = path.rsplit('.').next().unwrap_or(path);
        // Keys, and the sections that they are in.
        let whole = paths.flat_map(|path| {
            let ends = path.match_indices('.').map(|(at, _)| at);
            ends.chain([path.len()]).filter_map(|end| path.get(..end))
        });
        let meant = similar(name, within.iter().copied())
            .map(|it| match section {
                "" => it.to_owned(),
                _ => format!("{section}.{it}"),
            })
            .or_else(|| {
                // The right name in the wrong section.
                let ending = format!(".{name}");
                let mut same = whole.clone().filter(|it| it.ends_with(&ending));
                same.next().map(str::to_owned)
            })
            .or_else(|| similar(path, whole).map(str::to_owned));
        let hint = meant.map_or_else(
            || format!("expected one of {}", within.join(", ")),
            |it| format!("did you mean {it}?"),
        );
        self.fault(format!("{path} in {source}: there is no such key: {hint}"));
    }

    fn environment(&mut self, environment: &BTreeMap<OsString, OsString>) {
        let long: BTreeMap<String, &'static Key> =
            KEYS.iter().map(|key| (key.variable(), key)).collect();
        let mut short = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            // As if it were not there: so a unit or a script takes one back.
            if value.is_empty() || ELSEWHERE.contains(&name) {
                continue;
            }
            if let Some(key) = long.get(name) {
                self.variable(key, name, value);
            } else if let Some((_, path)) = SHORT.iter().find(|(it, _)| *it == name) {
                short.push((name, path, value));
            } else {
                let meant = similar(name, long.keys().map(String::as_str));
                let hint = meant.map_or_else(String::new, |it| format!(": did you mean {it}?"));
                self.warnings
                    .push(format!("the environment's {name} sets nothing{hint}"));
            }
        }
        for (name, path, value) in short {
            if let Some((_, Source::Environment(other))) = self.settings.get(path) {
                self.warnings.push(format!(
                    "the environment has both {other} and {name}: {name} counts"
                ));
            }
            if let Some(key) = Key::find(path) {
                self.variable(key, name, value);
            }
        }
    }

    fn variable(&mut self, key: &'static Key, name: &str, value: &OsStr) {
        let source = Source::Environment(name.to_owned());
        match value.to_str() {
            Some(text) => self.set(key.path, key.kind.read(text), source),
            None => {
                let shown = Value::String(value.to_string_lossy().into_owned());
                self.fault(wrong(key.path, &shown, &source, "text in UTF-8"));
            }
        }
    }

    /// Takes a setting that is right by itself.
    fn set(&mut self, path: &'static str, value: Value, source: Source) {
        let right = alone(path, &value).is_some_and(|config| config.check().is_empty());
        if right {
            self.settings.insert(path, (value, source));
            return;
        }
        let expected = Key::find(path).map_or("a key that there is", |key| key.expected);
        self.fault(wrong(path, &value, &source, expected));
    }

    fn finish(mut self, file: Option<PathBuf>) -> Result<Loaded, Faults> {
        self.conflicts();
        let mut whole = Table::new();
        for (path, (value, _)) in &self.settings {
            put(&mut whole, path, value.clone());
        }
        for (path, entries) in &self.lists {
            let entries = entries.iter().map(|it| Value::Table(it.values.clone()));
            put(&mut whole, path, Value::Array(entries.collect()));
        }
        let config = match Config::deserialize(Value::Table(whole)) {
            Ok(mut config) => {
                config.tidy();
                for (set, missing) in config.check_together() {
                    if let Some((value, source)) = self.settings.get(set) {
                        let expected = format!("{missing} beside it");
                        let fault = wrong(set, value, source, &expected);
                        self.faults.push(Fault(fault));
                    }
                }
                if self.faults.is_empty() {
                    let conflicts = config.alert.conflicts();
                    self.conflicts_of(Rule::LIST, &conflicts);
                }
                Some(config)
            }
            // Each was read by itself before, and what an entry lacks is told.
            Err(error) => {
                if self.faults.is_empty() {
                    self.fault(error.message().to_owned());
                }
                None
            }
        };
        match config {
            Some(config) if self.faults.is_empty() => Ok(Loaded {
                config,
                file,
                warnings: self.warnings,
                sources: self
                    .settings
                    .into_iter()
                    .map(|(path, (_, source))| (path, source))
                    .collect(),
                lists: self.lists,
            }),
            _ => Err(Faults(self.faults)),
        }
    }

    fn fault(&mut self, message: String) {
        self.faults.push(Fault(message));
    }
}

/// Where in which file something is.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn source(&self, span: Range<usize>) -> Source {
        Source::File(self.path.to_path_buf(), line_of(self.text, &span))
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(span.start);
    1 + before.filter(|byte| **byte == b'\n').count()
}

fn wrong(path: &str, value: &Value, source: &Source, expected: &str) -> String {
    let place = match source {
        Source::Default => String::new(),
        Source::File(..) => format!(" in {source}"),
        Source::Environment(name) => format!(" in the environment's {name}"),
        Source::Flag(name) => format!(" of {name}"),
    };
    format!("{path} = {value}{place}: expected {expected}")
}

/// The defaults with this one setting, if its type is right.
fn alone(path: &str, value: &Value) -> Option<Config> {
    let mut table = Table::new();
    put(&mut table, path, value.clone());
    Config::deserialize(Value::Table(table)).ok()
}

fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

impl Kind {
    /// What a variable means. What is not of the kind stays text, and is told as what it is.
    fn read(self, text: &str) -> Value {
        let list = |read: fn(&str) -> Value| {
            let parts = text.split(',').map(str::trim).filter(|it| !it.is_empty());
            Value::Array(parts.map(read).collect())
        };
        match self {
            // The last two are of entries, which no variable sets.
            Self::Text | Self::Table | Self::Secret => Value::String(text.to_owned()),
            Self::Number => number(text),
            Self::Switch => text
                .parse()
                .map_or_else(|_| Value::String(text.to_owned()), Value::Boolean),
            Self::Texts => list(|it| Value::String(it.to_owned())),
            Self::Numbers => list(number),
        }
    }
}

fn number(text: &str) -> Value {
    let whole = text.parse().map(Value::Integer);
    whole
        .or_else(|_| text.parse().map(Value::Float))
        .unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests;
