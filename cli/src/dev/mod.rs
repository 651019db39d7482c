//! `sharklock dev`: the whole service on this machine's loopback, in one process or as a cluster.

mod address;
mod banner;
mod cluster;

use std::{net::Ipv4Addr, path::Path, time::Instant};

use self::banner::Banner;
pub use self::cluster::node_names;
use crate::{
    args::{DATA_PORT, DevArgs, MASTER_PORT},
    config::{self, Origin, Raw, Said, ServerConfig, said},
    exit::Failure,
    render::print,
    server::{self, Claimed, DataDir, Ready},
};

/// The directory of one process unless told otherwise.
const DATA_DIR: &str = "./sharklock-data";

/// Runs until SIGINT or SIGTERM, or asks a cluster that runs.
pub fn run(mut args: DevArgs) -> Result<u8, Failure> {
    let started = now();
    if let Some(command) = args.command.take() {
        return cluster::command(command);
    }
    match args.nodes {
        Some(nodes) => cluster::run(&args, nodes, started),
        None => one_process(&args, started),
    }
}

/// All roles in this process.
fn one_process(args: &DevArgs, started: Instant) -> Result<u8, Failure> {
    let data_dir = match (args.ephemeral, &args.data_dir) {
        (true, _) => DataDir::temporary()?,
        (false, Some(dir)) => DataDir::Kept(dir.clone()),
        (false, None) => DataDir::Kept(DATA_DIR.into()),
    };
    let claimed = Claimed::of_node(data_dir.path())?;
    let config = configure(args, data_dir.path(), address::of(data_dir.path())?)?;
    let tell_ready = |ready: Ready| {
        let banner = Banner {
            cluster_id: &ready.cluster_id,
            data_dir: data_dir.path(),
            ephemeral: args.ephemeral,
            unsafe_no_fsync: args.unsafe_no_fsync,
            gateway: ready.gateway.expect("`dev` serves clients"),
            admin: ready.admin,
            ready_after: now() - started,
            program: &banner::callable_path(),
        };
        print(&banner.to_string())
    };
    server::serve(&config, Some(claimed), option, tell_ready)
}

/// How `dev` calls the option that chooses another port.
fn option(role: &str) -> String {
    match role {
        "gateway" => "--listen ADDR".to_owned(),
        "admin" => "--admin-listen ADDR".to_owned(),
        other => format!("SHARKLOCK_LISTEN__{}", other.to_uppercase()),
    }
}

/// Settings of a file and the environment hold, except for those that make a node one of `dev`.
fn configure(args: &DevArgs, data_dir: &Path, address: Ipv4Addr) -> Result<ServerConfig, Failure> {
    let dev = |name, text: String| said(name, Raw::Text(text), Origin::Command("dev"));
    let master = format!("{address}:{MASTER_PORT}");
    let mut own: Vec<Said> = vec![
        dev("server.roles", "master,data,gateway".to_owned()),
        dev("server.data_dir", data_dir.display().to_string()),
        dev("server.masters", master.clone()),
        dev("listen.gateway", args.listen.to_string()),
        dev("listen.data", format!("{address}:{DATA_PORT}")),
        dev("listen.master", master),
        dev("listen.admin", args.admin_listen.to_string()),
        dev("cluster.replicas", "1".to_owned()),
        dev("server.name", "node-1".to_owned()),
    ];
    if let Some(name) = &args.cluster_name {
        own.push(said("cluster.name", Raw::Text(name.clone()), Origin::Flag("--cluster-name")));
    }
    if args.unsafe_no_fsync {
        own.push(said(
            "server.unsafe_no_fsync",
            Raw::Switch(true),
            Origin::Flag("--unsafe-no-fsync"),
        ));
    }
    config::check(&config::load(args.config.as_deref(), own)?)
}

#[expect(clippy::disallowed_methods, reason = "how long the start took, for the banner")]
fn now() -> Instant {
    Instant::now()
}
