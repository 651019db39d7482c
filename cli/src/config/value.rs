//! The kinds of settings, and how their text is read: the same from a file, a variable and a flag.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// The kind of a setting, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text, as a path is.
    Text,
    /// True or false.
    Switch,
    /// Words, each once.
    List,
    /// `IP:PORT` to listen on.
    Listen,
    /// `HOST:PORT` for others to reach.
    Reach,
    /// `HOST:PORT` of several.
    ReachList,
    /// A number with a unit of time, from … to.
    Duration(Duration, Duration),
    /// A plain number, from … to.
    Count(u64, u64),
    /// The same, or `auto`.
    CountOrAuto(u64, u64),
    /// The same, or `off`.
    CountOrOff(u64, u64),
    /// A number with a unit of bytes, from … to.
    Size(u64, u64),
    /// The same, or `off`.
    SizeOrOff(u64, u64),
    /// The same, or a share of the memory that this process may use, as `50%`.
    MemoryOrOff(u64, u64),
    /// `PREFIX=SIZE` of several prefixes of lock names, each once.
    QuotaList(u64, u64),
}

/// A setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// See [`Kind::Text`] and [`Kind::Reach`].
    Text(String),
    /// See [`Kind::Switch`].
    Switch(bool),
    /// See [`Kind::List`] and [`Kind::ReachList`].
    List(Vec<String>),
    /// See [`Kind::Listen`].
    Listen(SocketAddr),
    /// See [`Kind::Duration`].
    Duration(Duration),
    /// See [`Kind::Count`].
    Count(u64),
    /// See [`Kind::Size`].
    Size(u64),
    /// `off` of [`Kind::CountOrOff`], [`Kind::SizeOrOff`] and [`Kind::MemoryOrOff`].
    Off,
    /// `auto` of [`Kind::CountOrAuto`].
    Auto,
    /// Percent, of [`Kind::MemoryOrOff`].
    Percent(u64),
}

/// The raw value from a source: flags and variables have text only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// Text, of which lists are made at commas.
    Text(String),
    /// A string in a file, which is not taken for a number.
    Quoted(String),
    /// A number in a file.
    Number(String),
    /// A truth value in a file, or a flag without a value.
    Switch(bool),
    /// A list in a file.
    List(Vec<String>),
}

