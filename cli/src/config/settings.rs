//! All settings with where each came from: flags win over variables, those over the file.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, time::Duration};

use super::{
    keys::KEYS,
    sources::{Origin, Said},
    value::{Raw, Value, quota},
};
use crate::exit::{CONFIG, Failure};

/// The effective value of every setting that has one.
#[derive(Debug)]
pub struct Settings(BTreeMap<&'static str, (Value, Origin)>);

impl Settings {
    /// Puts layers over the defaults, each over those before it.
    pub fn merge(layers: impl IntoIterator<Item = Vec<Said>>) -> Result<Self, Failure> {
        let default = |key: &'static super::keys::Key| {
            let raw = Raw::Text(key.default?.to_owned());
            Some(Said { key, raw, origin: Origin::Default })
        };
        let defaults: Vec<Said> = KEYS.iter().filter_map(default).collect();
        let mut merged = BTreeMap::new();
        for Said { key, raw, origin } in std::iter::once(defaults).chain(layers).flatten() {
            let value = key.kind.read(&raw).map_err(|why| {
                let told = match &origin {
                    Origin::File(..) => format!("{origin}: {}: {why}", key.name),
                    _ => format!("{origin}: {why}"),
                };
                Failure::new(CONFIG, told)
            })?;
            merged.insert(key.name, (value, origin));
        }
        Ok(Self(merged))
    }

    /// The name of a setting together with its origin, for messages to the person who set it.
    pub fn told_by(&self, name: &str) -> String {
        match self.0.get(name) {
            Some((_, origin)) if *origin != Origin::Default => format!("{name} ({origin})"),
            _ => name.to_owned(),
        }
    }

    /// Whether nobody has set it.
    pub fn is_default(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|(_, origin)| *origin == Origin::Default)
    }

    /// Those that somebody has set, each as in a file, for one line.
    pub fn chosen(&self) -> String {
        let mut chosen = Vec::new();
        for (name, (value, origin)) in &self.0 {
            if *origin != Origin::Default {
                chosen.push(format!("{name}={}", value.toml()));
            }
        }
        chosen.join(" ")
    }

    /// All of them as a TOML file, with where each came from as comments. A setting that is not set
    /// stands there as a comment too.
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            let (own_section, name) = key.parts();
            if own_section != section {
                section = own_section;
                let _ = writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" });
            }
            let _ = match self.0.get(key.name) {
                Some((value, origin)) => {
                    writeln!(text, "{:<48} # {origin}", format!("{name} = {}", value.toml()))
                }
                None => writeln!(text, "{:<48} # not set", format!("# {name} =")),
            };
        }
        text
    }

    fn get(&self, name: &str) -> Option<&Value> {
        debug_assert!(KEYS.iter().any(|key| key.name == name), "{name} is no setting");
        self.0.get(name).map(|(value, _)| value)
    }

    /// A text that may be absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            None => None,
            Some(Value::Text(text)) => Some(text),
            Some(other) => unreachable!("{name} holds {other:?}"),
        }
    }

    /// A list; empty when it is absent.
    pub fn list(&self, name: &str) -> &[String] {
        match self.get(name) {
            None => &[],
            Some(Value::List(words)) => words,
            Some(other) => unreachable!("{name} holds {other:?}"),
        }
    }

    /// Whether something is switched on.
    pub fn is_on(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::Switch(on)) => *on,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    /// An address to listen on.
    pub fn listen(&self, name: &str) -> SocketAddr {
        match self.get(name) {
            Some(Value::Listen(address)) => *address,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        match self.get(name) {
            Some(Value::Duration(duration)) => *duration,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    /// A number, of things or of bytes; `None` for `off`.
    pub fn number_or_off(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Count(number) | Value::Size(number)) => Some(*number),
            Some(Value::Off) => None,
            other => unreachable!("{name} holds {other:?}"),
        }
    }

    /// A number of things; `None` for `auto`.
    pub fn number_or_auto(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Auto) => None,
            _ => Some(self.number(name)),
        }
    }

    /// Bytes, or a share of `memory`; `None` for `off`, and for a share of what is not known.
    pub fn bytes_of(&self, name: &str, memory: Option<u64>) -> Option<u64> {
        match self.get(name) {
            Some(Value::Percent(percent)) => Some(memory? / 100 * percent),
            _ => self.number_or_off(name),
        }
    }

    /// Prefixes of lock names with their bytes.
    pub fn quotas(&self, name: &str) -> Vec<(String, u64)> {
        let quotas = self.list(name).iter().filter_map(|word| quota(word));
        quotas.map(|(prefix, bytes)| (prefix.to_owned(), bytes)).collect()
    }

    /// A number that cannot be `off`.
    pub fn number(&self, name: &str) -> u64 {
        self.number_or_off(name).unwrap_or_else(|| unreachable!("{name} cannot be off"))
    }
}
