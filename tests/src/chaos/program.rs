//! Programs that are run to their end, and what a machine may fail to do.

use std::ffi::OsStr;
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than anything takes that is waited for: a stop of clients, a start of all containers.
pub const PROGRAM_MAX: Duration = Duration::from_secs(240);

/// The machine did not do what was asked of it, which says nothing about the cluster.
#[derive(Debug)]
pub struct MachineFault {
    what: String,
    /// The exit code of the program that was to do it, if it was one and had one.
    pub code: Option<i32>,
}

impl MachineFault {
    /// A fault in words.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), code: None }
    }

    /// Whether an error is of the machine, whatever was said on top of it.
    pub fn is_in(error: &anyhow::Error) -> bool {
        Self::of(error).is_some()
    }

    /// The fault in an error.
    pub fn of(error: &anyhow::Error) -> Option<&Self> {
        error.chain().find_map(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for MachineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for MachineFault {}

/// Runs a program to its end: what it printed.
///
/// # Errors
/// A [`MachineFault`] when it does not end well, with what it said.
pub async fn run<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    finish(command, None).await
}

/// The same of a command that is made already, with this input.
///
/// # Errors
/// A [`MachineFault`] when it does not end well, with what it said.
pub async fn finish(command: Command, input: Option<&str>) -> Result<String> {
    finish_within(PROGRAM_MAX, command, input).await
}

async fn finish_within(
    limit: Duration,
    mut command: Command,
    input: Option<&str>,
) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let fault = |what: String, code| MachineFault { what: format!("{shown}: {what}"), code };
    let mut child = command.spawn().map_err(|why| fault(why.to_string(), None))?;
    let ended = timeout(limit, async {
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            // Who reads no input says himself why, and that is worth more.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    });
    let output = match ended.await {
        Ok(output) => output.with_context(|| shown.clone())?,
        Err(_) => return Err(fault(format!("not done after {limit:?}"), None).into()),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{}: {}", output.status, said.trim());
        return Err(fault(what, output.status.code()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_fails_to_do_is_the_machines_fault_with_what_it_said() {
        let why = run("sh", ["-c", "echo no >&2; exit 7"]).await.expect_err("it ends with 7");
        let why = why.context("on top");
        assert_eq!(MachineFault::of(&why).expect("it is one").code, Some(7));
        assert!(format!("{why:#}").ends_with("no"), "{why:#}");
        let why = run("no-such-program", [""]).await.expect_err("there is none");
        assert!(MachineFault::is_in(&why), "{why:#}");
        assert!(!MachineFault::is_in(&anyhow::anyhow!("a range has no leader")));
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_given_up() {
        let mut command = Command::new("sleep");
        command.arg("3600");
        let why = finish_within(Duration::from_millis(50), command, None).await;
        let why = why.expect_err("it sleeps for an hour");
        assert!(why.to_string().ends_with("not done after 50ms"), "{why}");
        assert!(MachineFault::is_in(&why));
    }
}
