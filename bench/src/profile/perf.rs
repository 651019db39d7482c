//! `perf`: which functions run, and which system calls are made.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context as _;
use tokio::process::Command;

/// Samples per second and processor; a prime number, so that it keeps step with no timer.
const FREQUENCY: &str = "997";
/// System calls that are told by name; the others are in the sum.
const NAMED: [&str; 14] = [
    "clock_nanosleep",
    "epoll_wait",
    "fdatasync",
    "fsync",
    "futex",
    "madvise",
    "pwrite64",
    "read",
    "recvfrom",
    "sched_yield",
    "sendto",
    "write",
    "writev",
    "mmap",
];
const EVENTS: &str = "/sys/kernel/tracing/events";
const ALL: &str = "raw_syscalls:sys_enter";

/// Samples into `file` what runs in these processes.
pub async fn sample(processes: &[u32], lasts: Duration, file: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "it needs root, or the kernel is left out");
    let file = file.to_string_lossy();
    let record = ["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-o", &file];
    perf(&record, Some((processes, lasts))).await.map(|_| ())
}

/// Which share of the sampled time each function has, largest first. It works for some seconds itself.
pub async fn functions(file: &Path) -> anyhow::Result<Vec<(String, f64)>> {
    let file = file.to_string_lossy();
    let report = ["report", "-q", "-i", &file, "--stdio", "--no-children", "-F", "overhead,sym"];
    let report = [&report[..], &["--percent-limit", "0.2", "-t", "|"]].concat();
    Ok(read_functions(&perf(&report, None).await?.0))
}

fn read_functions(report: &str) -> Vec<(String, f64)> {
    let mut all: BTreeMap<String, f64> = BTreeMap::new();
    for line in report.lines().filter(|line| !line.starts_with('#')) {
        let Some((share, symbol)) = line.split_once('|') else { continue };
        let Ok(share) = share.trim().trim_end_matches('%').parse::<f64>() else { continue };
        *all.entry(short(symbol.trim())).or_default() += share / 100.0;
    }
    let mut all: Vec<(String, f64)> = all.into_iter().collect();
    all.sort_by(|one, other| other.1.total_cmp(&one.1));
    all
}

/// The name of a function without its hash, which differs from build to build; `[k]` marks the kernel's.
fn short(symbol: &str) -> String {
    let symbol = symbol.strip_prefix("[.] ").unwrap_or(symbol);
    match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|it| it.is_ascii_hexdigit()) => {
            name.to_owned()
        }
        _ => symbol.to_owned(),
    }
}

/// How many system calls these processes make per second, by name, and `all`.
pub async fn system_calls(
    processes: &[u32],
    lasts: Duration,
) -> anyhow::Result<BTreeMap<String, f64>> {
    anyhow::ensure!(
        Path::new(EVENTS).join("syscalls").is_dir(),
        "{EVENTS}/syscalls is not there: mount -t tracefs nodev /sys/kernel/tracing"
    );
    let known =
        |name: &&&str| Path::new(EVENTS).join(format!("syscalls/sys_enter_{name}")).is_dir();
    let named = NAMED.iter().filter(known).map(|name| format!("syscalls:sys_enter_{name}"));
    let events = [ALL.to_owned()].into_iter().chain(named).collect::<Vec<_>>().join(",");
    let stat = ["stat", "-x", ";", "-e", &events];
    let counts = read_counts(&perf(&stat, Some((processes, lasts))).await?.1);
    Ok(counts.into_iter().map(|(name, count)| (name, count / lasts.as_secs_f64())).collect())
}

fn read_counts(stat: &str) -> BTreeMap<String, f64> {
    let count = |line: &str| {
        let mut fields = line.split(';');
        let count = fields.next()?.parse::<f64>().ok()?;
        let event = fields.nth(1)?;
        let name = event.strip_prefix("syscalls:sys_enter_").unwrap_or("all");
        Some((name.to_owned(), count))
    };
    stat.lines().filter_map(count).collect()
}

/// Runs it, on these processes for so long: what it writes on both ways.
async fn perf(
    args: &[&str],
    watched: Option<(&[u32], Duration)>,
) -> anyhow::Result<(String, String)> {
    let mut command = Command::new("perf");
    command.args(args);
    if let Some((processes, lasts)) = watched {
        let ids: Vec<String> = processes.iter().map(u32::to_string).collect();
        let lasts = lasts.as_secs_f64().to_string();
        command.args(["-p", &ids.join(","), "--", "sleep", &lasts]);
    }
    let output = command.kill_on_drop(true).output().await;
    let output = output.context("cannot run perf: scripts/profile.sh installs it")?;
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    anyhow::ensure!(output.status.success(), "perf {}: {}", args.join(" "), err.trim());
    Ok((out, err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_without_hashes_and_the_kernels_are_marked() {
        let report = "# Overhead  Symbol\n#\n    12.50%|[.] a::b::h0123456789abcdef\n     \
                      2.50%|[.] a::b::hfedcba9876543210\n    20.00%|[k] finish_task_switch\n\n";
        let read = read_functions(report);
        assert_eq!(read, [("[k] finish_task_switch".to_owned(), 0.2), ("a::b".to_owned(), 0.15)]);
    }

    #[test]
    fn counts_are_read_by_the_names_of_calls() {
        let stat = "1200;;raw_syscalls:sys_enter;30;100.00;;\n300;;syscalls:sys_enter_futex;30;100.00;;\n\
                    <not counted>;;syscalls:sys_enter_read;0;0.00;;\n";
        let read = read_counts(stat);
        assert_eq!(read, BTreeMap::from([("all".to_owned(), 1200.0), ("futex".to_owned(), 300.0)]));
    }
}
