//! The shape of the workspace: what `docs/ARCHITECTURE.md` says about crates is what cargo builds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Core crates: each has its own copy of the root's `clippy.toml`, with the bans of D1.
const CORES: [&str; 8] =
    ["locktable", "rangemap", "multiraft", "master", "dataserver", "gateway", "client", "history"];

/// Crates with a default feature `edge`, without which they are pure.
const EDGED: [&str; 6] = ["proto", "multiraft", "master", "dataserver", "gateway", "client"];

/// Packages that are in no tree without `edge`.
const EDGE_ONLY: [&str; 3] = ["tokio", "tonic", "rocksdb"];

/// Two versions of one of these would be built, linked and patched twice.
const HEAVY: [&str; 9] =
    ["tokio", "tonic", "prost", "hyper", "h2", "rocksdb", "rustls", "axum", "raft"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the crate lies in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs cargo on the workspace as it is locked, without a network.
fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).args(["--offline", "--locked"]).current_dir(root());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The edges that cargo knows: of the product, and all with those of tests and build scripts.
fn graphs() -> (Graph, Graph) {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let (mut product, mut all) = (Graph::new(), Graph::new());
    for package in metadata["packages"].as_array().expect("packages") {
        let path = Path::new(package["manifest_path"].as_str().expect("a path"));
        let folder = path.parent().and_then(Path::file_name).expect("a folder");
        let folder = folder.to_str().expect("an ASCII name").to_owned();
        assert_eq!(package["name"], format!("sharklock-{folder}"), "packages are named by folder");
        let (product, all) =
            (product.entry(folder.clone()).or_default(), all.entry(folder).or_default());
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name");
            let Some(to) = name.strip_prefix("sharklock-") else { continue };
            all.insert(to.to_owned());
            if dependency["kind"].is_null() {
                product.insert(to.to_owned());
            }
        }
    }
    (product, all)
}

/// The table in `docs/ARCHITECTURE.md`: folder, and what it may use.
fn table() -> Graph {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    let (_, table) = text.split_once("<!-- crate-graph -->").expect("the table is marked");
    let (table, _) = table.split_once("<!-- /crate-graph -->").expect("the table is marked");
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (quoted(cells[1]).remove(0), quoted(cells[3]).into_iter().collect())
    })
    .collect()
}

#[test]
fn the_crate_graph_is_the_one_in_the_architecture_page() {
    let (product, all) = graphs();
    let table = table();
    assert_eq!(product, table, "left: cargo metadata; right: docs/ARCHITECTURE.md");
    for (folder, edges) in all {
        let forbidden: Vec<_> = edges.difference(&table[&folder]).collect();
        assert!(forbidden.is_empty(), "tests or build scripts of {folder} use {forbidden:?}");
    }
}

#[test]
fn without_edge_nothing_of_the_outside_world_is_in_the_tree() {
    for folder in EDGED {
        let package = format!("sharklock-{folder}");
        let tree = |features: &[&str]| -> BTreeSet<String> {
            let args = ["tree", "-p", &package, "-e", "normal", "--prefix", "none", "-f", "{p}"];
            let listed = cargo(&[&args, features].concat());
            listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        let pure = tree(&["--no-default-features"]);
        assert!(pure.contains(&package), "{pure:?}");
        let outside: Vec<_> = EDGE_ONLY.iter().filter(|name| pure.contains(**name)).collect();
        assert!(outside.is_empty(), "{package} without `edge` uses {outside:?}");
        let full = tree(&[]);
        let edge: Vec<_> = EDGE_ONLY.iter().filter(|name| full.contains(**name)).collect();
        assert!(!edge.is_empty(), "{package} with `edge` should use some of {EDGE_ONLY:?}");
    }
}

#[test]
fn pure_crates_list_nothing_of_the_outside_world() {
    for folder in ["locktable", "rangemap", "history"] {
        let package = format!("sharklock-{folder}");
        let args = ["tree", "-p", &package, "-e", "normal", "--prefix", "none", "-f", "{p}"];
        let tree = cargo(&args);
        for outside in ["tokio", "tonic", "rocksdb", "raft", "rand", "prost"] {
            let found = tree.lines().any(|line| line.split(' ').next() == Some(outside));
            assert!(!found, "{package} uses {outside}");
        }
    }
}

#[test]
fn every_core_has_the_bans_of_the_root() {
    let bans = read(&root().join("clippy.toml"));
    for core in CORES {
        let own = read(&root().join(core).join("clippy.toml"));
        assert_eq!(own, bans, "{core}/clippy.toml differs from the root's");
    }
    for entry in std::fs::read_dir(root()).expect("the workspace is readable") {
        let path = entry.expect("a folder").path().join("clippy.toml");
        if path.is_file() {
            assert_eq!(read(&path), bans, "{} differs from the root's", path.display());
        }
    }
}

#[test]
fn heavy_dependencies_have_one_version() {
    let lock = read(&root().join("Cargo.lock"));
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let value = |line: &'_ str, key: &str| -> Option<usize> {
            line.starts_with(key).then_some(key.len())
        };
        if let Some(at) = value(line, "name = ") {
            let name = line[at..].trim_matches('"');
            let version = lines.next().expect("a version follows a name");
            versions.entry(name).or_default().push(version);
        }
    }
    assert!(versions.contains_key("tokio"), "the lock file is read");
    for heavy in HEAVY {
        let found = versions.get(heavy).map_or(&[][..], Vec::as_slice);
        assert!(found.len() <= 1, "{heavy} is locked in {found:?}");
    }
}

#[test]
fn every_module_says_what_it_owns() {
    let mut silent = Vec::new();
    let mut folders: Vec<PathBuf> = CORES.map(|core| root().join(core).join("src")).into();
    for other in ["bench", "cli", "proto", "sim", "tests"] {
        folders.push(root().join(other).join("src"));
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let is_tests = path.file_stem().is_some_and(|stem| stem == "tests");
                if !is_tests && !read(&path).starts_with("//!") {
                    silent.push(path);
                }
            }
        }
    }
    assert!(silent.is_empty(), "modules without `//!`: {silent:#?}");
}
