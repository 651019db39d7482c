//! Log events and panics go to stderr: readable on a terminal, JSON elsewhere.

use std::{
    backtrace::Backtrace,
    env,
    fs::File,
    io::{self, IsTerminal as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::OnceLock,
};

use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{LevelFilter, Targets},
    fmt::{MakeWriter, writer::OptionalWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    exit::{CONFIG, Failure, USAGE},
    recent_log::RECENT,
};

/// Variables that may hold the filter, the first one set wins.
const FILTER_VARIABLES: [&str; 2] = ["SHARKLOCK_LOG", "RUST_LOG"];

/// The filter of a server unless told otherwise: its own events, and its libraries' warnings.
pub const SERVER: &str = "warn,sharklock=info";
/// What operators have done against holders is logged whatever the filter says of other things, unless
/// it names this target.
pub const AUDIT: &str = "audit";
/// The file that has the audit lines, too, once somebody has named one.
static AUDIT_FILE: OnceLock<File> = OnceLock::new();
/// The filter of a command unless told otherwise: its result says the rest.
pub const COMMAND: &str = "off";

/// Starts logging, and makes every panic an event and the end of the process: a task that died
/// half-way would leave the others to serve a state that nobody understands (D5).
/// What `serves` keeps its last lines in memory, too, and is refused as wrongly configured where the filter
/// cannot be understood.
pub fn start(default_filter: &str, serves: bool) -> Result<(), Failure> {
    let refusal = if serves { CONFIG } else { USAGE };
    let filter = filter(default_filter, refusal, |name| env::var(name).ok())?;
    let terminal = io::stderr().is_terminal();
    let compact = terminal.then(|| {
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        tracing_subscriber::fmt::layer().compact().with_ansi(colour).with_writer(io::stderr)
    });
    let json = (!terminal).then(|| tracing_subscriber::fmt::layer().json().with_writer(io::stderr));
    let recent = serves.then(|| tracing_subscriber::fmt::layer().json().with_writer(&RECENT));
    let audit = tracing_subscriber::fmt::layer().json().with_writer(AuditFile);
    let audit = audit.with_filter(Targets::new().with_target(AUDIT, LevelFilter::INFO));
    let registry = tracing_subscriber::registry().with(filter).with(compact).with(json);
    registry.with(recent).with(audit).init();
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

/// From here on audit lines are appended to this file as well, one JSON object each. It is made with mode
/// 0640 if it is not there.
///
/// # Errors
/// It cannot be written.
pub fn audit_to(path: &Path) -> Result<(), Failure> {
    let open = File::options().append(true).create(true).mode(0o640).open(path);
    let file = open.map_err(|why| {
        Failure::new(CONFIG, format!("log.audit_file: {}", path.display()))
            .cause(why)
            .hint("name a file in a directory that this user may write")
    })?;
    // A process opens it once.
    let _ = AUDIT_FILE.set(file);
    Ok(())
}

/// Writes to [`AUDIT_FILE`], if there is one.
struct AuditFile;

impl<'a> MakeWriter<'a> for AuditFile {
    type Writer = OptionalWriter<&'static File>;

    fn make_writer(&'a self) -> Self::Writer {
        AUDIT_FILE.get().map_or_else(OptionalWriter::none, OptionalWriter::some)
    }
}

fn filter(
    default: &str,
    refusal: u8,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<EnvFilter, Failure> {
    let set = FILTER_VARIABLES
        .into_iter()
        .find_map(|name| variable(name).filter(|v| !v.is_empty()).map(|value| (name, value)));
    let Some((name, value)) = set else {
        return Ok(EnvFilter::new(format!("{default},{AUDIT}=info")));
    };
    let refused = |why: String| {
        Failure::new(refusal, format!("{name}={value:?} is not a log filter")).cause(why).hint(
            "use a level, which is for SharkLock's own events, or targets with levels: debug, or \
             info,sharklock_gateway=trace,h2=debug",
        )
    };
    let directives = directives(default, &value).map_err(refused)?;
    EnvFilter::try_new(directives).map_err(|why| refused(why.to_string()))
}

/// `said` on top of `default`. A bare level is for our own crates: libraries say nothing below a
/// warning unless they are named, since what h2 has to say at debug hides what we have.
fn directives(default: &str, said: &str) -> Result<String, String> {
    let mut directives = vec![default.to_owned(), format!("{AUDIT}=info")];
    // Inside of brackets, which are about spans, there may be commas and words of other kinds.
    let has_spans = said.contains('[');
    for directive in said.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        match directive.parse::<LevelFilter>() {
            Ok(level) => {
                directives.push(format!("{},sharklock={level}", level.min(LevelFilter::WARN)));
            }
            Err(_) if has_spans || directive.contains('=') => directives.push(directive.to_owned()),
            Err(_) => return Err(format!("{directive} is neither a level nor TARGET=LEVEL")),
        }
    }
    Ok(directives.join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Event, Subscriber};
    use tracing_subscriber::{Layer, layer::Context};

    use super::*;

    /// Keeps `TARGET LEVEL` of every event.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let (target, level) = (event.metadata().target(), event.metadata().level());
            self.0.lock().expect("one thread").push(format!("{target} {level}"));
        }
    }

    fn filter_of(own: Option<&str>, general: Option<&str>) -> Result<EnvFilter, Failure> {
        filter(SERVER, CONFIG, |name| match name {
            "SHARKLOCK_LOG" => own.map(str::to_owned),
            "RUST_LOG" => general.map(str::to_owned),
            other => panic!("{other} is not read"),
        })
    }

    /// What of ours and of a library's is let through, from its levels' first letters.
    fn lets_through(own: Option<&str>, general: Option<&str>) -> String {
        let heard = heard(own, general);
        let count = |target: &str| heard.iter().filter(|it| it.starts_with(target)).count();
        let levels = |target| &"EWIDT"[..count(target)];
        format!("ours {} h2 {}", levels("sharklock"), levels("h2"))
    }

    fn heard(own: Option<&str>, general: Option<&str>) -> Vec<String> {
        let heard = Heard::default();
        let filter = filter_of(own, general).unwrap_or_else(|failure| panic!("{failure}"));
        let subscriber = tracing_subscriber::registry().with(filter).with(heard.clone());
        tracing::subscriber::with_default(subscriber, || {
            macro_rules! at_every_level {
                ($target:literal) => {
                    tracing::error!(target: $target, "");
                    tracing::warn!(target: $target, "");
                    tracing::info!(target: $target, "");
                    tracing::debug!(target: $target, "");
                    tracing::trace!(target: $target, "");
                };
            }
            at_every_level!("sharklock_gateway::hub");
            at_every_level!("h2::codec");
            at_every_level!("audit");
        });
        let heard = heard.0.lock().expect("one thread");
        heard.clone()
    }

    #[test]
    fn our_own_variable_wins_over_rust_log() {
        assert_eq!(lets_through(None, None), "ours EWI h2 EW");
        assert_eq!(lets_through(Some(""), Some("error")), "ours E h2 E");
        assert_eq!(lets_through(Some("debug"), Some("error")), "ours EWID h2 EW");
    }

    #[test]
    fn a_bare_level_is_for_our_own_events() {
        assert_eq!(lets_through(Some("trace"), None), "ours EWIDT h2 EW");
        assert_eq!(lets_through(Some("warn"), None), "ours EW h2 EW");
        assert_eq!(lets_through(Some("off"), None), "ours  h2 ");
        assert_eq!(lets_through(Some("DEBUG"), None), "ours EWID h2 EW");
    }

    #[test]
    fn a_target_that_is_named_has_the_level_that_it_is_given() {
        assert_eq!(lets_through(Some("debug,h2=trace"), None), "ours EWID h2 EWIDT");
        assert_eq!(lets_through(Some("h2=debug, info"), None), "ours EWI h2 EWID");
        assert_eq!(lets_through(Some("sharklock_gateway=trace"), None), "ours EWIDT h2 EW");
        assert_eq!(lets_through(Some("sharklock=warn"), None), "ours EW h2 EW");
    }

    #[test]
    fn a_filter_drops_audit_lines_only_by_their_name() {
        let has_audit = |own| heard(own, None).contains(&"audit INFO".to_owned());
        for said in [None, Some("off"), Some("error"), Some("sharklock=trace")] {
            assert!(has_audit(said), "{said:?}");
        }
        assert!(!has_audit(Some("info,audit=off")));
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_refused() {
        let refusal = |said| filter_of(Some(said), None).expect_err("no filter").to_string();
        let text = refusal("x=y=z");
        assert!(text.starts_with("error: SHARKLOCK_LOG=\"x=y=z\" is not a log filter\n"), "{text}");
        let text = refusal("info,degub");
        assert!(text.contains("degub is neither a level nor TARGET=LEVEL"), "{text}");
    }
}
