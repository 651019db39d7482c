//! The one binary of SharkLock: `server` and `dev` run the service, `lock` runs a command under a lock,
//! the rest looks and measures.
//!
//! It owns the command line, exit codes, processes and the wiring of the servers' parts. What a
//! lock is, is decided elsewhere.

mod admin;
mod args;
mod bench;
mod completion;
mod config;
mod debug;
mod dev;
mod diagnosis;
mod doctor;
mod exit;
mod health;
mod identity;
mod lock;
mod logs;
mod probe;
mod recent_log;
mod recent_spans;
mod render;
mod runtime;
mod server;
mod spawn;
mod traces;
mod unserved;
mod version;

use std::{env, process::ExitCode};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::{
    args::{Cli, Command, OUTPUT_VARIABLE, Output, ReachArgs},
    exit::{Failure, LOCK_USAGE},
};

/// Messages are made on one thread and freed on another, all the time: glibc's allocator takes 40 %
/// of a range's CPU for that, this one half as much.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    completion::answer();
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        if asks_for_json(&matches) {
            exit::report_as_json();
        }
        Cli::from_arg_matches(&matches)
    });
    match parsed {
        Ok(cli) => run(cli).map_or_else(|failure| failure.report(), ExitCode::from),
        Err(error) => usage(&error),
    }
}

/// Whether the command that is meant prints its result as JSON.
fn asks_for_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, matches)) => asks_for_json(matches),
        None => matches.try_get_one("output").ok().flatten() == Some(&Output::Json),
    }
}

/// The same of arguments that cannot be understood as a whole.
fn seems_to_ask_for_json(arguments: &[String], variable: Option<&str>) -> bool {
    let arguments = arguments.split(|it| it == "--").next().unwrap_or_default();
    let mut said = None;
    for (at, argument) in arguments.iter().enumerate() {
        match argument.as_str() {
            "-o" | "--output" => said = arguments.get(at + 1).map(String::as_str).or(said),
            other => {
                let value = other.strip_prefix("--output=").or(other.strip_prefix("-o"));
                said = value.map(|value| value.trim_start_matches('=')).or(said);
            }
        }
    }
    said.or(variable) == Some("json")
}

fn run(cli: Cli) -> Result<u8, Failure> {
    let Cli { reach, command } = cli;
    // `lock` keeps its promises about time: it does not ask on.
    let may_ask = !matches!(command, Command::Lock(_));
    obey(&reach, command).map_err(|failure| match may_ask {
        true => diagnosis::completed(failure, &reach),
        false => failure,
    })
}

fn obey(reach: &ReachArgs, command: Command) -> Result<u8, Failure> {
    let serves = match &command {
        Command::Server(_) => true,
        Command::Dev(args) => args.command.is_none(),
        _ => false,
    };
    logs::start(if serves { logs::SERVER } else { logs::COMMAND }, serves)?;
    match command {
        Command::Dev(args) => dev::run(args),
        Command::Server(args) => server::run(args, reach.cluster_id()),
        Command::Lock(args) => lock::run(reach, &args),
        Command::Status(args) => runtime::start(1)?.block_on(admin::status(reach, args)),
        Command::Locks(args) => runtime::start(1)?.block_on(admin::locks(reach, args.command)),
        Command::Ranges(args) => runtime::start(1)?.block_on(admin::ranges(reach, args.command)),
        Command::Masters(args) => runtime::start(1)?.block_on(admin::masters(reach, args.command)),
        Command::Ops(args) => runtime::start(1)?.block_on(admin::ops(reach, args.command)),
        Command::Sessions(args) => {
            runtime::start(1)?.block_on(admin::sessions(reach, args.command))
        }
        Command::Stores(args) => runtime::start(1)?.block_on(admin::stores(reach, args.command)),
        Command::Schedule(args) => {
            runtime::start(1)?.block_on(admin::schedule(reach, args.command))
        }
        Command::Recover(args) => runtime::start(1)?.block_on(admin::recover(reach, args.command)),
        Command::Debug(args) => debug::run(reach, args.command),
        Command::Doctor(args) => doctor::run(reach, args),
        Command::Version(args) => version::run(reach, args),
        Command::Health(args) => health::run(args),
        Command::Bench(args) => {
            runtime::start(runtime::threads_per_core())?.block_on(bench::run(reach.clone(), args))
        }
        Command::Completion(args) => {
            render::print(&completion::script(args.shell)?)?;
            Ok(exit::OK)
        }
    }
}

