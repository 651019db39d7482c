//! How values look to people: tables without borders, short durations, text that is safe to print.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use crate::exit::{FAILED, Failure};

/// Between two columns of a table.
const GAP: usize = 2;
/// The last column of a table is cut to so much before another column goes.
const LAST_MIN: usize = 16;

/// Writes a result to stdout. A reader that has seen enough, as `head` does, is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(|_| ())
}

/// The same where more is to follow. False: the reader has seen enough.
pub fn print_on(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(why) => Err(Failure::new(FAILED, "cannot write to stdout").cause(why)),
    }
}

/// Columns and lines of the terminal that stdout is, if it is one.
pub fn screen() -> Option<(usize, usize)> {
    if cfg!(test) {
        // Tests read the same tables whether a person runs them or not.
        return None;
    }
    let (columns, lines) = terminal_size::terminal_size_of(io::stdout())?;
    Some((columns.0.into(), lines.0.into()))
}

/// Lays `rows` out in columns under an upper-case header: no borders, two spaces between columns,
/// no trailing blanks, each line ended. Cells are made printable here, so callers need not care; an
/// empty one is shown as `-`.
///
/// On a terminal a row is one line, however narrow that is: first the last column is cut, which is
/// therefore the one whose cells may be long; when little of it would be left, the columns before it go,
/// from right to left. So what identifies a row comes first or last, and what matters less stands behind
/// what matters more. In a pipe or a file everything is whole.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    table_within(header, rows, screen().map(|(columns, _)| columns))
}

fn table_within(header: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> String {
    let cell = |cell: &String| if cell.is_empty() { "-".to_owned() } else { printable(cell) };
    let mut lines = vec![header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| row.iter().map(cell).collect()));
    if let Some(columns) = columns {
        fit(&mut lines, columns);
    }
    let mut lines = lines.into_iter();
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(lines.next().expect("the header is there"));
    for line in lines {
        table.add_row(line);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP as u16));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Drops columns and cuts cells until each line has at most so many columns of a terminal.
fn fit(lines: &mut [Vec<String>], columns: usize) {
    let mut widths: Vec<usize> = (0..lines[0].len())
        .map(|at| lines.iter().map(|line| line[at].width()).max().unwrap_or(0))
        .collect();
    loop {
        let last = widths.len() - 1;
        let left = columns.saturating_sub(widths[..last].iter().map(|width| width + GAP).sum());
        if widths[last] <= left || left >= LAST_MIN {
            return cut_column(lines, last, left);
        }
        if last < 2 {
            break;
        }
        widths.remove(last - 1);
        lines.iter_mut().for_each(|line| drop(line.remove(last - 1)));
    }
    if widths.len() == 2 && columns >= GAP + 2 {
        let first = columns.saturating_sub(GAP + widths[1].min(columns / 2)).max(1);
        cut_column(lines, 0, first);
        return cut_column(lines, 1, columns - GAP - first.min(widths[0]));
    }
    lines.iter_mut().for_each(|line| line.truncate(1));
    cut_column(lines, 0, columns);
}

fn cut_column(lines: &mut [Vec<String>], at: usize, columns: usize) {
    for line in lines {
        line[at] = cut(&line[at], columns);
    }
}

/// A text in so many columns of a terminal: its end is an ellipsis if it was longer.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let Some(mut left) = columns.checked_sub(1) else { return String::new() };
    let fits = |part: &&str| {
        let fits = part.width() <= left;
        left = left.saturating_sub(part.width());
        fits
    };
    text.graphemes(true).take_while(fits).chain(["…"]).collect()
}

/// A number as people read it: `1,006`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let begin = digits.len() % 3;
    let (first, rest) = digits.split_at(begin);
    let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let first = (!first.is_empty()).then(|| first.to_owned());
    first.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// So many things: `1 lock`, `1,006 locks`.
pub fn counted(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {what}{s}", thousands(count))
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
        let shown = "NAME         MODE\ninvoices/42  excl\nx            -\n";
        assert_eq!(table(&["NAME", "MODE"], &rows), shown);
        assert_eq!(table(&["NAME", "MODE"], &[]), "NAME  MODE\n");
    }

    #[test]
    fn a_cell_cannot_drive_the_terminal() {
        assert_eq!(
            table(&["A"], &[vec!["\u{1b}[2J\nx\u{202e}".to_owned()]]),
            "A\n\\u{1b}[2J\\nx\\u{202e}\n"
        );
    }

    fn narrow(columns: usize) -> String {
        let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["ann@vm pid 1", "12s", "exclusive", "invoices/2026/11/the-one-of-today"]),
            row(["bob@vm pid 2", "3d04h", "shared", "x"]),
        ];
        table_within(&["HOLDER", "SINCE", "MODE", "NAME"], &rows, Some(columns))
    }

    #[test]
    fn the_last_column_is_cut_first() {
        assert_eq!(
            narrow(50),
            "HOLDER        SINCE  MODE       NAME\n\
             ann@vm pid 1  12s    exclusive  invoices/2026/11/…\n\
             bob@vm pid 2  3d04h  shared     x\n"
        );
        assert!(narrow(65).contains("exclusive  invoices/2026/11/the-one-of-today\n"));
    }

    #[test]
    fn columns_go_from_right_to_left_where_little_would_be_left_of_the_last() {
        assert_eq!(
            narrow(40),
            "HOLDER        SINCE  NAME\n\
             ann@vm pid 1  12s    invoices/2026/11/t…\n\
             bob@vm pid 2  3d04h  x\n"
        );
        assert_eq!(
            narrow(32),
            "HOLDER        NAME\n\
             ann@vm pid 1  invoices/2026/11/…\n\
             bob@vm pid 2  x\n"
        );
    }

    #[test]
    fn a_row_is_one_line_on_every_terminal() {
        for columns in 1..80 {
            for line in narrow(columns).lines() {
                assert!(line.width() <= columns, "{columns}: {line:?}");
            }
        }
        assert_eq!(narrow(16), "HOLDER  NAME\nann@v…  invoice…\nbob@v…  x\n");
    }

    #[test]
    fn wide_characters_take_their_place() {
        let row = |name: &str| vec![name.to_owned(), "7".to_owned()];
        let rows = [row("東京/ロック"), row("a"), row("👩‍👩‍👧 family")];
        assert_eq!(
            table(&["NAME", "TOKEN"], &rows),
            "NAME         TOKEN\n\
             東京/ロック  7\n\
             a            7\n\
             👩‍👩‍👧 family    7\n"
        );
        assert_eq!(cut("東京/ロック", 6), "東京/…");
        assert_eq!(cut("東京/ロック", 5), "東京…");
        assert_eq!(cut("👩‍👩‍👧 family", 3), "👩‍👩‍👧…");
        assert_eq!(cut("ab", 0), "");
    }

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 7, 999, 1_006, 12_345, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "7", "999", "1,006", "12,345", "1,234,567"]);
        assert_eq!(counted(1, "lock"), "1 lock");
        assert_eq!(counted(1_006, "lock"), "1,006 locks");
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
