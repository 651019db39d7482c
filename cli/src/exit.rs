//! How a run of `sharklock` ends: exit codes, and the three lines that say why.
//!
//! The codes are user interface (D17, D18; the numbers above 63 are those of sysexits.h).

use std::{
    fmt,
    io::Write as _,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

/// The command did what it was asked to do.
pub const OK: u8 = 0;
/// An admin command failed.
pub const FAILED: u8 = 1;
/// Wrong arguments, except of `lock`.
pub const USAGE: u8 = 2;
/// `status`: the cluster answers, but not all of it works.
pub const DEGRADED: u8 = 3;
/// What was asked for is not there: the lock is free, the session has nothing open.
pub const NOTHING: u8 = 4;
/// `locks why`: sessions wait for each other in a circle.
pub const CIRCLE: u8 = 5;
/// Wrong arguments of `lock`, whose low codes belong to the command that it runs.
pub const LOCK_USAGE: u8 = 64;
/// No gateway, or nothing behind it, could be reached.
pub const UNREACHABLE: u8 = 69;
/// A bug, or an operating system call that never fails did.
pub const INTERNAL: u8 = 70;
/// A server cannot use its data directory or its port; or the gateways that a command is to use are
/// not those of one cluster.
pub const CONFIG: u8 = 78;
/// `lock`: the lock was lost and the command was stopped.
pub const LOST: u8 = 79;
/// `lock --keep`: an earlier run under the lock still lives, or nobody can prove that it does not.
pub const STILL_RUNS: u8 = 80;
/// `lock`: the command exists but cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// `lock`: there is no such command.
pub const NOT_FOUND: u8 = 127;

/// Why a run ends with something else than success: what people see, and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    code: u8,
    reason: String,
    error: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// Ends with `code` and the line `error: …`.
    pub fn new(code: u8, error: impl Into<String>) -> Self {
        let reason = reason_of(code).to_owned();
        Self { code, reason, error: error.into(), causes: Vec::new(), hint: None }
    }

    /// Sets what programs tell it by: UPPER_SNAKE_CASE, as servers and the client library name it.
    /// Unless it is set, the exit code gives it.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Adds a line `cause: …`; causes are printed in the order they were added.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Sets the line `hint: …`: what the reader can do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A server was there, and could not serve the call: the cluster may say why.
    pub fn is_unserved(&self) -> bool {
        let may_be = ["NO_LEADER", "NO_MASTER", "NO_ANSWER", "INDETERMINATE"];
        self.code == UNREACHABLE && may_be.contains(&&*self.reason)
    }

    /// The cluster has said what is the matter, and what to do next. Where it is not known whether the
    /// call was done, to find that out stays the next step.
    pub fn explained(mut self, problem: &str, next_step: &str) -> Self {
        if self.reason == "NO_ANSWER" {
            self.error = "a gateway answers, but the call could not be served in time".to_owned();
            self.causes.clear();
        }
        self.causes.push(problem.to_owned());
        if self.reason != "INDETERMINATE" && !next_step.is_empty() {
            self.hint = Some(next_step.to_owned());
        }
        self
    }

    /// The fault on one line, where it is part of a longer text.
    pub fn told(&self) -> String {
        one_line(&self.error)
    }

    /// The exit code it stands for.
    #[cfg(test)]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Prints it and returns its exit code: three lines on stderr; or where JSON was asked for, a
    /// document on one line of stdout, which is where the reader of a result looks. That nobody reads it changes
    /// nothing about the end.
    pub fn report(&self) -> ExitCode {
        if AS_JSON.load(Ordering::Relaxed) {
            let _ = crate::render::print(&crate::render::json_line(&self.document()));
        } else {
            let _ = write!(std::io::stderr().lock(), "{self}");
        }
        ExitCode::from(self.code)
    }

    /// As programs read it.
    pub fn document(&self) -> ErrorDocument<'_> {
        ErrorDocument {
            schema: "sharklock.v1.Error",
            error: ErrorBody {
                code: self.code,
                reason: &self.reason,
                message: &self.error,
                causes: &self.causes,
                hint: self.hint.as_deref(),
            },
        }
    }
}

