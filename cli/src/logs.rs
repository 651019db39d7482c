//! Log events and panics go to stderr: readable on a terminal, JSON elsewhere.

use std::{
    backtrace::Backtrace,
    env,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::exit::{Failure, USAGE};

/// Variables that may hold the filter, the first one set wins.
const FILTER_VARIABLES: [&str; 2] = ["SHARKLOCK_LOG", "RUST_LOG"];

/// The filter of a server unless told otherwise: its own events, and its libraries' warnings.
pub const SERVER: &str = "warn,sharklock=info";
/// What operators have done against holders is logged whatever the filter says of other things, unless
/// it names this target.
const AUDIT: &str = "audit";
/// The filter of a command unless told otherwise: its result says the rest.
pub const COMMAND: &str = "error";

/// Starts logging, and makes every panic an event and the end of the process: a task that died
/// half-way would leave the others to serve a state that nobody understands (D5).
pub fn start(default_filter: &str) -> Result<(), Failure> {
    let filter = filter(default_filter, |name| env::var(name).ok())?;
    let terminal = io::stderr().is_terminal();
    let compact = terminal.then(|| {
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing_subscriber::fmt::layer().compact().with_ansi(colour).with_writer(io::stderr)
    });
    let json = (!terminal).then(|| tracing_subscriber::fmt::layer().json().with_writer(io::stderr));
    tracing_subscriber::registry().with(filter).with(compact).with(json).init();
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::force_capture();
        tracing::error!(%panic, %backtrace, "a panic: this is a bug, the process ends");
        if !tracing::enabled!(tracing::Level::ERROR) {
            eprintln!("sharklock: {panic}\n{backtrace}");
        }
        std::process::abort();
    }));
    Ok(())
}

fn filter(default: &str, variable: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, Failure> {
    let set = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| variable(name).filter(|v| !v.is_empty()).map(|value| (name, value)));
    let Some((name, value)) = set else {
        return Ok(EnvFilter::new(with_audit(default)));
    };
    EnvFilter::try_new(with_audit(&value)).map_err(|why| {
        Failure::new(USAGE, format!("{name}={value:?} is not a log filter"))
            .cause(why)
            .hint("use a level, or targets with levels: debug, or warn,sharklock_gateway=trace")
    })
}

fn with_audit(filter: &str) -> String {
    let names_it = filter.split(',').any(|directive| directive.trim().starts_with(AUDIT));
    if names_it { filter.to_owned() } else { format!("{filter},{AUDIT}=info") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(own: Option<&str>, general: Option<&str>) -> String {
        let variable = |name: &str| match name {
            "SHARKLOCK_LOG" => own.map(str::to_owned),
            "RUST_LOG" => general.map(str::to_owned),
            other => panic!("{other} is not read"),
        };
        filter("warn", variable).map_or_else(|failure| failure.to_string(), |f| f.to_string())
    }

    #[test]
    fn our_own_variable_wins_over_rust_log() {
        assert_eq!(chosen(None, None), "audit=info,warn");
        assert_eq!(chosen(Some(""), Some("error")), "audit=info,error");
        assert_eq!(chosen(Some("debug"), Some("info")), "audit=info,debug");
    }

    #[test]
    fn a_filter_drops_audit_lines_only_by_their_name() {
        assert_eq!(chosen(Some("sharklock=trace"), None), "sharklock=trace,audit=info");
        assert_eq!(chosen(Some("info,audit=off"), None), "audit=off,info");
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        let text = chosen(Some("x=y=z"), None);
        assert!(text.starts_with("error: SHARKLOCK_LOG=\"x=y=z\" is not a log filter\n"), "{text}");
    }
}
