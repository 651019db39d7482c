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
    assert!(scripts.len() >= 20, "only {} scripts found", scripts.len());
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
