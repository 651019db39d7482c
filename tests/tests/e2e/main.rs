//! SharkLock from outside: real processes, the public client, raw bytes. One binary, so that it is
//! linked once.

mod ailing;
mod audit;
mod bad_input;
mod bad_orders;
mod bad_peers;
mod bad_starts;
mod bench;
mod chaos;
mod cluster_disks;
mod cluster_faults;
mod cluster_links;
mod completion;
mod conditions;
mod containers;
mod debug_collect;
mod deploy_kubernetes;
mod deploy_prometheus;
mod deploy_systemd;
mod dev_cluster;
mod durability;
mod faults;
mod force_release;
mod gateways;
mod greedy;
mod health;
mod hostile;
mod killed_keeper;
mod lock_command;
mod lock_descendants;
mod lock_keep;
mod locks;
mod locks_ls;
mod logs;
mod masters;
mod memory;
mod metrics;
mod moves;
mod moves_under_kills;
mod older_copy;
mod paper_trail;
mod power_cut;
mod ranges;
mod readme;
mod rebalance;
mod reclaim;
mod recover;
mod restart;
mod sessions;
mod shared_connections;
mod split_under_load;
mod stores;
mod traces;
mod unary;
mod watched_hand_overs;
mod workspace;

/// Clusters under load take the whole machine: one at a time.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
