//! What a data server or a master must not say to the masters gets the answer that is documented for
//! it, over the wire, and harms nobody.

use sharklock_proto::internal::v1::{
    AllocateIdsRequest, JoinRequest, RegisterStoreRequest, StoreHeartbeatRequest,
    master_service_client::MasterServiceClient,
};
use sharklock_proto::v1::StoreLabel;
use sharklock_tests::cluster::{CHAOS, Cluster};
use sharklock_tests::wire::{domain, reason};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::alone;

/// What a process may say.
#[derive(Clone, Debug)]
enum Says {
    Register(RegisterStoreRequest),
    Beat(StoreHeartbeatRequest),
    Ids(AllocateIdsRequest),
    Join(JoinRequest),
}

impl Says {
    async fn ask(self, masters: &MasterServiceClient<Channel>) -> Result<(), Status> {
        let mut masters = masters.clone();
        match self {
            Self::Register(request) => masters.register_store(request).await.map(drop),
            Self::Beat(request) => masters.store_heartbeat(request).await.map(drop),
            Self::Ids(request) => masters.allocate_ids(request).await.map(drop),
            Self::Join(request) => masters.join(request).await.map(drop),
        }
    }
}

/// A good registration of a new directory, spoilt in one place.
fn registers(spoil: impl Fn(&mut RegisterStoreRequest)) -> Says {
    let mut request = RegisterStoreRequest {
        ident: vec![0xa5; 16].into(),
        address: "127.0.0.1:9".to_owned(),
        life: vec![0x5a; 16].into(),
        version: "1".to_owned(),
        feature_level: 3,
        start: 1,
        ..RegisterStoreRequest::default()
    };
    spoil(&mut request);
    Says::Register(request)
}

type Row = (Says, Code, &'static str, &'static str);

fn rows(cluster_id: &[u8], address: &str) -> Vec<Row> {
    let (bad, failed) = (Code::InvalidArgument, Code::FailedPrecondition);
    let label = |key: &str| StoreLabel { key: key.to_owned(), value: "a".to_owned() };
    let beat = |cluster_id: &[u8], store_id, start| {
        Says::Beat(StoreHeartbeatRequest {
            cluster_id: cluster_id.to_vec().into(),
            store_id,
            start,
            life: vec![0x5a; 16].into(),
            seq: 1,
            ..StoreHeartbeatRequest::default()
        })
    };
    let ids = |cluster_id: &[u8], count| {
        Says::Ids(AllocateIdsRequest { cluster_id: cluster_id.to_vec().into(), count })
    };
    let join = |ident: &[u8], address: &str| {
        let (ident, address) = (ident.to_vec().into(), address.to_owned());
        Says::Join(JoinRequest { ident, address, ..JoinRequest::default() })
    };
    vec![
        (registers(|it| it.ident.clear()), bad, "INVALID", "ident"),
        (registers(|it| it.ident = vec![1; 17].into()), bad, "INVALID", "ident"),
        (registers(|it| it.life.clear()), bad, "INVALID", "life"),
        (registers(|it| it.start = 0), bad, "INVALID", "start"),
        (registers(|it| it.feature_level = 0), bad, "INVALID", "feature_level"),
        (registers(|it| it.address.clear()), bad, "INVALID", "address"),
        (registers(|it| it.address = "a".repeat(20_000)), bad, "INVALID", "address"),
        (registers(|it| it.version = "v".repeat(20_000)), bad, "INVALID", "version"),
        (registers(|it| it.labels = vec![label("zone"); 9]), bad, "INVALID", "labels"),
        (registers(|it| it.labels = vec![label("")]), bad, "INVALID", "labels"),
        (registers(|it| it.labels = vec![label(&"k".repeat(65))]), bad, "INVALID", "labels"),
        (registers(|it| it.cluster_id = vec![1; 20_000].into()), bad, "INVALID", "cluster_id"),
        (registers(|it| it.cluster_id = vec![1; 16].into()), failed, "CLUSTER_MISMATCH", "belongs"),
        (registers(|it| it.store_id = 77), failed, "STORE_UNKNOWN", "do not know it"),
        (registers(|it| it.address = address.to_owned()), failed, "STORE_WIPED", "another address"),
        (beat(&[1; 16], 1, 1), failed, "CLUSTER_MISMATCH", "cluster"),
        (beat(&[], 1, 1), failed, "CLUSTER_MISMATCH", "cluster"),
        (beat(cluster_id, 1, 0), bad, "INVALID", "start"),
        (beat(cluster_id, 1, 99), Code::Unavailable, "BEHIND", "store 1"),
        (beat(cluster_id, 77, 1), Code::Unavailable, "BEHIND", "store 77"),
        (beat(cluster_id, 1, 1), failed, "STORE_SUPERSEDED", "store 1"),
        (ids(&[1; 16], 1), failed, "CLUSTER_MISMATCH", "cluster"),
        (ids(cluster_id, 0), bad, "INVALID", "count is 0"),
        (ids(cluster_id, u32::MAX), bad, "INVALID", "1 to 1000"),
        (join(&[], "127.0.0.1:9"), bad, "INVALID", "ident"),
        (join(&[1; 16], ""), bad, "INVALID", "address"),
        (join(&[1; 16], &"a".repeat(20_000)), bad, "INVALID", "address"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_masters_must_not_hear_gets_the_documented_answer_and_harms_nobody() {
    let _alone = alone().await;
    let settings = CHAOS.replace("[cluster]\n", "[cluster]\nreplicas = 1\n");
    let cluster = Cluster::start(1, &settings).await;
    cluster.until_healthy().await;
    let status = cluster.status(0).await.expect("it answers");
    let cluster_id: Vec<u8> = (0..status.cluster_id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&status.cluster_id[at..at + 2], 16).expect("hex"))
        .collect();
    let address = status.stores[0].address.clone();
    let masters = cluster.endpoint(0).replace(":7700", ":7720");
    let masters = Endpoint::from_shared(masters).expect("an address");
    let masters = MasterServiceClient::new(masters.connect().await.expect("it listens"));
    let mut faults = Vec::new();
    for (says, code, why, words) in rows(&cluster_id, &address) {
        let said: String = format!("{says:?}").chars().take(200).collect();
        match says.ask(&masters).await {
            Ok(()) => faults.push(format!("{said}: it was done")),
            Err(status) => {
                let found = (status.code(), reason(&status), domain(&status));
                let message = status.message();
                let is_right = found == (code, why.to_owned(), "sharklock".to_owned())
                    && message.contains(words)
                    && message.len() <= 1_000;
                if !is_right {
                    faults.push(format!("{said}: {found:?} {message:.300}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let after = cluster.status(0).await.expect("it answers");
    assert_eq!(after.stores.len(), 1, "nobody else was taken in: {after:?}");
    cluster.until_healthy().await;
    let client = cluster.client();
    client.lock("jobs/a").acquire().await.expect("locks go on").release().await.expect("held");
}
