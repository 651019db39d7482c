//! Three nodes on bad links: slow ones, ones that break, ones that let drops through.

use std::time::Duration;

use sharklock_tests::cluster::{CHAOS, Cluster, SOON};
use sharklock_tests::link_proxy::{Flow, Host};
use sharklock_tests::load::{Load, Plan};
use sharklock_tests::wait::eventually;

use crate::alone;

/// Every pair of hosts, the world outside among them.
fn pairs() -> impl Iterator<Item = (Host, Host)> {
    let hosts = [Host::Node(0), Host::Node(1), Host::Node(2), Host::Outside];
    hosts.into_iter().flat_map(move |one| hosts.map(|other| (one, other)))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_every_link_is_slow() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    let load = Load::start(&Plan::default(), || cluster.client());
    load.progress(50, SOON).await;
    let flow = Flow::Delay(Duration::from_millis(20));
    pairs().for_each(|(from, to)| cluster.links.set_flow(from, to, flow));
    load.progress(200, SOON).await;
    cluster.until_healthy().await;
    cluster.links.mend();
    load.progress(50, SOON).await;
    println!("{}", load.end().await.report.counts);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_where_connections_break() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    let load = Load::start(&Plan::default(), || cluster.client());
    // All of them, again and again, in the middle of what is said.
    for _ in 0..20 {
        load.progress(20, SOON).await;
        pairs().for_each(|(one, other)| cluster.links.reset(one, other, false));
    }
    // Then one link, which cannot be opened again: a leader that one follower does not hear.
    let leader = cluster.leader(&[0, 1, 2]).await;
    let (leads, follows) = (Host::Node(leader), Host::Node((leader + 1) % 3));
    cluster.links.reset(leads, follows, true);
    load.progress(300, SOON).await;
    cluster.links.mend();
    cluster.until_healthy().await;
    println!("{}", load.end().await.report.counts);
}

/// Its snapshot comes in drops, and what its range writes meanwhile comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_link_that_drips_comes_back() {
    let _alone = alone().await;
    let cluster = Cluster::start(3, CHAOS).await;
    let away = (cluster.leader(&[0, 1, 2]).await + 1) % 3;
    let by = (away + 1) % 3;
    let log = async || cluster.status(by).await.and_then(|status| status.ranges.first().cloned());
    let load = Load::start(&Plan::default(), || cluster.client());
    cluster.links.cut_off(away, true, true);
    let last = eventually("a range", SOON, async || log().await.map(|it| it.commit_index)).await;
    // How many commands share an entry depends on the machine, so the log itself is asked. Many more
    // would be a snapshot that takes minutes to drip.
    eventually("the log has no more what it lacks", SOON, async || {
        load.progress(50, SOON).await;
        log().await.filter(|it| it.log_first_index > last + 1)
    })
    .await;
    println!("{}", load.end().await.report.counts);
    let calm = Plan { workers: 2, pause: Duration::from_millis(400), ..Plan::default() };
    let load = Load::start(&calm, || cluster.client());
    cluster.links.mend();
    for other in (0..3).filter(|other| *other != away) {
        cluster.links.set_flow(Host::Node(other), Host::Node(away), Flow::Drip);
    }
    eventually("a snapshot on its way", SOON, async || {
        let status = cluster.status(by).await?;
        status.ranges.first()?.replicas.iter().any(|it| it.in_snapshot).then_some(())
    })
    .await;
    cluster.until_healthy().await;
    load.progress(10, SOON).await;
    println!("{}", load.end().await.report.counts);
}
