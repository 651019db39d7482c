//! The documents: every citation in code and pages has a heading that answers it, every link and
//! every named source is there, and lines are short enough to read.
//!
//! A citation is `D7`, `S5`, `L2`, `R1`, `hole 12`, `mistake 3`, `failure story 7`, `NAME.md`, and
//! behind a page or a decision `§2` or `, *Heading*`. A binary of its own, which needs nothing but
//! the standard library: documents can be checked while everything else is being rebuilt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The ends of files that are searched for citations. Golden scripts and planted bugs begin with
/// their stories.
const CITING: [&str; 8] = [".rs", ".proto", ".sh", ".md", ".txt", ".patch", ".toml", ".c"];

/// Columns of a document's line. Tables and code may be wider.
const COLUMNS_MAX: usize = 100;

/// A reader who opens the map for the first time reads it whole.
const MAP_LINES_MAX: usize = 150;

/// Written by `scripts/bench-peers.sh`.
const GENERATED: [&str; 1] = ["docs/benchmarks/peers.md"];

/// The forms of numbered citations, the pages with their headings, and how those begin.
const NUMBERED: [Numbered; 7] = [
    Numbered { cited: "D", page: "docs/decisions.md", heading: "D" },
    Numbered { cited: "S", page: "docs/invariants.md", heading: "S" },
    Numbered { cited: "L", page: "docs/invariants.md", heading: "L" },
    Numbered { cited: "R", page: "docs/invariants.md", heading: "R" },
    Numbered { cited: "hole ", page: "docs/holes.md", heading: "Hole " },
    Numbered { cited: "mistake ", page: "docs/failures.md", heading: "Mistake " },
    Numbered { cited: "failure story ", page: "docs/failures.md", heading: "Failure story " },
];

struct Numbered {
    cited: &'static str,
    page: &'static str,
    heading: &'static str,
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the crate lies in the workspace").to_owned()
}

/// The files of the repository, also those that are not added yet, by their paths from its root.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "{git:?}: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let there = |name: &&str| !name.is_empty() && root().join(name).is_file();
    names.split('\0').filter(there).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(root().join(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The lines of a page that are no code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        (!in_code && !fence).then_some((at + 1, line))
    })
}

/// A heading's level and text.
fn heading(line: &str) -> Option<(usize, &str)> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    Some((level, text.strip_prefix(' ')?)).filter(|_| level > 0)
}

/// All that can answer a citation.
struct Pages {
    /// The headings of each page, in order.
    headings: BTreeMap<String, Vec<(usize, String)>>,
}

impl Pages {
    fn of(files: &[String]) -> Self {
        let pages = files.iter().filter(|path| path.ends_with(".md"));
        let headings = pages.map(|path| {
            let text = read(path);
            let headings = prose(&text).filter_map(|(_, line)| heading(line));
            let headings = headings.map(|(level, text)| (level, text.to_owned())).collect();
            (path.clone(), headings)
        });
        Self { headings: headings.collect() }
    }

    /// The headings below the one that begins so, itself included; none without it.
    fn section(&self, page: &str, begin: &str) -> Vec<&str> {
        let headings = self.headings.get(page).map_or(&[][..], Vec::as_slice);
        let begins = |text: &str| {
            let rest = text.strip_prefix(begin);
            rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
        };
        let mut from = headings.iter().skip_while(|(_, text)| !begins(text));
        let Some((level, text)) = from.next() else { return Vec::new() };
        let below = from.take_while(|(below, _)| below > level);
        [text.as_str()].into_iter().chain(below.map(|(_, text)| text.as_str())).collect()
    }

    /// The pages that a name may mean: `raft.md`, `docs/internals/raft.md`.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let means = move |path: &&String| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
        };
        self.headings.keys().filter(means).map(String::as_str)
    }

    fn all(&self, page: &str) -> impl Iterator<Item = &str> {
        self.headings.get(page).into_iter().flatten().map(|(_, text)| text.as_str())
    }
}

/// A file as one line, without the marks of comments, so that a citation may go over a line's end.
struct Text {
    joined: String,
    /// The begin of each line in it.
    begins: Vec<usize>,
}

