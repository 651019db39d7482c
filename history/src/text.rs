//! Histories as text, so that they can be archived and judged again by a better judge.
//!
//! One flat JSON object per line: first the format, then the locks' names and the records; a name
//! comes before the first record with its lock. It is written and read here by hand, since this
//! crate uses nothing but `std`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, BufRead, Write};

use crate::record::{End, Hold, LockId, Mode, Position, Record, What};
use crate::recorder::History;

/// The number in the first line. A reader refuses any other.
const FORMAT: u64 = 1;

/// Writes a history.
pub fn write(history: &History, to: &mut impl Write) -> io::Result<()> {
    writeln!(to, "{}", format_line())?;
    for (lock, name) in history.names.iter().enumerate() {
        writeln!(to, "{}", name_line(lock, name))?;
    }
    for record in &history.records {
        writeln!(to, "{}", record_line(record))?;
    }
    Ok(())
}

/// The first line.
pub(crate) fn format_line() -> String {
    format!("{{\"sharklock_history\":{FORMAT}}}")
}

/// The line of a lock, which comes before its records and after the locks with smaller numbers.
pub(crate) fn name_line(lock: usize, name: &str) -> String {
    format!("{{\"lock\":{lock},\"name\":{}}}", quoted(name))
}

/// The line of a record.
pub(crate) fn record_line(record: &Record) -> String {
    let Record { lock, session, acquisition, invoked, returned, position, what } = record;
    let Position { range, version, applied_index } = position;
    let mut line = format!(
        "{{\"lock\":{},\"session\":{session},\"acquisition\":{acquisition},\"invoked\":{invoked},\
         \"returned\":{returned},\"range\":{range},\"version\":{version},\
         \"applied_index\":{applied_index}",
        lock.0
    );
    let rest = match what {
        What::Granted(hold) => {
            let Hold { token, fence_floor, valid_until, end_invoked, end_returned, .. } = hold;
            let mode = match hold.mode {
                Mode::Exclusive => "\"exclusive\"".to_owned(),
                Mode::Shared => "\"shared\"".to_owned(),
                Mode::Permits { units, units_max } => {
                    format!("\"permits\",\"units\":{units},\"units_max\":{units_max}")
                }
            };
            format!(
                "\"what\":\"granted\",\"token\":{token},\"fence_floor\":{fence_floor},\
                 \"valid_until\":{valid_until},\"mode\":{mode},\"reentered\":{},\"end\":\"{}\",\
                 \"end_invoked\":{end_invoked},\"end_returned\":{end_returned}",
                hold.reentered,
                end_name(hold.end)
            )
        }
        What::Queued { place } => format!("\"what\":\"queued\",\"place\":{place}"),
        What::Refused { holder } => format!("\"what\":\"refused\",\"holder\":{holder}"),
        What::TimedOut { holder } => format!("\"what\":\"timed_out\",\"holder\":{holder}"),
        What::Unknown { reenter } => format!("\"what\":\"unknown\",\"reenter\":{reenter}"),
        What::Looked { token, live } => {
            format!("\"what\":\"looked\",\"token\":{token},\"live\":{live}")
        }
    };
    line.push(',');
    line.push_str(&rest);
    line.push('}');
    line
}

const ENDS: [(End, &str); 7] = [
    (End::Open, "open"),
    (End::Released, "released"),
    (End::ReleaseUnknown, "release_unknown"),
    (End::Lapsed, "lapsed"),
    (End::ToldGone, "told_gone"),
    (End::Acknowledged, "acknowledged"),
    (End::Revoked, "revoked"),
];

fn end_name(end: End) -> &'static str {
    let found = ENDS.iter().find(|(known, _)| *known == end);
    found.expect("every end stands in the table").1
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("a string takes all");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Reads what [`write`] wrote.
pub fn read(from: impl BufRead) -> Result<History, ReadError> {
    let mut history = History::default();
    let mut seen_format = false;
    for (at, line) in from.lines().enumerate() {
        let line = line.map_err(ReadError::Io)?;
        let bad = |why: &str| ReadError::Line { line: at + 1, why: why.to_owned() };
        let fields = Fields::parse(&line).map_err(bad)?;
        if !seen_format {
            match fields.number("sharklock_history") {
                Ok(FORMAT) => seen_format = true,
                Ok(_) => return Err(bad("it is of a format that this program does not know")),
                Err(_) => return Err(bad("the first line does not say that it is a history")),
            }
        } else if let Ok(name) = fields.text("name") {
            if fields.number("lock") != Ok(history.names.len() as u64) {
                return Err(bad("the locks are not numbered in order"));
            }
            history.names.push(name.to_owned());
        } else {
            history.records.push(record(&fields).map_err(bad)?);
        }
    }
    if !seen_format {
        return Err(ReadError::Line { line: 1, why: "the file is empty".to_owned() });
    }
    Ok(history)
}

