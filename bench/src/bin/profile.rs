//! Tells where the time of a cycle goes, on this machine. `scripts/profile.sh` installs and builds what it
//! needs.

use std::process::ExitCode;

use clap::Parser as _;
use sharklock_bench::{interrupted, profile};

#[tokio::main]
async fn main() -> ExitCode {
    interrupted::exit_code(profile::run(&profile::Args::parse())).await
}