impl Text {
    fn of(text: &str) -> Self {
        let (mut joined, mut begins) = (String::new(), Vec::new());
        for line in text.lines() {
            begins.push(joined.len());
            let line = line.trim_start();
            let marks = ["//!", "///", "//", "#"];
            let bare = marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line);
            joined.push_str(bare.trim());
            joined.push(' ');
        }
        Self { joined, begins }
    }

    fn line(&self, at: usize) -> usize {
        self.begins.partition_point(|begin| *begin <= at)
    }

    /// The places at which a word stands by itself, each with the text behind it.
    fn occurrences<'a>(&'a self, word: &str) -> impl Iterator<Item = (usize, &'a str)> {
        let found = self.joined.match_indices(word);
        found.filter_map(|(at, _)| {
            let is_part = |before: char| before.is_alphanumeric() || "_-./#".contains(before);
            let whole = !self.joined[..at].ends_with(is_part);
            whole.then_some((at, &self.joined[at + word.len()..]))
        })
    }
}

/// A number without a leading zero at the begin of `text`, of at most three digits, and what
/// follows.
fn number(text: &str) -> Option<(&str, &str)> {
    let digits = text.len() - text.trim_start_matches(|it: char| it.is_ascii_digit()).len();
    let (number, rest) = text.split_at(digits);
    let goes_on = rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let fits = (1..=3).contains(&digits) && !number.starts_with('0') && !goes_on;
    fits.then_some((number, rest))
}

/// The numbers of `7`, of `17 and 19`, of `11, 12 and 21`, of `1 to 9`.
fn numbers(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((number, behind)) = number(rest) {
        found.push((number, behind));
        let joint = [", ", " and ", " to "].iter().find_map(|joint| behind.strip_prefix(joint));
        let Some(next) = joint else { break };
        rest = next;
    }
    found
}

/// The heading in `, *Heading*`, or the number of `§2`.
fn subsection(behind: &str) -> Option<&str> {
    let behind = behind.trim_start_matches('`');
    if let Some(paragraph) = behind.strip_prefix(" §").or_else(|| behind.strip_prefix(", §")) {
        let end = paragraph.find(|it: char| !it.is_ascii_digit() && it != '.');
        return Some(paragraph[..end.unwrap_or(paragraph.len())].trim_end_matches('.'));
    }
    Some(behind.strip_prefix(", *")?.split_once('*')?.0)
}

/// Whether one of the headings is the cited one, or begins with it.
fn answers<'a>(mut headings: impl Iterator<Item = &'a str>, cited: &str) -> bool {
    headings.any(|heading| {
        let rest = heading.get(..cited.len()).filter(|begin| begin.eq_ignore_ascii_case(cited));
        rest.is_some_and(|_| !heading[cited.len()..].starts_with(char::is_alphanumeric))
    })
}

impl Numbered {
    /// The words that begin such a citation, and whether several numbers may follow: `hole 7`, `Hole 7`,
    /// `holes 7 and 12`. A letter stands for itself.
    fn words(&self) -> Vec<(String, bool)> {
        let Some(word) = self.cited.strip_suffix(' ') else {
            return vec![(self.cited.to_owned(), false)];
        };
        let capital = format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        [word, &capital]
            .into_iter()
            .flat_map(|word| [(format!("{word} "), false), (format!("{word}s "), true)])
            .collect()
    }

    /// All citations of this form: where each stands, its number, and the text behind it.
    fn citations<'a>(&self, text: &'a Text) -> Vec<(usize, &'a str, &'a str)> {
        let mut found = Vec::new();
        for (word, is_list) in self.words() {
            for (at, behind) in text.occurrences(&word) {
                let cited: Vec<_> = match is_list {
                    true => numbers(behind),
                    false => number(behind).into_iter().collect(),
                };
                found.extend(cited.into_iter().map(|(number, behind)| (at, number, behind)));
            }
        }
        found
    }
}

/// Numbered citations that nothing answers, each with its line.
fn unanswered_numbers(text: &Text, pages: &Pages) -> Vec<(usize, String)> {
    let mut unanswered = Vec::new();
    for form in &NUMBERED {
        let Numbered { cited, page, heading } = form;
        for (at, number, behind) in form.citations(text) {
            let section = pages.section(page, &format!("{heading}{number}"));
            let below = subsection(behind).filter(|_| *cited == "D");
            let is_known = below.is_none_or(|below| answers(section.iter().copied(), below));
            if section.is_empty() || !is_known {
                let below = below.map_or(String::new(), |below| format!(", *{below}*"));
                let what = format!("{cited}{number}{below} has no heading in {page}");
                unanswered.push((text.line(at), what));
            }
        }
    }
    unanswered
}