impl Kind {
    /// Reads a value, or says what is expected instead.
    pub fn read(self, raw: &Raw) -> Result<Value, String> {
        match (self, raw) {
            (Self::Switch, Raw::Switch(on)) => Ok(Value::Switch(*on)),
            (Self::Switch, Raw::Text(text)) => match text.as_str() {
                "true" => Ok(Value::Switch(true)),
                "false" => Ok(Value::Switch(false)),
                _ => Err(self.wanted(text)),
            },
            (Self::List | Self::ReachList | Self::QuotaList(..), Raw::List(words)) => {
                self.list(words.clone())
            }
            (Self::List | Self::ReachList | Self::QuotaList(..), Raw::Text(text)) => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                self.list(words.map(str::to_owned).collect())
            }
            (Self::CountOrAuto(..), Raw::Text(text) | Raw::Quoted(text)) if text == "auto" => {
                Ok(Value::Auto)
            }
            (Self::CountOrOff(..), Raw::Text(text) | Raw::Quoted(text)) if text == "off" => {
                Ok(Value::Off)
            }
            (
                Self::Count(..) | Self::CountOrAuto(..) | Self::CountOrOff(..),
                Raw::Number(text) | Raw::Text(text),
            ) => self.count(text),
            (
                Self::Text
                | Self::Listen
                | Self::Reach
                | Self::Duration(..)
                | Self::Size(..)
                | Self::SizeOrOff(..)
                | Self::MemoryOrOff(..),
                Raw::Text(text) | Raw::Quoted(text),
            ) => self.text(text),
            (_, Raw::Quoted(text) | Raw::Number(text)) => Err(self.wanted(text)),
            (_, Raw::Switch(on)) => Err(self.wanted(&on.to_string())),
            (_, Raw::List(words)) => Err(self.wanted(&format!("[{}]", words.join(", ")))),
        }
    }

    fn text(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Text if text.is_empty() => Err("expected something, got an empty text".into()),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Listen => listen(text).map(Value::Listen).ok_or_else(|| self.wanted(text)),
            Self::Reach if is_reachable(text) => Ok(Value::Text(text.to_owned())),
            Self::Duration(from, to) => match humantime::parse_duration(text) {
                Ok(duration) if (from..=to).contains(&duration) => Ok(Value::Duration(duration)),
                _ => Err(self.wanted(text)),
            },
            Self::SizeOrOff(..) | Self::MemoryOrOff(..) if text == "off" => Ok(Value::Off),
            Self::MemoryOrOff(..) if text.ends_with('%') => {
                let percent = text.trim_end_matches('%').trim_end().parse();
                match percent {
                    Ok(percent @ 1..=100) => Ok(Value::Percent(percent)),
                    _ => Err(self.wanted(text)),
                }
            }
            Self::Size(from, to) | Self::SizeOrOff(from, to) | Self::MemoryOrOff(from, to) => {
                match size(text) {
                    Some(bytes) if (from..=to).contains(&bytes) => Ok(Value::Size(bytes)),
                    _ => Err(self.wanted(text)),
                }
            }
            _ => Err(self.wanted(text)),
        }
    }

    fn count(self, text: &str) -> Result<Value, String> {
        let (Self::Count(from, to) | Self::CountOrAuto(from, to) | Self::CountOrOff(from, to)) =
            self
        else {
            return Err(self.wanted(text));
        };
        match text.parse() {
            Ok(count) if (from..=to).contains(&count) => Ok(Value::Count(count)),
            _ => Err(self.wanted(text)),
        }
    }

    fn list(self, words: Vec<String>) -> Result<Value, String> {
        for (at, word) in words.iter().enumerate() {
            if self == Self::ReachList && !is_reachable(word) {
                return Err(format!("expected HOST:PORT, like host-1:7720, got {word:?}"));
            }
            if let Self::QuotaList(from, to) = self {
                let good = quota(word).filter(|(_, bytes)| (from..=to).contains(bytes));
                let Some((prefix, _)) = good else { return Err(self.wanted(word)) };
                let twin = words[..at].iter().filter_map(|other| quota(other));
                if twin.into_iter().any(|(other, _)| other == prefix) {
                    return Err(format!("the prefix {prefix:?} stands there twice"));
                }
            }
            if words[..at].contains(word) {
                return Err(format!("{word:?} stands there twice"));
            }
        }
        if words.is_empty() { Err("expected at least one".into()) } else { Ok(Value::List(words)) }
    }

    fn wanted(self, got: &str) -> String {
        format!("expected {self}, got {got:?}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => write!(f, "text in quotes"),
            Self::Switch => write!(f, "true or false"),
            Self::List | Self::ReachList => write!(f, "a list"),
            Self::Listen => write!(f, "IP:PORT, like 127.0.0.1:7700"),
            Self::Reach => write!(f, "HOST:PORT, like host-1:7700"),
            Self::Duration(from, to) => {
                let (from, to) = (Value::Duration(*from), Value::Duration(*to));
                write!(f, "a number with a unit of time, {from} to {to}")
            }
            Self::Count(from, to) => write!(f, "a number, {from} to {to}"),
            Self::CountOrAuto(from, to) => write!(f, "auto, or a number, {from} to {to}"),
            Self::CountOrOff(from, to) => write!(f, "off, or a number, {from} to {to}"),
            Self::MemoryOrOff(from, to) => {
                let (from, to) = (Value::Size(*from), Value::Size(*to));
                write!(
                    f,
                    "off, a share of memory from 1% to 100%, or a number with a unit of bytes, \
                     {from} to {to}"
                )
            }
            Self::QuotaList(from, to) => {
                let (from, to) = (Value::Size(*from), Value::Size(*to));
                write!(f, "PREFIX=SIZE, like jobs/=256MiB, with a size of {from} to {to}")
            }
            Self::Size(from, to) | Self::SizeOrOff(from, to) => {
                let or = if matches!(self, Self::SizeOrOff(..)) { "off, or " } else { "" };
                let (from, to) = (Value::Size(*from), Value::Size(*to));
                write!(f, "{or}a number with a unit of bytes, {from} to {to}")
            }
        }
    }
}