/// Prints help, version or what is wrong with the arguments. `lock` has an exit code of its own for
/// the last, because 2 may be its command's.
fn usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    let variable = env::var(OUTPUT_VARIABLE).ok();
    let code = match (error.exit_code(), means_lock()) {
        (0, _) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        (_, true) => LOCK_USAGE,
        (_, false) => exit::USAGE,
    };
    if is_the_environments_fault() {
        let failure = usage_failure(exit::CONFIG, &error.to_string());
        return failure
            .cause("a variable of the environment says so: correct or remove it")
            .report();
    }
    if code != LOCK_USAGE && seems_to_ask_for_json(&arguments, variable.as_deref()) {
        exit::report_as_json();
        return usage_failure(code, &error.to_string()).report();
    }
    let _ = error.print();
    ExitCode::from(code)
}

/// Words of the parser as one failure: the fault, and what it says beside that.
fn usage_failure(code: u8, text: &str) -> Failure {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("wrong arguments");
    let failure = Failure::new(code, first.strip_prefix("error: ").unwrap_or(first));
    lines.fold(failure, |failure, line| match line.strip_prefix("For more information, ") {
        Some(more) => failure.hint(more),
        None => failure.cause(line),
    })
}

/// Whether a server's arguments are good by themselves, so that a variable in their place is not: whoever
/// runs containers sets those, and is told as of any other setting.
fn is_the_environments_fault() -> bool {
    let bare = Cli::command().mut_args(|argument| argument.env(None::<&str>));
    let matches = bare.try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("server"))
}

/// Whether the arguments, wrong as they are, call `lock`.
fn means_lock() -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    matches.is_ok_and(|matches| matches.subcommand_name() == Some("lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn json_is_asked_for_where_the_command_takes_it() {
        let asks = |line: &str| {
            asks_for_json(&Cli::command().try_get_matches_from(line.split(' ')).expect("it parses"))
        };
        assert!(asks("sharklock locks ls --output json"));
        assert!(asks("sharklock status -o json"));
        assert!(!asks("sharklock status"));
        assert!(!asks("sharklock lock a -- x --output json"));
    }

    #[test]
    fn wrong_arguments_are_told_as_json_where_that_was_asked_for() {
        let seems = |line: &str| seems_to_ask_for_json(&arguments(line), None);
        for line in ["locks ls --output json --tyr", "lcoks -o json", "x --output=json", "x -ojson"]
        {
            assert!(seems(line), "{line}");
        }
        for line in ["locks ls --tyr", "lock a --tyr -- x -o json", "x -o table", "x -o"] {
            assert!(!seems(line), "{line}");
        }
        assert!(seems_to_ask_for_json(&[], Some("json")));
        assert!(!seems_to_ask_for_json(&arguments("x -o table"), Some("json")));
    }

    #[test]
    fn words_of_the_parser_become_one_failure() {
        let error = Cli::command().try_get_matches_from(["sharklock", "locks", "sl"]);
        let failure = usage_failure(exit::USAGE, &error.expect_err("a typo").to_string());
        let document = serde_json::to_value(failure.document()).expect("it is JSON");
        let error = &document["error"];
        assert_eq!((&error["code"], &error["reason"]), (&2.into(), &"USAGE".into()));
        assert_eq!(error["message"], "unrecognized subcommand 'sl'");
        assert_eq!(error["hint"], "try '--help'.");
    }
}
