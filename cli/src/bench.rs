//! `sharklock bench`: runs a load from `sharklock-bench` and shows its report.

use std::{fs::File, io::Write as _, path::Path, process, time::Duration};

use sharklock_bench::{
    Beside, Interval, KeepAlives, Latencies, Load, LoadError, Report, Split, Stood, Workload,
};

use crate::{
    admin::call_failure,
    args::{self, BenchArgs, Output, ReachArgs},
    exit::{FAILED, Failure, OK, USAGE},
    render::{json, print, printable, table},
    server::Stop,
};

/// Connections unless told otherwise.
const CONNECTIONS_DEFAULT_MAX: u32 = 8;
/// A server takes no more.
const WAITERS_PER_QUEUE_MAX: u32 = 10_000;
/// The parts of the measured time unless told otherwise.
const EVERY_DEFAULT: Duration = Duration::from_secs(1);

/// Runs the load, prints the report, and writes it as JSON where asked.
pub async fn run(reach: ReachArgs, args: BenchArgs) -> Result<u8, Failure> {
    if args.waiters.div_ceil(WAITERS_PER_QUEUE_MAX) > args.queues {
        let enough = args.waiters.div_ceil(WAITERS_PER_QUEUE_MAX);
        let waiters = args.waiters;
        let what = format!("--waiters {waiters} do not fit into --queues {}", args.queues);
        let hint = format!("a queue takes {WAITERS_PER_QUEUE_MAX}: say --queues {enough} or more");
        return Err(Failure::new(USAGE, what).hint(hint));
    }
    // Opened first: a run of minutes must not end with a file that cannot be written.
    let file = args.json.as_deref().map(create).transpose()?;
    let workload = match args.workload {
        args::Workload::AcquireRelease => Workload::AcquireRelease,
        args::Workload::Contend => Workload::Contend,
        args::Workload::Semaphore => Workload::Semaphore,
        args::Workload::Ranges => Workload::Ranges,
    };
    let load = Load {
        cluster: reach.cluster_id(),
        endpoints: reach.endpoints.0,
        local_addresses: args.local_addresses,
        workload,
        clients: args.clients,
        connections: args.connections.unwrap_or(args.clients.min(CONNECTIONS_DEFAULT_MAX)),
        names: args.names,
        ranges: args.ranges,
        permits: args.permits,
        rate: args.rate,
        beside: Beside {
            locks: args.locks,
            waiters: args.waiters,
            queues: args.queues,
            sessions: args.sessions,
            ttl: args.ttl,
        },
        told: |words| eprintln!("sharklock: {words}"),
        prefix: args.prefix.unwrap_or_else(|| match workload {
            Workload::Ranges => "bench-ranges/".to_owned(),
            _ => format!("bench-{}/", process::id()),
        }),
        warmup: args.warmup,
        duration: args.duration,
        every: args.every.unwrap_or(EVERY_DEFAULT),
        fsync_dir: args.fsync_dir,
    };
    let mut stop = Stop::listen()?;
    let asked = async move {
        stop.next().await;
        eprintln!(
            "sharklock: stopping; what there is to report comes when calls under way are answered"
        );
        let _ends_the_process = stop.next_ends_the_process();
    };
    let report = sharklock_bench::run(&load, asked).await.map_err(failure)?;
    print(&match args.output.output {
        Output::Table if args.every.is_some() => text(&report) + &parts(&report.intervals),
        Output::Table => text(&report),
        Output::Json => json(&report),
    })?;
    if let Some((mut file, path)) = file {
        file.write_all(json(&report).as_bytes()).map_err(|why| cannot_write(path, &why))?;
    }
    verdict(&report)
}

fn create(path: &Path) -> Result<(File, &Path), Failure> {
    let file = File::create(path).map_err(|why| cannot_write(path, &why))?;
    Ok((file, path))
}

fn cannot_write(path: &Path, why: &std::io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot write {}", path.display())).cause(why)
}

fn failure(error: LoadError) -> Failure {
    match error {
        LoadError::Config(_) => Failure::new(USAGE, error.to_string()),
        LoadError::Unreachable(why) => call_failure(why),
        LoadError::NotSplit { at, why } => call_failure(*why)
            .hint(format!("no range begins with {}; see `sharklock stores ls`", printable(&at))),
        LoadError::Stopped => Failure::new(FAILED, error.to_string()),
        LoadError::Disk { .. } => Failure::new(FAILED, error.to_string())
            .hint("name a directory on the server's disk with --fsync-dir"),
    }
}