/// Citations of pages that nothing answers, each with its line.
fn unanswered_pages(text: &Text, pages: &Pages) -> Vec<(usize, String)> {
    let mut unanswered = Vec::new();
    for (end, _) in text.joined.match_indices(".md") {
        let end = end + ".md".len();
        let behind = &text.joined[end..];
        let part = |it: char| it.is_ascii_alphanumeric() || "_-./".contains(it);
        let begin = text.joined[..end].rfind(|it: char| !part(it)).map_or(0, |at| at + 1);
        let name = text.joined[begin..end].trim_start_matches(['.', '/']);
        if name == "md" || behind.starts_with(|it: char| it.is_alphanumeric() || it == '_') {
            continue;
        }
        let line = text.line(begin);
        let mut meant = pages.named(name).peekable();
        if meant.peek().is_none() {
            unanswered.push((line, format!("there is no page {name}")));
        } else if let Some(below) = subsection(behind)
            && !meant.any(|page| answers(pages.all(page), below))
        {
            unanswered.push((line, format!("{name} has no heading \"{below}\"")));
        }
    }
    unanswered
}

/// Links to files that are not there.
fn dead_links(page: &str, text: &str) -> Vec<(usize, String)> {
    let folder = root().join(page).parent().expect("a page lies in a folder").to_owned();
    let mut dead = Vec::new();
    for (line, text) in prose(text) {
        for target in text.split("](").skip(1).filter_map(|it| it.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !target.contains("://") && !path.is_empty() && !folder.join(path).exists() {
                dead.push((line, format!("a link to {target}, which is not there")));
            }
        }
    }
    dead
}

/// Sources that a page names between backticks, and that are not there (any more).
fn missing_sources(text: &str, files: &[String]) -> Vec<(usize, String)> {
    let is_path = |it: char| it.is_ascii_alphanumeric() || "_-./".contains(it);
    let mut missing = Vec::new();
    for (line, text) in prose(text) {
        for name in text.split('`').skip(1).step_by(2) {
            let is_source = name.ends_with(".rs") && name.chars().all(is_path);
            let is_there = |path: &String| {
                path.strip_suffix(name).is_some_and(|it| it.is_empty() || it.ends_with('/'))
            };
            if is_source && !files.iter().any(is_there) {
                missing.push((line, format!("there is no {name}")));
            }
        }
    }
    missing
}

fn fail_on(what: &str, found: &[(String, usize, String)]) {
    let list: Vec<_> =
        found.iter().map(|(file, line, why)| format!("{file}:{line}: {why}")).collect();
    assert!(list.is_empty(), "{what}:\n{}", list.join("\n"));
}

#[test]
fn every_citation_has_a_heading() {
    let files = files();
    let pages = Pages::of(&files);
    let mut found = Vec::new();
    for path in files.iter().filter(|path| CITING.iter().any(|end| path.ends_with(end))) {
        // This file speaks of citations.
        if path.ends_with("tests/documents.rs") {
            continue;
        }
        let text = Text::of(&read(path));
        let unanswered = unanswered_numbers(&text, &pages).into_iter();
        let unanswered = unanswered.chain(unanswered_pages(&text, &pages));
        found.extend(unanswered.map(|(line, what)| (path.clone(), line, what)));
    }
    fail_on("citations that nothing answers", &found);
}

#[test]
fn every_link_and_every_named_source_is_there() {
    let files = files();
    let mut found = Vec::new();
    for path in files.iter().filter(|path| path.ends_with(".md")) {
        let text = read(path);
        let dead = dead_links(path, &text).into_iter().chain(missing_sources(&text, &files));
        found.extend(dead.map(|(line, what)| (path.clone(), line, what)));
    }
    fail_on("what pages point at and is not there", &found);
}

