//! A data server whose disk refuses a write: it ends, and what it had answered is there afterwards.
//!
//! The disk is a real one. A limit on the size of files, which the child inherits, makes the
//! kernel refuse to lengthen RocksDB's log at some moment of the workload.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
};

use sharklock_dataserver::{DataServer, Tuning};
use sharklock_master::Master;

use crate::parts::{Caller, acquire, data_server, granted, listener, master, stop};

/// Set in the child only.
const DIRECTORY: &str = "SHARKLOCK_TEST_FAILING_DISK";
/// Makes every entry long.
const FILLER: usize = 3_000;

/// The address of the master of both lives, in the child only: a cluster's masters stay.
const MASTER: &str = "SHARKLOCK_TEST_MASTER";

async fn started(dir: &Path, at: &str) -> (Master, DataServer) {
    let (master, address) = master(dir, at, 1).await;
    let data = dir.join("data");
    let server = data_server(&data, &address, "127.0.0.1:0", Tuning::default()).await;
    (master, server.expect("the directory is ours"))
}

/// Is its own child where it finds its orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_a_write_ends_the_process_and_takes_back_no_grant() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        let at = std::env::var(MASTER).expect("the parent gives both");
        let (_master, server) = started(Path::new(&directory), &at).await;
        let mut caller = Caller::of(&server);
        for id in 1.. {
            let token = granted(caller.ask(acquire(id, &format!("lock-{id}"), FILLER)).await);
            writeln!(std::io::stdout(), "\ngranted {id} {token}").expect("the parent reads");
        }
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // 512 KiB; the signal that comes with the refusal is ignored, so that the write fails.
    let limited = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\"";
    let (free, at) = listener("127.0.0.1:0").await;
    drop(free);
    let name = "failing_disk::a_disk_that_refuses_a_write_ends_the_process_and_takes_back_no_grant";
    let mut child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().expect("a running program has a file"))
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .env(MASTER, &at)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    let pipe = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut grants: Vec<(u64, u64)> = Vec::new();
    for line in pipe.lines().map(|line| line.expect("it is text")) {
        let numbers = line.strip_prefix("granted ").and_then(|rest| rest.split_once(' '));
        if let Some((id, token)) = numbers {
            grants.push((id.parse().expect("a number"), token.parse().expect("a number")));
        }
    }
    let status = child.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(6), "SIGABRT, not {status}");
    println!("{} grants before the disk refused", grants.len());
    assert!(grants.len() > 50, "{}", grants.len());

    let (_master, server) = started(directory.path(), &at).await;
    let mut caller = Caller::of(&server);
    let mut again =
        async |id| granted(caller.ask(acquire(id, &format!("lock-{id}"), FILLER)).await);
    for (id, token) in &grants {
        assert_eq!(again(*id).await, *token, "acquisition {id}: the same grant, not another");
    }
    let fresh = again(1_000_000).await;
    assert!(grants.iter().all(|(_, token)| *token < fresh), "{fresh} was given before");
    stop(server).await;
}