/// A run that saw a broken promise, or nothing at all, is no success.
fn verdict(report: &Report) -> Result<u8, Failure> {
    if report.history.violations > 0 {
        let broken = format!("{} violations of what a lock promises", report.history.violations);
        let told = Failure::new(FAILED, broken);
        return Err(report.history.first.iter().fold(told, |failure, one| failure.cause(one)));
    }
    if let Some((what, stood)) = beside(report).find(|(_, stood)| !stood.is_whole()) {
        let Stood { wanted, count, lost, .. } = stood;
        let left = count.saturating_sub(*lost);
        return Err(Failure::new(FAILED, format!("{left} of {wanted} {what} stood to the end")));
    }
    if report.cycle.count == 0 {
        return Err(Failure::new(FAILED, "no cycle ended while it was measured"));
    }
    Ok(OK)
}

/// What stood beside the cycles, and what it was.
fn beside(report: &Report) -> impl Iterator<Item = (&'static str, &Stood)> {
    let Report { locks, waiters, sessions, .. } = report;
    let all = [("locks", locks), ("waiters", waiters), ("sessions", sessions)];
    all.into_iter().filter_map(|(what, stood)| Some((what, stood.as_ref()?)))
}

fn text(report: &Report) -> String {
    let (load, rate) = match report.workload {
        Workload::AcquireRelease => {
            (format!("acquire-release, {} names each", report.names_per_worker), "cycles/s")
        }
        Workload::Contend => ("contend for one lock".to_owned(), "hand-overs/s"),
        Workload::Ranges => {
            let over = report.split.map_or(0, |split| split.ranges);
            (format!("acquire-release over {over} ranges"), "cycles/s")
        }
        Workload::Semaphore => {
            (format!("semaphore of {} permits", report.permits.unwrap_or(1)), "grants/s")
        }
    };
    let mut text = format!(
        "{load}: {} clients over {} connections, {:.1} s after {:.1} s of warm-up\n\n{rate}  {:.0}\n",
        report.clients, report.connections, report.measured_s, report.warmup_s, report.cycles_per_s,
    );
    if let Some(rate) = report.rate {
        text += &format!("wanted  {rate}\n");
    }
    if report.stopped_early {
        text += "STOPPED EARLY, as it was asked to\n";
    }
    if report.truncated {
        text +=
            "TRUNCATED: the notes were full before the time was over; use a shorter --duration\n";
    }
    text += &format!("errors  {}\n", report.errors.count);
    for (kind, count) in &report.errors.kinds {
        text += &format!("  {count} {kind}\n");
    }
    if let Some(fairness) = &report.fairness {
        text += &format!(
            "fairness  {:.4} (Jain), {} to {} grants per client\n",
            fairness.jain, fairness.grants_min, fairness.grants_max
        );
    }
    if let Some(Split { splits, took_s, .. }) = report.split.filter(|split| split.splits > 0) {
        text += &format!("split   {splits} times before, in {took_s:.1} s\n");
    }
    for (what, Stood { wanted, count, lost, built_up_s, given_back_s, .. }) in beside(report) {
        text += &format!(
            "beside  {count} of {wanted} {what}, {lost} lost; built up in {built_up_s:.1} s, given \
             back in {given_back_s:.1} s\n"
        );
    }
    if let Some(KeepAlives { connections, per_s, .. }) = &report.keepalives {
        text += &format!(
            "keepalives/s  {per_s:.0}, of these sessions over {connections} connections\n"
        );
    }
    text.push('\n');
    let acquire = match report.workload {
        Workload::AcquireRelease | Workload::Ranges => "acquire",
        Workload::Contend | Workload::Semaphore => "wait",
    };
    let mut rows = vec![
        ("cycle", &report.cycle),
        (acquire, &report.acquire),
        ("release", &report.release),
        ("fdatasync, idle", &report.disk.idle),
        ("fdatasync, loaded", &report.disk.loaded),
    ];
    if let Some(since_due) = &report.since_due {
        rows.insert(1, ("cycle, since due", since_due));
    }
    if let Some(taken) = report.locks.as_ref().and_then(|locks| locks.acquire.as_ref()) {
        rows.push(("acquire, beside", taken));
    }
    if let Some(taken) = report.sessions.as_ref().and_then(|sessions| sessions.acquire.as_ref()) {
        rows.push(("acquire, sessions", taken));
    }
    if let Some(keepalives) = &report.keepalives {
        rows.push(("keepalive", &keepalives.answers));
    }
    let rows: Vec<_> = rows.iter().map(|(name, latencies)| row(name, latencies)).collect();
    text += &table(&["", "COUNT", "P50", "P99", "P99.9", "MAX"], &rows);
    if let Some(slowest) = &report.slowest {
        text += &format!(
            "\nslowest call: {} of {}, {}, begun at {:.1} s\n",
            slowest.call,
            printable(&slowest.lock),
            micros(slowest.us),
            slowest.began_s,
        );
    }
    text += &format!(
        "\nF {}: the smaller median of fdatasync, 512 bytes in {}\n\
         history: {} grants judged, {} violations\n\
         names: {}, each granted {} times or more\n",
        micros(report.disk.f_us),
        printable(&report.disk.dir),
        report.history.grants,
        report.history.violations,
        report.history.names,
        report.history.grants_per_name_min,
    );
    text
}