#[test]
fn lines_of_documents_are_short() {
    let mut found = Vec::new();
    let pages = files().into_iter().filter(|path| path.ends_with(".md"));
    for path in pages.filter(|path| !GENERATED.contains(&path.as_str())) {
        for (at, line) in prose(&read(&path)) {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !line.starts_with('|') {
                found.push((path.clone(), at, format!("{columns} columns of {COLUMNS_MAX}")));
            }
        }
    }
    fail_on("long lines", &found);
    let lines = read("docs/ARCHITECTURE.md").lines().count();
    assert!(lines <= MAP_LINES_MAX, "docs/ARCHITECTURE.md: {lines} lines of {MAP_LINES_MAX}");
}

/// A citation that is not seen is not checked.
#[test]
fn citations_are_seen_in_all_their_forms() {
    let headings = |texts: &[&str]| texts.iter().map(|it| (2, (*it).to_owned())).collect();
    let pages = Pages {
        headings: BTreeMap::from([
            ("docs/decisions.md".to_owned(), headings(&["D1 · One"])),
            ("docs/holes.md".to_owned(), headings(&["Hole 1 · One"])),
            ("docs/raft.md".to_owned(), headings(&["Elections", "2 Votes"])),
        ]),
    };
    let seen = |text: &str| -> Vec<usize> {
        let text = Text::of(text);
        let numbers = unanswered_numbers(&text, &pages).into_iter();
        numbers.chain(unanswered_pages(&text, &pages)).map(|(line, _)| line).collect()
    };
    let answered = "/// D1, (D1), D1–D1; hole 1, Hole 1, holes 1 and 1; `raft.md` §2, raft.md,\n\
                    /// *Elections*; docs/raft.md; FD2, D1a, 0xD2, D02, pothole 2, hole_2, x.mdx";
    assert_eq!(seen(answered), [], "all of it is answered, or is no citation");
    let unanswered = [
        "D2",
        "D21,",
        "(S3)",
        "L9.",
        "R1",
        "hole 2",
        "Holes 2",
        "holes 1, 1 and 2",
        "mistake 1",
        "failure story 1",
        "other.md",
        "`raft.md` §3",
        "raft.md, *Votes*",
        "D1, *Two*",
    ];
    for text in unanswered {
        assert_eq!(seen(&format!("first\n    // {text}")), [2], "{text}");
    }
}

/// The documents that commands print, by their schemas, with the fields that they begin with.
fn printed() -> BTreeMap<String, Vec<String>> {
    const BEGIN: &str = "rename = \"sharklock.v1.";
    let mut printed = BTreeMap::new();
    let sources =
        files().into_iter().filter(|it| it.starts_with("cli/src/") && it.ends_with(".rs"));
    for source in sources {
        let text = read(&source);
        for (at, _) in text.match_indices(BEGIN) {
            let rest = &text[at + BEGIN.len()..];
            let (schema, rest) = rest.split_once('"').expect("a name ends");
            let (_, body) = rest.split_once("struct ").expect("a document is a struct");
            let (_, body) = body.split_once('{').expect("it has fields");
            let (body, _) = body.split_once("\n}").expect("it ends");
            let field = |line: &str| {
                let line =
                    line.strip_prefix("    ").filter(|line| !line.starts_with([' ', '/', '#']))?;
                let line = line.strip_prefix("pub ").unwrap_or(line);
                Some(line.split_once(':')?.0.to_owned())
            };
            printed.insert(schema.to_owned(), body.lines().filter_map(field).collect());
        }
    }
    printed
}

/// The same as `docs/cli.md` has it.
fn documented() -> BTreeMap<String, Vec<String>> {
    let text = read("docs/cli.md");
    let (_, table) = text.split_once("| Schema |").expect("the table of documents");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].to_owned(), cells[2].split(", ").map(str::to_owned).collect())
    };
    rows.map(row).collect()
}

#[test]
fn every_document_that_a_command_prints_is_on_the_page_of_the_command_line() {
    let (mut printed, documented) = (printed(), documented());
    assert!(printed.len() > 20, "the sources are read wrongly: {printed:?}");
    for (schema, fields) in &documented {
        let known = printed.remove(schema);
        assert_eq!(known.as_ref(), Some(fields), "docs/cli.md: {schema}");
    }
    assert_eq!(printed, BTreeMap::new(), "docs/cli.md lacks these");
}
