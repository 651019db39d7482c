//! Golden scripts of the engine: `testscripts/*.txt`, each named after a behaviour, its first line
//! saying it in a sentence. A line `> command` is played; what follows it, up to an empty line or
//! the next command, is what it led to. `UPDATE_SCRIPTS=1 cargo test -p sharklock-multiraft --test
//! engine scripts` rewrites that: read the difference before you commit it.
//!
//! The commands are listed in `testscripts/README.md`. Beside what a script says, every turn passes
//! [`crate::checks`].

mod forge;
mod line;
mod stage;

use std::fs;
use std::path::PathBuf;

use stage::Stage;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts");

fn scripts() -> Vec<PathBuf> {
    let entries = fs::read_dir(FOLDER).expect("the folder of scripts is readable");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "txt"));
    paths.sort();
    paths
}

/// The script as it would be if it led to what it leads to today.
fn replay(script: &str) -> String {
    let mut stage = Stage::new();
    let mut replayed = String::new();
    let mut is_output = false;
    for line in script.lines() {
        let command = line.strip_prefix("> ");
        if is_output && command.is_none() && !line.is_empty() {
            continue;
        }
        replayed.push_str(line);
        replayed.push('\n');
        if let Some(command) = command {
            replayed.push_str(&stage.play(command));
        }
        is_output = command.is_some() || (is_output && !line.is_empty());
    }
    replayed
}

#[test]
fn every_script_plays_as_written() {
    let scripts = scripts();
    let count = scripts.len();
    let update = std::env::var_os("UPDATE_SCRIPTS").is_some();
    let mut failed = vec![];
    for path in scripts {
        let script = fs::read_to_string(&path).expect("a script is readable");
        let intent = script.lines().next().unwrap_or_default();
        assert!(intent.ends_with('.'), "{}: the first line is one sentence", path.display());
        let replayed = replay(&script);
        if replayed == script {
            continue;
        }
        if update {
            fs::write(&path, replayed).expect("a script is writable");
            continue;
        }
        let differs = script.lines().zip(replayed.lines()).position(|(was, is)| was != is);
        let line = differs.unwrap_or(script.lines().count().min(replayed.lines().count()));
        let (was, is) = (script.lines().nth(line), replayed.lines().nth(line));
        failed.push(format!("{}:{}\n  was {was:?}\n  is  {is:?}", path.display(), line + 1));
    }
    assert!(failed.is_empty(), "scripts play differently:\n{}", failed.join("\n"));
    assert!(count >= 30, "only {count} scripts found");
}

/// Every story has a row, every script has a story, and every file that a row names is there.
#[test]
fn every_story_has_its_script() {
    let readme = fs::read_to_string(format!("{FOLDER}/README.md")).expect("it is readable");
    let (_, table) = readme.split_once("<!-- stories -->").expect("the table begins");
    let (table, _) = table.split_once("<!-- /stories -->").expect("the table ends");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let holes = [7, 26, 27, 28, 29, 30, 32].map(|number| format!("hole {number}"));
    let mistakes = (1..=11).map(|number| format!("mistake {number}"));
    let failures = (1..=22).map(|number| format!("failure story {number}"));
    for story in holes.into_iter().chain(mistakes).chain(failures) {
        let begins = |row: &&&str| row.starts_with(&format!("| {story} "));
        assert_eq!(rows.iter().filter(begins).count(), 1, "rows of {story}");
    }
    let mut named: Vec<_> = table
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| name.strip_suffix(".txt"))
        .map(|name| format!("{name}.txt"))
        .collect();
    named.sort();
    named.dedup();
    let files: Vec<_> = scripts()
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(named, files, "the scripts that the table names are those that are there");
}
