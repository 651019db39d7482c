//! Nothing is answered before it is on the disk: watched from outside, system call by system call.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sharklock_tests::process::text_of;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;

const CYCLES: usize = 100;

/// One acknowledged call: when it was sent and when its answer was there, wall clock.
type Call = (f64, f64);

/// `strace` puts wall-clock times on system calls, so the calls' times are taken there too.
#[expect(clippy::disallowed_methods, reason = "compared with strace's times on the same clock")]
fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Runs cycles one after the other against a server under `strace`, and gives the calls and the
/// syncs that were seen.
async fn trace(args: &[&str]) -> (Vec<Call>, Vec<(f64, f64)>) {
    let dir = TempDir::new().expect("a temporary directory can be made");
    let output = dir.path().join("strace");
    let wrap = |dev: Command| {
        let mut strace = Command::new("strace");
        // -D: the server is our own child, and the tracer its.
        strace.args([
            "-D",
            "-f",
            "-ttt",
            "-T",
            "-e",
            "trace=fdatasync,fsync,sync_file_range,msync",
        ]);
        strace.arg("-o").arg(&output).arg("--").arg(dev.get_program()).args(dev.get_args());
        strace
    };
    let mut server = Server::start_with(args, wrap).await;
    let client = server.client();
    let mut calls = Vec::with_capacity(2 * CYCLES);
    for cycle in 0..CYCLES {
        let name = format!("durable/{}", cycle % 7);
        let sent = wall_clock();
        let guard = client.lock(&name).acquire().await.expect("a free lock is granted");
        calls.push((sent, wall_clock()));
        let sent = wall_clock();
        guard.release().await.expect("a held lock is released");
        calls.push((sent, wall_clock()));
    }
    server.stop().await;
    eventually("the end of the trace", Duration::from_secs(10), async || {
        text_of(&output).contains("+++ exited with").then_some(())
    })
    .await;
    (calls, syncs(&output))
}

/// Begin and end of every sync in a trace of `strace -f -ttt -T`.
fn syncs(trace: &Path) -> Vec<(f64, f64)> {
    let is_sync = |call: &str| call.starts_with("fdatasync") || call.starts_with("fsync");
    let text = text_of(trace);
    let mut begun: Vec<(&str, f64)> = Vec::new();
    let mut syncs = Vec::new();
    for line in text.lines() {
        // PID TIME CALL, padded with spaces; a call may be cut in two by what others do meanwhile.
        let Some((pid, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        let call = call.trim_start();
        if let Some(resumed) = call.strip_prefix("<... ") {
            if is_sync(resumed) && resumed.contains("= 0") {
                let at = begun.iter().rposition(|(who, _)| *who == pid);
                let begin = begun.remove(at.expect("a call is resumed after it began")).1;
                syncs.push((begin, time));
            }
        } else if is_sync(call) {
            if call.contains("<unfinished") {
                begun.push((pid, time));
            } else if let Some((_, took)) = call.rsplit_once('<')
                && call.contains("= 0")
            {
                let took: f64 = took.trim_end_matches('>').parse().expect("-T prints seconds");
                syncs.push((time, time + took));
            }
        }
    }
    syncs
}

/// Whether each call has a sync of its own between its sending and its answer: the calls follow
/// each other, so no two can share one.
fn check_durable(calls: &[Call], syncs: &[(f64, f64)]) -> Result<(), String> {
    if syncs.len() < calls.len() {
        return Err(format!("{} syncs for {} calls", syncs.len(), calls.len()));
    }
    for (at, (sent, answered)) in calls.iter().enumerate() {
        if !syncs.iter().any(|(begin, end)| sent <= begin && end <= answered) {
            return Err(format!(
                "call {at} was answered without a sync between {sent} and {answered}"
            ));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acquire_and_release_is_synced_before_it_is_answered() {
    let (calls, syncs) = trace(&[]).await;
    println!("{} calls, {} syncs", calls.len(), syncs.len());
    check_durable(&calls, &syncs).unwrap_or_else(|why| panic!("{why}"));
}

/// The test above can fail: a server that does not sync does not pass it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_sync_is_found_out() {
    let (calls, syncs) = trace(&["--unsafe-no-fsync"]).await;
    let found = check_durable(&calls, &syncs);
    assert!(found.is_err(), "{} calls, {} syncs", calls.len(), syncs.len());
}

#[test]
fn traces_are_read_whole_and_cut() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("strace");
    let trace = "\
77 1700000000.100000 fdatasync(9)          = 0 <0.000200>
   78 1700000000.200000 fdatasync(9 <unfinished ...>
77 1700000000.200100 fsync(4 <unfinished ...>
78 1700000000.200500 <... fdatasync resumed>) = 0 <0.000500>
77 1700000000.200700 <... fsync resumed>) = 0 <0.000600>
77 1700000000.300000 fdatasync(9)          = -1 EIO (Input/output error) <0.000100>
77 1700000000.400000 +++ exited with 0 +++
";
    std::fs::write(&file, trace).unwrap();
    let at = |fraction: f64| 1_700_000_000.0 + fraction;
    let close = |a: f64, b: f64| (a - b).abs() < 1e-5;
    let found = syncs(&file);
    let expected = [(at(0.1), at(0.1002)), (at(0.2), at(0.2005)), (at(0.2001), at(0.2007))];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(close(found.0, expected.0) && close(found.1, expected.1), "{found:?}");
    }
    let call = |from: f64, to: f64| (at(from), at(to));
    assert!(check_durable(&[call(0.09, 0.11)], &found).is_ok());
    assert!(check_durable(&[call(0.1001, 0.11)], &found).is_err(), "it began before the call");
    assert!(check_durable(&[call(0.09, 0.1001)], &found).is_err(), "it ended after the answer");
}