impl fmt::Display for Value {
    /// As the kind reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text}"),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(words) => write!(f, "{}", words.join(",")),
            Self::Listen(address) => write!(f, "{address}"),
            Self::Duration(duration) => {
                let text = humantime::format_duration(*duration).to_string();
                write!(f, "{}", text.replace(' ', ""))
            }
            Self::Count(count) => write!(f, "{count}"),
            Self::Size(bytes) => {
                let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
                let whole = |bits: u32| *bytes != 0 && bytes.trailing_zeros() >= bits;
                match units.into_iter().find(|(bits, _)| whole(*bits)) {
                    Some((bits, unit)) => write!(f, "{}{unit}", bytes >> bits),
                    None => write!(f, "{bytes}B"),
                }
            }
            Self::Off => write!(f, "off"),
            Self::Auto => write!(f, "auto"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Value {
    /// As it stands in a TOML file.
    pub fn toml(&self) -> String {
        let quoted = |text: &str| {
            // JSON's escapes of strings are TOML's.
            serde_json::to_string(text).expect("a string is always JSON")
        };
        match self {
            Self::Switch(_) | Self::Count(_) => self.to_string(),
            Self::List(words) => {
                let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
                format!("[{}]", words.join(", "))
            }
            _ => quoted(&self.to_string()),
        }
    }
}

/// `localhost` is taken for its address: it needs no resolver.
pub fn listen(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// Whether it reads as an address that others can be told: not a wildcard, not port 0.
fn is_reachable(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let letter = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let names = !host.is_empty() && host.chars().all(letter);
    names && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A prefix of lock names and its bytes. The last `=` divides them: a name may have one.
pub fn quota(text: &str) -> Option<(&str, u64)> {
    let (prefix, bytes) = text.rsplit_once('=')?;
    let prefix = prefix.trim();
    Some((prefix, size(bytes.trim())?)).filter(|_| !prefix.is_empty())
}

fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, text: &str) -> Result<String, String> {
        kind.read(&Raw::Text(text.into())).map(|value| value.to_string())
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let time = Kind::Duration(Duration::from_millis(1), Duration::from_secs(600));
        let bytes = Kind::SizeOrOff(1, 1 << 40);
        for (kind, text) in [
            (Kind::Text, "/var/lib/x"),
            (Kind::Switch, "true"),
            (Kind::List, "master,data"),
            (Kind::Listen, "127.0.0.3:7700"),
            (Kind::Listen, "[::1]:7700"),
            (Kind::Reach, "host-1.example:7700"),
            (Kind::ReachList, "a:1,10.0.0.1:2"),
            (time, "1m30s"),
            (time, "50ms"),
            (Kind::Count(0, 10), "10"),
            (Kind::CountOrAuto(1, 9), "9"),
            (Kind::CountOrAuto(1, 9), "auto"),
            (bytes, "256KiB"),
            (bytes, "16MiB"),
            (bytes, "1025B"),
            (bytes, "off"),
        ] {
            assert_eq!(read(kind, text).as_deref(), Ok(text), "{kind:?}");
        }
        assert_eq!(read(Kind::Listen, "localhost:1").as_deref(), Ok("127.0.0.1:1"));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_is_expected() {
        let time = Kind::Duration(Duration::from_millis(10), Duration::from_secs(1));
        let told = |kind, text| read(kind, text).expect_err(text);
        assert_eq!(
            told(time, "100"),
            "expected a number with a unit of time, 10ms to 1s, got \"100\""
        );
        assert!(told(time, "2s").contains("10ms to 1s"));
        let bytes = Kind::Size(1024, 1 << 20);
        for text in ["1", "1MB", "2MiB", "KiB", "99999999999999999999GiB", "-1KiB"] {
            let told = told(bytes, text);
            assert!(told.contains("a unit of bytes, 1KiB to 1MiB"), "{text}: {told}");
        }
        assert!(told(Kind::Count(1, 5), "6").contains("1 to 5"));
        assert!(told(Kind::Count(1, 5), "auto").contains("1 to 5"));
        assert!(told(Kind::CountOrAuto(1, 5), "0").contains("auto, or a number, 1 to 5"));
        assert!(told(Kind::Listen, "host:7700").contains("IP:PORT"));
        for text in ["host", "host:0", "0.0.0.0:7700", ":1", "h st:1", "http://h:1"] {
            assert!(told(Kind::Reach, text).contains("HOST:PORT"), "{text}");
            assert!(told(Kind::ReachList, text).contains("HOST:PORT"), "{text}");
        }
        assert!(told(Kind::List, "a,b,a").contains("twice"));
        assert!(told(Kind::List, ",").contains("at least one"));
    }

    #[test]
    fn a_files_types_are_kept_apart() {
        let count = Kind::Count(1, 9);
        assert!(count.read(&Raw::Quoted("3".into())).is_err());
        let or_auto = Kind::CountOrAuto(1, 9);
        assert!(or_auto.read(&Raw::Quoted("3".into())).is_err());
        assert_eq!(or_auto.read(&Raw::Quoted("auto".into())), Ok(Value::Auto));
        assert_eq!(count.read(&Raw::Number("3".into())), Ok(Value::Count(3)));
        assert!(Kind::Text.read(&Raw::Number("3".into())).is_err());
        assert!(Kind::Switch.read(&Raw::Quoted("true".into())).is_err());
        assert!(Kind::List.read(&Raw::Quoted("master".into())).is_err());
    }
}