/// Failures are printed as JSON from now on.
pub fn report_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

static AS_JSON: AtomicBool = AtomicBool::new(false);

/// A failure as JSON.
#[derive(Debug, Serialize)]
pub struct ErrorDocument<'a> {
    schema: &'static str,
    error: ErrorBody<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    /// The exit code.
    code: u8,
    /// UPPER_SNAKE_CASE: what programs tell it by.
    reason: &'a str,
    /// For people.
    message: &'a str,
    /// For people: what led to it, the nearest first.
    causes: &'a [String],
    /// For people: what to do next.
    hint: Option<&'a str>,
}

/// The reason of a failure that has no other one.
fn reason_of(code: u8) -> &'static str {
    match code {
        USAGE | LOCK_USAGE => "USAGE",
        UNREACHABLE => "UNREACHABLE",
        INTERNAL => "INTERNAL",
        CONFIG => "CONFIG",
        LOST => "LOST",
        STILL_RUNS => "STILL_RUNS",
        NOT_EXECUTABLE => "NOT_EXECUTABLE",
        NOT_FOUND => "NOT_FOUND",
        _ => "FAILED",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", one_line(&self.error))?;
        for cause in &self.causes {
            writeln!(f, "cause: {}", one_line(cause))?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "hint: {hint}")?;
        }
        Ok(())
    }
}

/// Errors may quote what came over the network or out of a file: each stays on its line, and no
/// control character reaches a terminal.
fn one_line(text: &str) -> String {
    crate::render::printable(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_error_cause_hint() {
        let failure = Failure::new(CONFIG, "cannot use ./d")
            .cause("in use by pid 7")
            .hint("choose another with --data-dir");
        assert_eq!(
            failure.to_string(),
            "error: cannot use ./d\ncause: in use by pid 7\nhint: choose another with --data-dir\n"
        );
        assert_eq!(failure.code(), 78);
    }

    #[test]
    fn programs_read_a_failure_as_json() {
        let failure = Failure::new(UNREACHABLE, "nobody leads the range").cause("silent");
        let failure = failure.reason("NO_LEADER").hint("sharklock status");
        let document = serde_json::to_value(failure.document()).expect("it is JSON");
        let expected = serde_json::json!({
            "schema": "sharklock.v1.Error",
            "error": {
                "code": 69,
                "reason": "NO_LEADER",
                "message": "nobody leads the range",
                "causes": ["silent"],
                "hint": "sharklock status",
            },
        });
        assert_eq!(document, expected);
        let document = serde_json::to_value(Failure::new(USAGE, "x").document());
        assert_eq!(document.expect("it is JSON")["error"]["reason"], "USAGE");
    }

    #[test]
    fn what_the_cluster_says_takes_the_place_of_a_guess() {
        let failure = Failure::new(UNREACHABLE, "silence").reason("NO_ANSWER").cause("no answer");
        assert_eq!(
            failure.explained("no majority", "start 2").to_string(),
            "error: a gateway answers, but the call could not be served in time\n\
             cause: no majority\nhint: start 2\n"
        );
        let unknown = Failure::new(UNREACHABLE, "done or not").reason("INDETERMINATE").hint("look");
        assert_eq!(
            unknown.explained("no majority", "start 2").to_string(),
            "error: done or not\ncause: no majority\nhint: look\n"
        );
        assert!(!Failure::new(FAILED, "no").reason("NO_LEADER").is_unserved());
    }

    #[test]
    fn an_error_text_cannot_break_its_line_or_drive_the_terminal() {
        let failure = Failure::new(FAILED, "a\nb\u{1b}[31m\n");
        assert_eq!(failure.to_string(), "error: a\\nb\\u{1b}[31m\n");
    }
}
