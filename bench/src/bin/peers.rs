//! Compares SharkLock with etcd, ZooKeeper and Redis on this machine. `scripts/bench-peers.sh`
//! installs and builds what it needs.

use std::process::ExitCode;

use clap::Parser as _;
use sharklock_bench::peers::{self, Args};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match interruptible(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Dropping the run kills every server that it started and removes their directories.
async fn interruptible(args: &Args) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = peers::run(args) => done,
        _ = interrupt.recv() => anyhow::bail!("interrupted; all servers are ended"),
        _ = terminate.recv() => anyhow::bail!("terminated; all servers are ended"),
    }
}
