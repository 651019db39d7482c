//! Golden scripts: `testscripts/*.txt`, each named after a behaviour, its first line saying it in a
//! sentence. A line `> command` runs; what follows it, up to an empty line or the next command, is
//! its output. `UPDATE_SCRIPTS=1 cargo test -p sharklock-locktable --test scripts` rewrites the
//! outputs: read the difference before you commit it.

mod language;
mod machine;
mod print;

use std::{fs, path::PathBuf};

use crate::machine::Machine;

fn scripts() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts");
    let entries = fs::read_dir(folder).expect("the folder of scripts is readable");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// The script as it would be if its outputs were those of today.
fn replay(script: &str) -> String {
    let mut machine = Machine::default();
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
            replayed.push_str(&machine.run(command));
        }
        is_output = command.is_some() || (is_output && !line.is_empty());
    }
    replayed
}

#[test]
fn every_script_plays_as_written() {
    let scripts = scripts();
    assert!(scripts.len() >= 50, "only {} scripts found", scripts.len());
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
}

/// The cells of the rows of README.md whose first cell is a number, by the table's first heading.
fn rows_of(heading: &str, readme: &str) -> Vec<(usize, String)> {
    let table = readme.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let rows = table.take_while(|line| line.starts_with('|')).filter_map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        Some((cells.first()?.parse().ok()?, cells.last()?.to_string()))
    });
    rows.collect()
}

#[test]
fn every_hole_and_pitfall_has_its_home() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts"));
    let readme = fs::read_to_string(folder.join("README.md")).expect("the table is readable");
    let mut named = vec![];
    for (heading, count) in [("hole", 32), ("pitfall", 27)] {
        let rows = rows_of(heading, &readme);
        let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{heading}s");
        for (number, told_by) in rows {
            assert!(!told_by.is_empty(), "{heading} {number} has no home");
            let files = told_by.split('`').filter(|word| word.ends_with(".txt"));
            named.extend(files.map(|file| (heading, number, file.to_owned())));
        }
    }
    for (heading, number, file) in &named {
        assert!(folder.join(file).exists(), "{heading} {number}: there is no {file}");
    }
    // A script that is named after a story stands in that story's row.
    for path in scripts() {
        let file = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let Some((heading, rest)) = file.split_once('_') else { continue };
        if !["hole", "pitfall"].contains(&heading) {
            continue;
        }
        let number = rest.get(..2).and_then(|number| number.parse().ok());
        let number: usize = number.unwrap_or_else(|| panic!("{file}: two digits"));
        let in_its_row =
            named.iter().any(|(it, of, name)| (*it, *of, name) == (heading, number, &file));
        assert!(in_its_row, "{file} is not in the row of {heading} {number}");
    }
}
