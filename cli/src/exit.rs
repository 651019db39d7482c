//! How a run of `sharklock` ends: exit codes, and the three lines that say why.
//!
//! The codes are user interface (D17, D18; the numbers above 63 are those of sysexits.h).

use std::{fmt, io::Write as _, process::ExitCode};

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
    error: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// Ends with `code` and the line `error: …`.
    pub fn new(code: u8, error: impl Into<String>) -> Self {
        Self { code, error: error.into(), causes: Vec::new(), hint: None }
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

    /// The fault on one line, where it is part of a longer text.
    pub fn told(&self) -> String {
        one_line(&self.error)
    }

    /// The exit code it stands for.
    #[cfg(test)]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Prints it to stderr and returns its exit code. A closed stderr changes nothing about the end.
    pub fn report(&self) -> ExitCode {
        let _ = write!(std::io::stderr().lock(), "{self}");
        ExitCode::from(self.code)
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
    fn an_error_text_cannot_break_its_line_or_drive_the_terminal() {
        let failure = Failure::new(FAILED, "a\nb\u{1b}[31m\n");
        assert_eq!(failure.to_string(), "error: a\\nb\\u{1b}[31m\n");
    }
}
