//! One data server: what it keeps over restarts, and which directories it refuses.

use sharklock_dataserver::{StartError, Tuning};

use crate::parts::{Caller, acquire, data_server, granted, master, start_master, stop};

const ANY: &str = "127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn grants_survive_a_restart_and_the_status_tells() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_master, masters) = master(dir.path(), ANY, 1).await;
    let data = dir.path().join("data");
    let server = data_server(&data, &masters, ANY, Tuning::default()).await.expect("it is new");
    let ident = *server.ident();
    let mut caller = Caller::of(&server);
    let first = granted(caller.ask(acquire(1, "a", 0)).await);
    drop(caller);
    stop(server).await;

    let server = data_server(&data, &masters, ANY, Tuning::default()).await.expect("it is known");
    assert_eq!(*server.ident(), ident, "the same store of the same cluster");
    let mut caller = Caller::of(&server);
    let again = granted(caller.ask(acquire(1, "a", 0)).await);
    assert_eq!(again, first, "the same acquisition, the same grant");
    let range = caller.range().await.expect("it has its range");
    assert_eq!((range.locks, range.holds, range.leader_store_id), (1, 1, 1));
    assert_eq!(range.replicas.len(), 1);
    drop(caller);
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_master, masters) = master(dir.path(), ANY, 1).await;
    let data = dir.path().join("data");
    let server = data_server(&data, &masters, ANY, Tuning::default()).await.expect("it is new");
    let refused = data_server(&data, &masters, ANY, Tuning::default()).await;
    let refused = refused.expect_err("it is in use");
    assert!(matches!(refused, StartError::Open { .. }), "{refused:?}");
    let line = refused.to_string();
    assert!(!line.contains('\n') && line.contains("in use"), "{line}");
    stop(server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_and_one_of_another_cluster_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_master, masters) = master(&dir.path().join("one"), ANY, 1).await;
    let data = dir.path().join("data");
    let server = data_server(&data, &masters, ANY, Tuning::default()).await;
    let server = server.expect("it is new");
    let address = server.address().to_owned();
    stop(server).await;

    let other = dir.path().join("other");
    let refused = data_server(&other, &masters, &address, Tuning::default()).await;
    let refused = refused.expect_err("another directory").to_string();
    assert!(refused.contains("whose data directory is another one"), "{refused}");

    let (_master, others) = master(&dir.path().join("two"), ANY, 1).await;
    let refused = data_server(&data, &others, &address, Tuning::default()).await;
    let refused = refused.expect_err("another cluster").to_string();
    assert!(refused.contains("belongs to cluster"), "{refused}");

    let server = data_server(&data, &masters, &address, Tuning::default()).await;
    stop(server.expect("nothing has changed")).await;
}

/// A master whose store is gone, and whose other files are not, must not begin anew: it could vote
/// twice in one term.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_has_lost_its_store_and_nothing_else_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (master, at) = master(dir.path(), ANY, 1).await;
    tokio::task::spawn_blocking(|| master.stop()).await.expect("it stops");
    let home = dir.path().join("master");
    let kept = ["identity.draft", "members", "begun"];
    for entry in std::fs::read_dir(&home).expect("it is there") {
        let entry = entry.expect("it is there");
        if !kept.iter().any(|kept| entry.file_name() == *kept) {
            std::fs::remove_file(entry.path()).expect("it is ours");
        }
    }
    let refused = start_master(dir.path(), &at, 1).await.expect_err("its votes are gone");
    assert!(refused.to_string().contains("restore that directory"), "{refused}");
}
