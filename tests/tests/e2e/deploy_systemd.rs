//! deploy/systemd: the example settings are taken by the program, and the unit by systemd.

use std::path::{Path, PathBuf};
use std::process::Command;

use sharklock_tests::process::{command, sharklock};
use tempfile::TempDir;

fn systemd() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    root.join("deploy/systemd")
}

#[test]
fn the_example_settings_are_good() {
    let file = systemd().join("sharklock.toml");
    let mut check = command(["server", "--print-config", "--config"]);
    let output = check.arg(&file).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("it is text");
    // What it prints is what the file says, and the unit allows no other places.
    let unit = std::fs::read_to_string(systemd().join("sharklock.service")).expect("it is there");
    for (setting, directory) in [
        ("data_dir = \"/var/lib/sharklock\"", "StateDirectory=sharklock"),
        ("audit_file = \"/var/log/sharklock/audit.json\"", "LogsDirectory=sharklock"),
    ] {
        assert!(printed.contains(setting), "{printed}");
        assert!(unit.contains(directory), "{unit}");
    }
}

/// Also the commented settings of the example are settings.
#[test]
fn what_the_example_leaves_out_is_good_too() {
    let text = std::fs::read_to_string(systemd().join("sharklock.toml")).expect("it is there");
    let is_setting = |line: &str| line.starts_with('[') || line.contains(" = ");
    let uncommented = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    let whole: Vec<_> = uncommented.collect();
    assert_ne!(whole.join("\n"), text.trim_end(), "something is commented out");
    let dir = TempDir::new().expect("a temporary directory can be made");
    let file = dir.path().join("sharklock.toml");
    std::fs::write(&file, whole.join("\n")).expect("the directory is ours");
    let mut check = command(["server", "--print-config", "--config"]);
    let output = check.arg(&file).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let unit = std::fs::read_to_string(systemd().join("sharklock.service")).expect("it is there");
    // It wants the program to be where the unit says.
    let program = sharklock().canonicalize().expect("it is there").display().to_string();
    assert!(unit.contains("/usr/bin/sharklock server"));
    let dir = TempDir::new().expect("a temporary directory can be made");
    let file = dir.path().join("sharklock.service");
    std::fs::write(&file, unit.replace("/usr/bin/sharklock", &program)).expect("it is ours");
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&file).output();
    let output = output.unwrap_or_else(|why| {
        panic!("systemd-analyze is missing: install Debian's package `systemd` ({why})")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    let about_it: Vec<_> = said.lines().filter(|line| line.contains("sharklock")).collect();
    assert!(output.status.success() && about_it.is_empty(), "{said}");
    // The directories that the unit does not make, and the user, are made by the files beside it.
    let read = |name: &str| std::fs::read_to_string(systemd().join(name)).expect("it is there");
    // Both make this one, whichever comes first.
    assert!(read("sharklock.tmpfiles").contains("d /etc/sharklock 0750 root sharklock"));
    assert!(unit.contains("ConfigurationDirectoryMode=0750"));
    assert!(read("sharklock.tmpfiles").contains("/etc/sharklock/sharklock.toml"));
    assert!(read("sharklock.sysusers").lines().any(|line| line.starts_with("u sharklock ")));
}
