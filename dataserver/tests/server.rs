//! A data server on a real disk with real threads.
#![cfg(feature = "edge")]

use std::{path::Path, time::Duration};

use sharklock_dataserver::{DataServer, DataServerConfig, Lane, LocalLink, StartError};
use sharklock_proto::{
    internal::v1::{StoreCall, StoreReply, store_call, store_reply},
    v1,
};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(30);

fn config(data_dir: &Path) -> DataServerConfig {
    DataServerConfig {
        data_dir: data_dir.to_owned(),
        address: "test".into(),
        sync_writes: true,
        registry: prometheus::Registry::new(),
    }
}

async fn started(data_dir: &Path) -> DataServer {
    let server = DataServer::start(config(data_dir)).expect("the directory is ours");
    let mut ready = server.ready();
    let wait = ready.wait_for(|ready| *ready);
    tokio::time::timeout(PATIENCE, wait).await.expect("leads soon").expect("it runs");
    server
}

fn call(tag: u64, body: store_call::Body) -> StoreCall {
    StoreCall {
        tag,
        session: vec![3; 16].into(),
        instance: 1,
        body: Some(body),
        ..StoreCall::default()
    }
}

fn acquire(id: u64) -> store_call::Body {
    let mut request = v1::AcquireRequest {
        acquisition_id: id,
        seq: id,
        name: "a".into(),
        ttl_ms: Some(10_000),
        ..v1::AcquireRequest::default()
    };
    request.set_mode(v1::LockMode::Exclusive);
    store_call::Body::Acquire(request)
}

async fn ask(
    link: &LocalLink,
    replies: &mut Receiver<Vec<StoreReply>>,
    call: StoreCall,
) -> store_reply::Body {
    let tag = call.tag;
    link.send(Lane::Ordinary, vec![call]).expect("the mailbox is empty");
    loop {
        let batch = tokio::time::timeout(PATIENCE, replies.recv()).await.expect("an answer");
        let found = batch.expect("it runs").into_iter().find(|reply| reply.tag == tag);
        if let Some(reply) = found {
            return reply.body.expect("an answer says something");
        }
    }
}

#[tokio::test]
async fn grants_survive_a_restart_and_the_status_tells() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = started(dir.path()).await;
    let cluster_id = server.ident().cluster_id;
    let (link, mut replies) = server.connect();
    let body = ask(&link, &mut replies, call(1, acquire(1))).await;
    let store_reply::Body::Acquire(first) = body else { panic!("{body:?}") };
    assert_eq!(first.outcome(), v1::AcquireOutcome::Granted);
    drop(link);
    tokio::task::spawn_blocking(|| server.stop()).await.expect("it stops");

    let server = started(dir.path()).await;
    assert_eq!(server.ident().cluster_id, cluster_id);
    let (link, mut replies) = server.connect();
    let body = ask(&link, &mut replies, call(1, acquire(1))).await;
    let store_reply::Body::Acquire(again) = body else { panic!("{body:?}") };
    assert_eq!(again.token, first.token, "the same acquisition, the same grant");
    let describe = store_call::Body::Describe(Default::default());
    let body = ask(&link, &mut replies, call(2, describe)).await;
    let store_reply::Body::Describe(description) = body else { panic!("{body:?}") };
    let range = &description.ranges[0];
    assert_eq!((range.locks, range.holds, range.leader_store_id), (1, 1, 1));
    assert_eq!(description.descriptors.len(), 1);
    drop(link);
    tokio::task::spawn_blocking(|| server.stop()).await.expect("it stops");
}

#[tokio::test]
async fn a_directory_in_use_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = started(dir.path()).await;
    let refused = DataServer::start(config(dir.path())).expect_err("it is in use");
    assert!(matches!(refused, StartError::Open { .. }), "{refused:?}");
    let line = refused.to_string();
    assert!(!line.contains('\n') && line.contains("in use"), "{line}");
    tokio::task::spawn_blocking(|| server.stop()).await.expect("it stops");
}
