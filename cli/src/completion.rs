//! What a shell completes beside the words of the command line: the names and ids of what a running
//! cluster has. A script that `sharklock completion` prints calls this program for each TAB.

use std::{env, ffi::OsStr, sync::mpsc, thread, time::Duration};

use clap::{Arg, Command, CommandFactory as _};
use clap_complete::{
    ArgValueCompleter, CompleteEnv, CompletionCandidate, Shell, ValueHint, env::Shells,
};
use sharklock_client::{Client, SessionsAsked, endpoints_of_list};
use tokio::time::timeout;

use crate::{
    admin::interval,
    args::{Cli, DEFAULT_ENDPOINT, ENDPOINTS_VARIABLE},
    dev,
    exit::{FAILED, Failure},
    identity, runtime,
};

/// Set by the script of a shell, to its name.
const VARIABLE: &str = "SHARKLOCK_COMPLETE";
/// A person waits for a TAB: what the cluster does not say by then is not completed.
const ASK_MAX: Duration = Duration::from_millis(800);
/// More would not be read.
const CANDIDATES_MAX: u32 = 100;

/// A value that fits, and what it is.
type Candidate = (String, String);

/// What an argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Lock,
    Range,
    Store,
    Master,
    Operator,
    Session,
    Node,
}

/// Answers the shell and ends, if it is a shell that has called.
pub fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// The script that makes a shell call this program.
pub fn script(shell: Shell) -> Result<String, Failure> {
    let failed = || Failure::new(FAILED, format!("there is no completion for {shell}"));
    let shells = Shells::builtins();
    let completer = shells.completer(&shell.to_string()).ok_or_else(failed)?;
    let mut script = Vec::new();
    let program = env::current_exe().map_err(|why| failed().cause(why))?;
    completer
        .write_registration(
            VARIABLE,
            "sharklock",
            "sharklock",
            &program.to_string_lossy(),
            &mut script,
        )
        .map_err(|why| failed().cause(why))?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command line, whose arguments know what they name.
fn command() -> Command {
    completed(Cli::command())
}

fn completed(command: Command) -> Command {
    let command = command.mut_args(|arg| match names(&arg) {
        Some(names) => arg
            .value_hint(ValueHint::Other)
            .add(ArgValueCompleter::new(move |begun: &OsStr| candidates(names, begun))),
        None => arg,
    });
    command.mut_subcommands(completed)
}

/// What an argument names, by what its help calls it.
fn names(arg: &Arg) -> Option<Names> {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match (value, arg.get_id().as_str(), arg.is_positional()) {
        (Some("STORE"), ..) => Some(Names::Store),
        (Some("MASTER"), ..) => Some(Names::Master),
        (Some("OPERATOR"), ..) => Some(Names::Operator),
        (Some("RANGE|NAME"), ..) => Some(Names::Range),
        (_, "name" | "prefix", true) => Some(Names::Lock),
        (_, "session", true) => Some(Names::Session),
        (_, "node", true) => Some(Names::Node),
        _ => None,
    }
}

fn candidates(names: Names, begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let known = match names {
        Names::Node => nodes(),
        _ => ask(names, begun).unwrap_or_default(),
    };
    let fits = known.into_iter().filter(|(value, _)| value.starts_with(begun));
    let shown = |(value, help): Candidate| {
        CompletionCandidate::new(value).help((!help.is_empty()).then(|| help.into()))
    };
    fits.take(CANDIDATES_MAX as usize).map(shown).collect()
}

/// The nodes of `dev`, if their owner says them in time.
fn nodes() -> Vec<Candidate> {
    let (tell, told) = mpsc::channel();
    // Nobody waits for the thread: the process ends when the shell has its answer.
    thread::spawn(move || tell.send(dev::node_names()));
    told.recv_timeout(ASK_MAX).unwrap_or_default()
}

/// What the cluster has; `None`: it does not say.
fn ask(names: Names, begun: &str) -> Option<Vec<Candidate>> {
    let words: Vec<String> =
        env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let endpoints = endpoints(&words, env::var(ENDPOINTS_VARIABLE).ok());
    let runtime = runtime::start(1).ok()?;
    let begun = begun.to_owned();
    runtime.block_on(async move {
        let client = Client::builder().endpoints(&endpoints);
        let client = client.identity(&identity::default_owner()).call_timeout(ASK_MAX);
        let known = known(names, client.build().ok()?, begun);
        timeout(ASK_MAX, known).await.ok()?
    })
}

/// The gateways that the words of an unfinished command line name.
fn endpoints(words: &[String], variable: Option<String>) -> Vec<String> {
    let value = |(at, word): (usize, &String)| match word.strip_prefix("--endpoints") {
        Some("") => words.get(at + 1).cloned(),
        Some(value) => value.strip_prefix('=').map(str::to_owned),
        None => None,
    };
    let said = words.iter().enumerate().filter_map(value).next_back();
    let said = said.or(variable).filter(|said| !said.trim().is_empty());
    let said = said.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    endpoints_of_list(&said)
}

async fn known(names: Names, client: Client, begun: String) -> Option<Vec<Candidate>> {
    let found = match names {
        Names::Lock => {
            let page = client.list_locks_page(&begun, CANDIDATES_MAX, "").await.ok()?;
            let candidate = |lock: sharklock_client::LockInfo| {
                let holder = lock.holders.first().map(|holder| holder.owner.clone());
                (lock.name, holder.unwrap_or_default())
            };
            page.locks.into_iter().map(candidate).collect()
        }
        Names::Range => {
            let ranges = client.list_ranges(None).await.ok()?;
            let names = |it: &sharklock_client::RangeStatus| interval(&it.start, &it.end);
            ranges.iter().map(|range| (range.range_id.to_string(), names(range))).collect()
        }
        Names::Store => {
            let stores = client.status().await.ok()?.stores;
            stores
                .into_iter()
                .map(|it| (it.store_id.to_string(), place(&it.node, &it.address)))
                .collect()
        }
        Names::Master => {
            let masters = client.status().await.ok()?.masters;
            masters
                .into_iter()
                .map(|it| (it.member_id.to_string(), place(&it.node, &it.address)))
                .collect()
        }
        Names::Operator => {
            let operators = client.operators().await.ok()?;
            let about =
                |it: &sharklock_client::Operator| format!("range {}: {}", it.range_id, it.reason);
            operators.iter().map(|it| (it.operator_id.to_string(), about(it))).collect()
        }
        Names::Session => {
            let asked = SessionsAsked { session_prefix: begun, ..SessionsAsked::default() };
            let sessions = client.list_sessions(&asked).await.ok()?;
            sessions.into_iter().map(|it| (it.session, it.owner)).collect()
        }
        Names::Node => Vec::new(),
    };
    Some(found)
}

fn place(node: &str, address: &str) -> String {
    if node.is_empty() { address.to_owned() } else { format!("{node}, {address}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &[&str], id: &str) -> Option<Names> {
        let mut command = Cli::command();
        for name in path {
            command = command.find_subcommand(name).expect("it is there").clone();
        }
        let arg = command.get_arguments().find(|arg| arg.get_id() == id).expect("it is there");
        names(arg)
    }

    #[test]
    fn arguments_are_told_by_what_they_name() {
        assert_eq!(of(&["lock"], "name"), Some(Names::Lock));
        assert_eq!(of(&["locks", "show"], "name"), Some(Names::Lock));
        assert_eq!(of(&["locks", "force-release"], "name"), Some(Names::Lock));
        assert_eq!(of(&["locks", "ls"], "prefix"), Some(Names::Lock));
        assert_eq!(of(&["ranges", "show"], "range"), Some(Names::Range));
        assert_eq!(of(&["ranges", "move"], "to"), Some(Names::Store));
        assert_eq!(of(&["stores", "drain"], "id"), Some(Names::Store));
        assert_eq!(of(&["masters", "remove"], "id"), Some(Names::Master));
        assert_eq!(of(&["masters", "transfer-leader"], "to"), Some(Names::Master));
        assert_eq!(of(&["ops", "cancel"], "id"), Some(Names::Operator));
        assert_eq!(of(&["sessions", "revoke"], "session"), Some(Names::Session));
        assert_eq!(of(&["dev", "kill"], "node"), Some(Names::Node));
        assert_eq!(of(&["server"], "name"), None);
        assert_eq!(of(&["ranges", "split"], "at"), None);
    }

    #[test]
    fn the_gateways_are_those_of_the_unfinished_line() {
        let asked = |line: &str, variable: Option<&str>| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            endpoints(&words, variable.map(str::to_owned))
        };
        assert_eq!(asked("sharklock locks show", None), [DEFAULT_ENDPOINT]);
        assert_eq!(
            asked("sharklock locks show", Some("http://a:1,http://b:2")),
            ["http://a:1", "http://b:2"]
        );
        assert_eq!(asked("sharklock --endpoints http://c:3 x", Some("http://a:1")), ["http://c:3"]);
        assert_eq!(asked("sharklock x --endpoints=http://c:3", None), ["http://c:3"]);
    }
}