/// Each part of the measured time.
fn parts(intervals: &[Interval]) -> String {
    let row = |part: &Interval| {
        let mut row = vec![
            format!("{:.1}s", part.from_s),
            format!("{:.0}", part.cycles_per_s),
            part.errors.to_string(),
        ];
        let Latencies { count, p50_us, p99_us, max_us, .. } = part.cycle;
        row.extend([p50_us, p99_us, max_us].map(|us| match count {
            0 => "-".to_owned(),
            _ => micros(us),
        }));
        row
    };
    let rows: Vec<_> = intervals.iter().map(row).collect();
    format!("\n{}", table(&["FROM", "CYCLES/S", "ERRORS", "P50", "P99", "MAX"], &rows))
}

fn row(name: &str, latencies: &Latencies) -> Vec<String> {
    let Latencies { count, p50_us, p99_us, p999_us, max_us } = *latencies;
    let mut row = vec![name.to_owned(), count.to_string()];
    row.extend([p50_us, p99_us, p999_us, max_us].map(micros));
    row
}

/// Three digits, in the unit that shows them.
fn micros(us: f64) -> String {
    match us {
        ..100.0 => format!("{us:.1}us"),
        ..1_000.0 => format!("{us:.0}us"),
        ..100_000.0 => format!("{:.2}ms", us / 1e3),
        _ => format!("{:.2}s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sharklock_bench::{Disk, Errors, Fairness, Judged, Slowest};

    fn report() -> Report {
        let latencies = |p50_us| Latencies {
            count: 9,
            p50_us,
            p99_us: 2.0 * p50_us,
            p999_us: 3.0 * p50_us,
            max_us: 400.0 * p50_us,
        };
        Report {
            workload: Workload::Contend,
            clients: 64,
            connections: 8,
            names_per_worker: 16,
            split: None,
            permits: None,
            rate: None,
            prefix: "bench-7/".into(),
            measured_from: std::time::UNIX_EPOCH,
            warmup_s: 2.0,
            measured_s: 10.0,
            stopped_early: false,
            truncated: false,
            cycles_per_s: 1_874.4,
            cycle: latencies(34_000.0),
            since_due: None,
            acquire: latencies(33_000.0),
            release: latencies(500.0),
            slowest: Some(Slowest {
                call: "acquire".into(),
                lock: "bench-7/hot".into(),
                us: 13_200_000.0,
                began_s: -0.25,
            }),
            errors: Errors::default(),
            intervals: vec![],
            locks: None,
            waiters: None,
            sessions: None,
            keepalives: None,
            fairness: Some(Fairness { grants_min: 292, grants_max: 293, jain: 0.99999 }),
            disk: Disk::new(".".into(), latencies(134.0), latencies(190.0)),
            history: Judged {
                grants: 20_000,
                names: 1,
                grants_per_name_min: 20_000,
                unknown: 0,
                violations: 0,
                first: vec![],
            },
        }
    }

    #[test]
    fn the_report_reads_as_a_table() {
        assert_eq!(
            text(&report()),
            "contend for one lock: 64 clients over 8 connections, 10.0 s after 2.0 s of warm-up\n\
             \n\
             hand-overs/s  1874\n\
             errors  0\n\
             fairness  1.0000 (Jain), 292 to 293 grants per client\n\
             \n\
             \x20                  COUNT  P50      P99      P99.9    MAX\n\
             cycle              9      34.00ms  68.00ms  0.10s    13.60s\n\
             wait               9      33.00ms  66.00ms  99.00ms  13.20s\n\
             release            9      500us    1.00ms   1.50ms   0.20s\n\
             fdatasync, idle    9      134us    268us    402us    53.60ms\n\
             fdatasync, loaded  9      190us    380us    570us    76.00ms\n\
             \n\
             slowest call: acquire of bench-7/hot, 13.20s, begun at -0.2 s\n\
             \n\
             F 134us: the smaller median of fdatasync, 512 bytes in .\n\
             history: 20000 grants judged, 0 violations\n\
             names: 1, each granted 20000 times or more\n"
        );
    }

    #[test]
    fn a_rate_shows_how_late_cycles_were() {
        let late = Latencies { count: 9, p50_us: 2_000_000.0, ..Latencies::default() };
        let (workload, permits) = (Workload::Semaphore, Some(8));
        let (rate, since_due) = (Some(2_000), Some(late));
        let report = Report { workload, permits, rate, since_due, ..report() };
        let shown = text(&report);
        assert!(shown.starts_with("semaphore of 8 permits: 64 clients"), "{shown}");
        assert!(shown.contains("\ngrants/s  1874\nwanted  2000\n"), "{shown}");
        assert!(shown.contains("\ncycle, since due   9      2.00s"), "{shown}");
    }

    #[test]
    fn what_stood_beside_is_told_and_has_to_stay() {
        let stood = Stood { wanted: 9, count: 9, built_up_s: 1.25, ..Stood::default() };
        let taken = Latencies { count: 9, p50_us: 700.0, ..Latencies::default() };
        let locks = Some(Stood { acquire: Some(taken), ..stood });
        let whole = Report { locks, waiters: Some(stood), ..report() };
        let shown = text(&whole);
        let line = "beside  9 of 9 waiters, 0 lost; built up in 1.2 s, given back in 0.0 s\n";
        assert!(shown.contains(line), "{shown}");
        assert!(shown.contains("\nacquire, beside    9      700us"), "{shown}");
        assert_eq!(verdict(&whole), Ok(OK));
        for part in [Stood { count: 7, ..stood }, Stood { lost: 2, ..stood }] {
            let failure = verdict(&Report { waiters: Some(part), ..report() }).expect_err("fewer");
            assert!(failure.to_string().contains("7 of 9 waiters stood to the end"), "{failure}");
        }
    }

    #[test]
    fn keepalives_of_sessions_are_told() {
        let answers = Latencies { count: 90, p50_us: 26_000.0, ..Latencies::default() };
        let keepalives = Some(KeepAlives { connections: 3, per_s: 900.2, answers });
        let sessions = Some(Stood { wanted: 9, count: 9, lost: 1, ..Stood::default() });
        let report = Report { sessions, keepalives, ..report() };
        let shown = text(&report);
        let line = "\nkeepalives/s  900, of these sessions over 3 connections\n";
        assert!(shown.contains("\nbeside  9 of 9 sessions, 1 lost;"), "{shown}");
        assert!(shown.contains(line), "{shown}");
        assert!(shown.contains("\nkeepalive          90     26.00ms"), "{shown}");
        let failure = verdict(&report).expect_err("one is lost");
        assert!(failure.to_string().contains("8 of 9 sessions stood to the end"), "{failure}");
    }

    #[test]
    fn a_part_without_cycles_has_no_latencies() {
        let part = |from_s, errors, cycle: Latencies| Interval {
            from_s,
            to_s: from_s + 1.0,
            cycles_per_s: cycle.count as f64,
            errors,
            cycle,
        };
        let busy = Latencies { count: 9, p50_us: 900.0, p99_us: 1_200.0, ..Latencies::default() };
        let parts = parts(&[part(0.0, 0, busy), part(1.0, 2, Latencies::default())]);
        assert_eq!(
            parts,
            "\n\
             FROM  CYCLES/S  ERRORS  P50    P99     MAX\n\
             0.0s  9         0       900us  1.20ms  0.0us\n\
             1.0s  0         2       -      -       -\n"
        );
    }

    #[test]
    fn a_violation_or_an_empty_run_is_no_success() {
        assert_eq!(verdict(&report()), Ok(OK));
        let mut broken = report();
        broken.history.violations = 2;
        broken.history.first = vec!["Overlap, lock x: tokens 1 and 2".into()];
        let failure = verdict(&broken).expect_err("a violation");
        assert_eq!(failure.code(), FAILED);
        assert!(failure.to_string().contains("cause: Overlap, lock x"), "{failure}");
        let mut empty = report();
        empty.cycle.count = 0;
        assert_eq!(verdict(&empty).map_err(|failure| failure.code()), Err(FAILED));
    }
}
