//! Compares SharkLock with etcd, ZooKeeper and Redis on this machine. `scripts/bench-peers.sh`
//! installs and builds what it needs.

use std::process::ExitCode;

use clap::Parser as _;
use sharklock_bench::{interrupted, peers};

#[tokio::main]
async fn main() -> ExitCode {
    interrupted::exit_code(peers::run(&peers::Args::parse())).await
}
