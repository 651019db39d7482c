//! The sources of settings: a file, variables of the environment, flags.

use std::{fmt, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::{self, Key},
    value::Raw,
};
use crate::exit::{CONFIG, Failure};

/// The origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In a file, at a line.
    File(String, usize),
    /// By a variable of the environment.
    Variable(String),
    /// By a flag.
    Flag(&'static str),
    /// By the command itself: `dev` chooses what its nodes are.
    Command(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File(path, line) => write!(f, "{path}:{line}"),
            Self::Variable(name) => write!(f, "{name}"),
            Self::Flag(name) | Self::Command(name) => write!(f, "{name}"),
        }
    }
}

/// One setting as a source has it.
#[derive(Debug)]
pub struct Said {
    /// The setting.
    pub key: &'static Key,
    /// To what.
    pub raw: Raw,
    /// The origin.
    pub origin: Origin,
}

/// Everything that a file says.
pub fn file(path: &Path) -> Result<Vec<Said>, Failure> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|why| {
        Failure::new(CONFIG, format!("configuration {shown}: {why}"))
            .hint("name a TOML file with --config or SHARKLOCK_CONFIG")
    })?;
    parse(&shown, &text)
}

/// Everything that the text of a file says.
pub fn parse(path: &str, text: &str) -> Result<Vec<Said>, Failure> {
    let file = File { path, text };
    let document = DeTable::parse(text).map_err(|why| {
        let at = why.span().map_or(0, |span| span.start);
        file.refuse(at, &why.message().replace('\n', ", "))
    })?;
    let mut said = Vec::new();
    for (section, value) in document.get_ref().iter() {
        let at = section.span().start;
        let name: &str = section.get_ref();
        let DeValue::Table(table) = value.get_ref() else {
            let nearest = keys::nearest(name).map(|key| key.name);
            return Err(file.unknown(at, name, "setting", nearest));
        };
        if !keys::KEYS.iter().any(|key| key.parts().0 == name) {
            let sections = keys::KEYS.iter().map(|key| key.parts().0);
            return Err(file.unknown(at, name, "section", keys::nearest_of(name, sections)));
        }
        for (key, value) in table.iter() {
            said.push(file.setting(name, key.get_ref(), key.span().start, value)?);
        }
    }
    Ok(said)
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn setting(
        &self,
        section: &str,
        key: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Said, Failure> {
        let name = format!("{section}.{key}");
        let Some(key) = keys::find(&name) else {
            let nearest = keys::nearest(&name).map(|key| key.name);
            return Err(self.unknown(at, &name, "setting", nearest));
        };
        let raw = raw(value.get_ref()).map_err(|what| {
            self.refuse(at, &format!("{name}: expected {}, got {what}", key.kind))
        })?;
        Ok(Said { key, raw, origin: Origin::File(self.path.to_owned(), self.line(at)) })
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }

    fn refuse(&self, at: usize, why: &str) -> Failure {
        Failure::new(CONFIG, format!("{}:{}: {why}", self.path, self.line(at)))
    }

    fn unknown(&self, at: usize, name: &str, what: &str, nearest: Option<&str>) -> Failure {
        let failure = self.refuse(at, &format!("unknown {what} {name:?}"));
        with_hint(failure, nearest)
    }
}

fn with_hint(failure: Failure, nearest: Option<&str>) -> Failure {
    match nearest {
        Some(nearest) => failure.hint(format!("did you mean {nearest}?")),
        None => failure.hint("`sharklock server --print-config` lists all settings"),
    }
}

fn raw(value: &DeValue<'_>) -> Result<Raw, &'static str> {
    match value {
        DeValue::String(text) => Ok(Raw::Quoted(text.to_string())),
        DeValue::Integer(number) if number.radix() == 10 => {
            Ok(Raw::Number(number.as_str().replace('_', "")))
        }
        DeValue::Boolean(on) => Ok(Raw::Switch(*on)),
        DeValue::Array(items) => {
            let word = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err("a list of something else than texts"),
            };
            items.iter().map(word).collect::<Result<_, _>>().map(Raw::List)
        }
        DeValue::Integer(_) => Err("a number that is not decimal"),
        DeValue::Float(_) => Err("a number with a fraction"),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Table(_) => Err("a table"),
    }
}

/// Everything that variables say: those of the form `SHARKLOCK_SECTION__KEY`. Others with that
/// prefix belong to other parts of the program, or are set by who runs containers (as Kubernetes does for
/// a service of that name), unless they are a setting but for an underscore.
pub fn variables(all: impl Iterator<Item = (String, String)>) -> Result<Vec<Said>, Failure> {
    let all: Vec<_> = all.filter(|(name, _)| name.starts_with("SHARKLOCK_")).collect();
    for (name, _) in &all {
        let meant =
            |key: &&Key| key.variable() != *name && key.variable().replace("__", "_") == *name;
        if let Some(key) = keys::KEYS.iter().find(meant) {
            let why = format!("unknown setting {name} in the environment");
            return Err(with_hint(Failure::new(CONFIG, why), Some(&key.variable())));
        }
    }
    let mut ours: Vec<_> = all.into_iter().filter(|(name, _)| name.contains("__")).collect();
    ours.sort();
    let said = ours.into_iter().map(|(name, value)| {
        let Some(key) = keys::KEYS.iter().find(|key| key.variable() == name) else {
            let known: Vec<String> = keys::KEYS.iter().map(Key::variable).collect();
            let nearest = keys::nearest_of(&name, known.iter().map(String::as_str));
            let failure =
                Failure::new(CONFIG, format!("unknown setting {name} in the environment"));
            return Err(with_hint(failure, nearest));
        };
        Ok(Said { key, raw: Raw::Text(value), origin: Origin::Variable(name) })
    });
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let failure = parse("s.toml", text).expect_err(text);
        assert_eq!(failure.code(), CONFIG);
        failure.to_string()
    }

    #[test]
    fn a_file_is_read_with_its_lines() {
        let text = "# us\n[server]\nroles = [\"master\", \"data\"]\n\n[raft]\ntick = \"50ms\"\n\
                    [cluster]\nreplicas = 3\n[server.x]\n";
        assert!(parse("s.toml", text).is_err(), "a table within a section");
        let said = parse("s.toml", text.trim_end_matches("[server.x]\n")).expect("it is good");
        let mut said: Vec<_> =
            said.iter().map(|s| (s.key.name, s.raw.clone(), s.origin.to_string())).collect();
        said.sort_by_key(|(name, ..)| *name);
        assert_eq!(
            said,
            [
                ("cluster.replicas", Raw::Number("3".into()), "s.toml:8".to_owned()),
                ("raft.tick", Raw::Quoted("50ms".into()), "s.toml:6".to_owned()),
                (
                    "server.roles",
                    Raw::List(vec!["master".into(), "data".into()]),
                    "s.toml:3".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn what_is_unknown_is_refused_with_its_line_and_its_neighbour() {
        assert_eq!(
            refused("[server]\nroles = [\"data\"]\ndatadir = \"x\"\n"),
            "error: s.toml:3: unknown setting \"server.datadir\"\nhint: did you mean server.data_dir?\n"
        );
        assert_eq!(
            refused("\n[sever]\nroles = 1\n"),
            "error: s.toml:2: unknown section \"sever\"\nhint: did you mean server?\n"
        );
        assert_eq!(
            refused("tick = \"50ms\"\n"),
            "error: s.toml:1: unknown setting \"tick\"\nhint: did you mean raft.tick?\n"
        );
        assert!(refused("[raft]\nzzz = 1\n").contains("lists all settings"));
    }

    #[test]
    fn what_is_no_toml_is_refused_in_one_line() {
        for text in ["[server]\nroles = [\n", "[a]\nb = 1\nb = 2\n", "[server]\nx = 0x1g\n"] {
            let told = refused(text);
            assert!(told.starts_with("error: s.toml:"), "{told}");
            assert_eq!(told.lines().filter(|line| line.starts_with("error")).count(), 1, "{told}");
        }
        assert!(refused("[raft]\ntick = 1.5\n").contains("s.toml:2: raft.tick: expected a number"));
    }

    #[test]
    fn variables_are_found_among_others() {
        let variables = |all: &[(&str, &str)]| {
            let all = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            super::variables(all.collect::<Vec<_>>().into_iter())
        };
        let said = variables(&[
            ("SHARKLOCK_LOG", "debug"),
            ("HOME__X", "1"),
            ("SHARKLOCK_SERVER__DATA_DIR", "/d"),
        ]);
        let said = said.expect("nothing is wrong");
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].key.name, "server.data_dir");
        let told = variables(&[("SHARKLOCK_RAFT__TIK", "1")]).expect_err("unknown").to_string();
        assert!(told.contains("hint: did you mean SHARKLOCK_RAFT__TICK?"), "{told}");
        let told = variables(&[("SHARKLOCK_RAFT_TICK", "1s")]).expect_err("one underscore");
        assert!(told.to_string().contains("hint: did you mean SHARKLOCK_RAFT__TICK?"), "{told}");
        let others = [("SHARKLOCK_SERVICE_HOST", "10.0.0.1"), ("SHARKLOCK_PORT", "tcp://10.0.0.1")];
        assert!(variables(&others).expect("those are of others").is_empty());
    }
}
