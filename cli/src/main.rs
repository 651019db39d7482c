//! The one binary of SharkLock: `server` and `dev` run the service, `lock` runs a command under a lock,
//! the rest looks and measures.
//!
//! It owns the command line, exit codes, processes and the wiring of the servers' parts. What a
//! lock is, is decided elsewhere.

mod admin;
mod args;
mod bench;
mod config;
mod dev;
mod exit;
mod identity;
mod lock;
mod logs;
mod render;
mod runtime;
mod server;
mod spawn;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::{
    args::{Cli, Command},
    exit::{Failure, LOCK_USAGE},
};

/// Messages are made on one thread and freed on another, all the time: glibc's allocator takes 40 %
/// of a range's CPU for that, this one half as much.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli).map_or_else(|failure| failure.report(), ExitCode::from),
        Err(error) => usage(&error),
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let Cli { reach, command } = cli;
    let serves = match &command {
        Command::Server(_) => true,
        Command::Dev(args) => args.command.is_none(),
        _ => false,
    };
    logs::start(if serves { logs::SERVER } else { logs::COMMAND })?;
    match command {
        Command::Dev(args) => dev::run(args),
        Command::Server(args) => server::run(args, reach.cluster_id()),
        Command::Lock(args) => lock::run(&reach, &args),
        Command::Status(args) => runtime::start(1)?.block_on(admin::status(&reach, args)),
        Command::Locks(args) => runtime::start(1)?.block_on(admin::locks(&reach, args.command)),
        Command::Ranges(args) => runtime::start(1)?.block_on(admin::ranges(&reach, args.command)),
        Command::Masters(args) => runtime::start(1)?.block_on(admin::masters(&reach, args.command)),
        Command::Ops(args) => runtime::start(1)?.block_on(admin::ops(&reach, args.command)),
        Command::Sessions(args) => {
            runtime::start(1)?.block_on(admin::sessions(&reach, args.command))
        }
        Command::Stores(args) => runtime::start(1)?.block_on(admin::stores(&reach, args.command)),
        Command::Schedule(args) => {
            runtime::start(1)?.block_on(admin::schedule(&reach, args.command))
        }
        Command::Recover(args) => runtime::start(1)?.block_on(admin::recover(&reach, args.command)),
        Command::Bench(args) => {
            runtime::start(runtime::workers_per_core())?.block_on(bench::run(reach, args))
        }
        Command::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "sharklock", &mut script);
            render::print(&String::from_utf8_lossy(&script))?;
            Ok(exit::OK)
        }
    }
}

/// Prints help, version or what is wrong with the arguments. `lock` has an exit code of its own for
/// the last, because 2 may be its command's.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match (error.exit_code(), means_lock()) {
        (0, _) => ExitCode::SUCCESS,
        (_, true) => ExitCode::from(LOCK_USAGE),
        (_, false) => ExitCode::from(exit::USAGE),
    }
}

/// Whether the arguments, wrong as they are, call `lock`.
fn means_lock() -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("lock"))
}
