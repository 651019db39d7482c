//! A program that starts servers ends them when it is told to end.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Runs until the end, or until this process is told to end: the exit code, after the error was told.
pub async fn exit_code(run: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    match interruptible(run).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Dropping the run kills every server that it started and removes their directories.
async fn interruptible(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run => done,
        _ = interrupt.recv() => anyhow::bail!("interrupted; all servers are ended"),
        _ = terminate.recv() => anyhow::bail!("terminated; all servers are ended"),
    }
}
