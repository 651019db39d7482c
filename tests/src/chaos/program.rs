//! Programs that are run to their end.

use std::ffi::OsStr;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Runs a program to its end: what it printed.
///
/// # Errors
/// When it does not end well, with what it said.
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
/// When it does not end well, with what it said.
pub async fn finish(mut command: Command, input: Option<&str>) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| shown.clone())?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).await?;
    }
    let output = child.wait_with_output().await.with_context(|| shown.clone())?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{shown}: {}: {}", output.status, err.trim());
    Ok(out.into_owned())
}