fn record(fields: &Fields) -> Result<Record, &'static str> {
    let position = Position {
        range: fields.small("range")?,
        version: fields.small("version")?,
        applied_index: fields.number("applied_index")?,
    };
    Ok(Record {
        lock: LockId(fields.small("lock")?),
        session: fields.small("session")?,
        acquisition: fields.number("acquisition")?,
        invoked: fields.number("invoked")?,
        returned: fields.number("returned")?,
        position,
        what: what(fields)?,
    })
}

fn what(fields: &Fields) -> Result<What, &'static str> {
    Ok(match fields.text("what")? {
        "granted" => What::Granted(hold(fields)?),
        "queued" => What::Queued { place: fields.small("place")? },
        "refused" => What::Refused { holder: fields.number("holder")? },
        "timed_out" => What::TimedOut { holder: fields.number("holder")? },
        "unknown" => What::Unknown { reenter: fields.number("reenter")? },
        "looked" => What::Looked { token: fields.number("token")?, live: fields.truth("live")? },
        _ => return Err("`what` is not a word that this program knows"),
    })
}

fn hold(fields: &Fields) -> Result<Hold, &'static str> {
    let mode = match fields.text("mode")? {
        "exclusive" => Mode::Exclusive,
        "shared" => Mode::Shared,
        "permits" => {
            Mode::Permits { units: fields.small("units")?, units_max: fields.small("units_max")? }
        }
        _ => return Err("`mode` is not a word that this program knows"),
    };
    let end = fields.text("end")?;
    let end = ENDS.iter().find(|(_, name)| *name == end);
    Ok(Hold {
        token: fields.number("token")?,
        fence_floor: fields.number("fence_floor")?,
        valid_until: fields.number("valid_until")?,
        end_invoked: fields.number("end_invoked")?,
        end_returned: fields.number("end_returned")?,
        mode,
        reentered: fields.truth("reentered")?,
        end: end.ok_or("`end` is not a word that this program knows")?.0,
    })
}

/// Why a text is no history.
#[derive(Debug)]
pub enum ReadError {
    /// The reader failed.
    Io(io::Error),
    /// A line is not one of ours.
    Line {
        /// Counted from 1.
        line: usize,
        /// The fault, in words.
        why: String,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the history could not be read: {error}"),
            Self::Line { line, why } => write!(f, "line {line} of the history: {why}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Line { .. } => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Text(String),
    Truth(bool),
}

/// The fields of one line: a JSON object of natural numbers, strings and truth values.
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let mut fields = BTreeMap::new();
        let mut rest = expect(line.trim(), '{')?;
        loop {
            let (key, after) = string(rest)?;
            let (value, after) = value(expect(after, ':')?)?;
            if fields.insert(key, value).is_some() {
                return Err("a field stands twice");
            }
            if let Some(after) = after.strip_prefix(',') {
                rest = after;
            } else {
                let after = expect(after, '}')?;
                return if after.is_empty() { Ok(Self(fields)) } else { Err("text after the `}`") };
            }
        }
    }

    fn number(&self, key: &'static str) -> Result<u64, &'static str> {
        match self.0.get(key) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err("a number is missing"),
        }
    }

    fn small<N: TryFrom<u64>>(&self, key: &'static str) -> Result<N, &'static str> {
        N::try_from(self.number(key)?).map_err(|_| "a number is too large")
    }

    fn text(&self, key: &'static str) -> Result<&str, &'static str> {
        match self.0.get(key) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err("a word is missing"),
        }
    }

    fn truth(&self, key: &'static str) -> Result<bool, &'static str> {
        match self.0.get(key) {
            Some(Value::Truth(truth)) => Ok(*truth),
            _ => Err("a `true` or `false` is missing"),
        }
    }
}

fn expect(text: &str, c: char) -> Result<&str, &'static str> {
    text.strip_prefix(c).ok_or("it is not a flat JSON object without spaces")
}

fn value(text: &str) -> Result<(Value, &str), &'static str> {
    if let Some(rest) = text.strip_prefix("true") {
        return Ok((Value::Truth(true), rest));
    }
    if let Some(rest) = text.strip_prefix("false") {
        return Ok((Value::Truth(false), rest));
    }
    if text.starts_with('"') {
        return string(text).map(|(text, rest)| (Value::Text(text), rest));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let number = number.parse().map_err(|_| "a value is no natural number below 2^64")?;
    Ok((Value::Number(number), rest))
}

fn string(text: &str) -> Result<(String, &str), &'static str> {
    let text = expect(text, '"')?;
    let mut string = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((string, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => string.push(c),
                Some((_, 'u')) => {
                    let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                    let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                    string.push(code.ok_or("an escape is not one of ours")?);
                }
                _ => return Err("an escape is not one of ours"),
            },
            c => string.push(c),
        }
    }
    Err("a string does not end")
}

#[cfg(test)]
mod tests;
