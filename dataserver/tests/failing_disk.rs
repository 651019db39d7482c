//! A data server whose disk refuses a write: it ends, and what it had answered is there afterwards.
//!
//! The disk is a real one. A limit on the size of files, which the child inherits, makes the
//! kernel refuse to lengthen RocksDB's log at some moment of the workload.
#![cfg(feature = "edge")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use sharklock_dataserver::{DataServer, DataServerConfig, Lane, LocalLink};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreReply, store_call, store_reply},
    v1,
};
use tokio::sync::mpsc::Receiver;

/// Set in the child only.
const DIRECTORY: &str = "SHARKLOCK_TEST_FAILING_DISK";
const PATIENCE: Duration = Duration::from_secs(30);

async fn started(data_dir: &Path) -> DataServer {
    let config = DataServerConfig {
        data_dir: data_dir.to_owned(),
        address: "test".into(),
        sync_writes: true,
        registry: prometheus::Registry::new(),
    };
    let server = DataServer::start(config).expect("the directory is ours");
    let mut ready = server.ready();
    let wait = ready.wait_for(|ready| *ready);
    tokio::time::timeout(PATIENCE, wait).await.expect("leads soon").expect("it runs");
    server
}

/// Acquires lock `id` with attributes that make its entry long. Returns the token.
async fn acquire(link: &LocalLink, replies: &mut Receiver<Vec<StoreReply>>, id: u64) -> u64 {
    let mut request = v1::AcquireRequest {
        acquisition_id: id,
        seq: id,
        name: format!("lock-{id}"),
        ttl_ms: Some(600_000),
        attributes: [("filler".to_owned(), "x".repeat(3_000))].into(),
        ..v1::AcquireRequest::default()
    };
    request.set_mode(v1::LockMode::Exclusive);
    let call = StoreCall {
        tag: id,
        session: vec![3; 16].into(),
        instance: 1,
        body: Some(store_call::Body::Acquire(request)),
        ..StoreCall::default()
    };
    link.send(Lane::Ordinary, vec![call]).expect("the mailbox is empty");
    loop {
        let batch = tokio::time::timeout(PATIENCE, replies.recv()).await.expect("an answer");
        let found = batch.expect("it runs").into_iter().find(|reply| reply.tag == id);
        let Some(reply) = found else { continue };
        let Some(store_reply::Body::Acquire(answer)) = reply.body else { panic!("{reply:?}") };
        assert_eq!(answer.outcome(), v1::AcquireOutcome::Granted);
        return answer.token;
    }
}

/// Is its own child where it finds its orders.
#[tokio::test]
async fn a_disk_that_refuses_a_write_ends_the_process_and_takes_back_no_grant() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        let server = started(Path::new(&directory)).await;
        let (link, mut replies) = server.connect();
        for id in 1.. {
            let token = acquire(&link, &mut replies, id).await;
            writeln!(std::io::stdout(), "\ngranted {id} {token}").expect("the parent reads");
        }
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // 512 KiB; the signal that comes with the refusal is ignored, so that the write fails.
    let limited = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\"";
    let name = "a_disk_that_refuses_a_write_ends_the_process_and_takes_back_no_grant";
    let mut child = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().expect("a running program has a file"))
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    let pipe = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut granted = Vec::new();
    for line in pipe.lines().map(|line| line.expect("it is text")) {
        let numbers = line.strip_prefix("granted ").and_then(|rest| rest.split_once(' '));
        if let Some((id, token)) = numbers {
            granted.push((id.parse::<u64>().expect("a number"), token.parse().expect("a number")));
        }
    }
    let status = child.wait().expect("it is our child");
    assert_eq!(status.signal(), Some(6), "SIGABRT, not {status}");
    println!("{} grants before the disk refused", granted.len());
    assert!(granted.len() > 50, "{}", granted.len());

    let server = started(directory.path()).await;
    let (link, mut replies) = server.connect();
    for (id, token) in &granted {
        let again = acquire(&link, &mut replies, *id).await;
        assert_eq!(again, *token, "acquisition {id}: the same grant, not another");
    }
    let fresh = acquire(&link, &mut replies, 1_000_000).await;
    assert!(granted.iter().all(|(_, token)| *token < fresh), "{fresh} was given before");
    drop(link);
    tokio::task::spawn_blocking(|| server.stop()).await.expect("it stops");
}
