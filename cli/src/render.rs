//! How values look to people: tables without borders, short durations, text that is safe to print.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use crate::exit::{FAILED, Failure};

/// Writes a result to stdout. A reader that has seen enough, as `head` does, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(FAILED, "cannot write to stdout").cause(why))
        }
        _ => Ok(()),
    }
}

/// Lays `rows` out in columns under an upper-case header: no borders, two spaces between columns,
/// no trailing blanks, each line ended. Cells are made printable here, so callers need not care.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A document as indented JSON, ended by a newline.
pub fn json(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document)
        .expect("these types have string keys and cannot fail to serialize");
    text.push('\n');
    text
}

/// A document on one line, ended by a newline.
pub fn json_line(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string(document)
        .expect("these types have string keys and cannot fail to serialize");
    text.push('\n');
    text
}

/// Replaces control and text-direction characters by their escapes: what a lock is called, or who
/// holds it, must not be able to move a reader's cursor or reorder the line.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || reorders {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A duration in at most two units, rounded down: `850ms`, `7.4s`, `12s`, `3m05s`, `2h10m`, `4d06h`.
pub fn short(duration: Duration) -> String {
    let (ms, s) = (duration.as_millis(), duration.as_secs());
    match s {
        0 => format!("{ms}ms"),
        1..10 => format!("{}.{}s", s, ms % 1000 / 100),
        10..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// A duration as a flag takes it, exact to the millisecond: `10s`, `1m 30s`, `2s 500ms`.
pub fn exact(duration: Duration) -> String {
    humantime::format_duration(Duration::from_millis(duration.as_millis() as u64)).to_string()
}

/// A word as a POSIX shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let rows = vec![
            vec!["invoices/42".to_owned(), "excl".to_owned()],
            vec!["x".to_owned(), String::new()],
        ];
        assert_eq!(table(&["NAME", "MODE"], &rows), "NAME         MODE\ninvoices/42  excl\nx\n");
        assert_eq!(table(&["NAME", "MODE"], &[]), "NAME  MODE\n");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        assert_eq!(
            table(&["A"], &[vec!["\u{1b}[2J\nx\u{202e}".to_owned()]]),
            "A\n\\u{1b}[2J\\nx\\u{202e}\n"
        );
    }

    #[test]
    fn durations_are_short() {
        let shown: Vec<String> = [0, 850, 7_449, 12_999, 185_000, 7_800_000, 367_200_000]
            .map(|ms| short(Duration::from_millis(ms)))
            .into();
        assert_eq!(shown, ["0ms", "850ms", "7.4s", "12s", "3m05s", "2h10m", "4d06h"]);
        assert_eq!(exact(Duration::from_micros(2_500_999)), "2s 500ms");
    }

    #[test]
    fn a_shell_reads_a_word_back() {
        assert_eq!(shell_word("./target/sharklock"), "./target/sharklock");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
