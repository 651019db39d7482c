//! Arguments of what serves: `server` and `dev`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::{
    ADMIN_PORT, GATEWAY_PORT, HELP, OutputArgs,
    values::{loopback, loopback_address},
};

/// How many nodes `dev` runs at most: as many as have ports of their own between 7700 and 8600.
pub const NODES_MAX: u8 = 9;

/// Arguments of `server`. Values are read by `config`, as those of a file are.
#[derive(Debug, Default, Args)]
#[command(
    help_template = HELP,
    before_help = "\
Examples:
  sharklock server --config /etc/sharklock/server.toml
  sharklock server --roles master,data,gateway --data-dir /var/lib/sharklock \\
      --masters host-1:7720,host-2:7720,host-3:7720 --insecure \\
      --listen-gateway 10.0.0.1:7700 --listen-data 10.0.0.1:7710 \\
      --listen-master 10.0.0.1:7720 --advertise-master host-1:7720
  sharklock server --roles gateway --masters host-1:7720,host-2:7720,host-3:7720
  sharklock server --config server.toml --print-config   what it would use
",
    after_help = "\
Every setting can stand in a TOML file, as `key` under `[section]`; in the
environment, as SHARKLOCK_SECTION__KEY; and the ones above as flags. Flags win
over the environment, and that over the file. --print-config prints them all.

A gateway with --cluster ID takes nothing from masters of another cluster from
the start; otherwise the first that it hears of is the one. Stores and masters
keep theirs in their directories.

The cluster forms by itself when all its masters have been started for the
first time. A master with --join never forms one: it waits until it is added.
SIGTERM and SIGINT stop it in order: health says so, what was asked
is answered, leadership is handed over, everything is written. A second signal
ends it at once, which loses nothing that was acknowledged.

Exit codes: 0 stopped by SIGINT or SIGTERM, 2 usage, 70 internal error, 78 the
configuration, the data directory or a port cannot be used.

Logs go to stderr, as JSON unless it is a terminal. SHARKLOCK_LOG or RUST_LOG
filters them: a level is for SharkLock's own, TARGET=LEVEL for others, for
example SHARKLOCK_LOG=debug or SHARKLOCK_LOG=info,h2=debug."
)]
pub struct ServerArgs {
    /// Reads settings from this TOML file
    #[arg(long, value_name = "FILE", env = "SHARKLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// What this process does: any of master, data, gateway
    #[arg(long, value_name = "LIST")]
    pub roles: Option<String>,
    /// Keeps its data here; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What people call this process, in every table [default: the name of the machine]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What people call the cluster; the same on all its processes
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// All masters of the cluster, HOST:PORT each; a cluster begins with 1, 3 or 5
    #[arg(long, value_name = "LIST")]
    pub masters: Option<String>,
    /// This process's master joins the cluster of --masters, once `sharklock masters add` says so
    #[arg(long)]
    pub join: bool,
    /// Serves clients here [default: 127.0.0.1:7700]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_gateway: Option<String>,
    /// Serves locks to gateways, and meets other data servers, here [default: 127.0.0.1:7710]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_data: Option<String>,
    /// Serves the cluster's metadata, and meets other masters, here [default: 127.0.0.1:7720]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_master: Option<String>,
    /// Serves /metrics, /livez and /readyz here [default: 127.0.0.1:7790]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_admin: Option<String>,
    /// Where others reach the data server [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_data: Option<String>,
    /// Which of --masters this master is [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_master: Option<String>,
    /// Allows addresses that other machines reach. INSECURE: nothing is encrypted or authenticated
    #[arg(long)]
    pub insecure: bool,
    /// UNSAFE: acknowledges before the disk has it, so that a power cut can break every promise. It
    /// shows what durability costs
    #[arg(long)]
    pub unsafe_no_fsync: bool,
    /// Prints every setting as TOML with where it came from, and starts nothing
    #[arg(long)]
    pub print_config: bool,
}

/// Arguments of `dev`.
#[derive(Debug, Args)]
#[command(
    help_template = HELP,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  sharklock dev               one process, keeps its data in ./sharklock-data
  sharklock dev --ephemeral   keeps nothing
  sharklock dev --nodes 3     a cluster of three, in ./sharklock-cluster
  sharklock dev kill 1        kills a node of it (from another terminal)
  sharklock dev --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0   any free ports
",
    after_help = "\
With --nodes every node is a process of its own: node 1 serves clients on port
7700, node 2 on 7800, and so on; data on 7710, master on 7720 and admin on 7790
in the same way. The commands above find a running cluster by --data-dir, else
they take the newest one of this user.

SHARKLOCK_SECTION__KEY in the environment and --config set what `sharklock
server --print-config` lists, except what dev itself decides.

Exit codes: 0 stopped by SIGINT or SIGTERM, 2 usage, 70 internal error, 78 the
data directory or a port cannot be used.

The banner goes to stdout. Logs go to stderr, as JSON unless it is a terminal,
and with --nodes to DIR/node-N/log. SHARKLOCK_LOG or RUST_LOG filters them: a
level is for SharkLock's own, TARGET=LEVEL for others, for example
SHARKLOCK_LOG=debug or SHARKLOCK_LOG=info,h2=debug."
)]
pub struct DevArgs {
    /// What to do with a cluster that runs.
    #[command(subcommand)]
    pub command: Option<DevCommand>,
    /// Keeps locks and tokens here between runs [default: ./sharklock-data, or
    /// ./sharklock-cluster with --nodes]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Serves clients here; loopback only, port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value_t = loopback(GATEWAY_PORT), value_parser = loopback_address)]
    pub listen: SocketAddr,
    /// Serves /metrics, /livez and /readyz here; loopback only, port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value_t = loopback(ADMIN_PORT), value_parser = loopback_address)]
    pub admin_listen: SocketAddr,
    /// Keeps everything in a temporary directory that is removed at the end
    #[arg(long, conflicts_with = "data_dir")]
    pub ephemeral: bool,
    /// UNSAFE: acknowledges before the disk has it, so that a power cut can break every promise. It
    /// shows what durability costs
    #[arg(long)]
    pub unsafe_no_fsync: bool,
    /// Reads settings from this TOML file
    #[arg(long, value_name = "FILE", env = "SHARKLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// What people call the cluster
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
    /// Runs a cluster of so many processes, 1 to 9; 3 survive the loss of any one
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["listen", "admin_listen"],
        value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX))
    )]
    pub nodes: Option<u8>,
    /// Runs masters as processes of their own, beside the nodes
    #[arg(long, requires = "nodes")]
    pub split_roles: bool,
    /// Adds this to every port, for a second cluster on the same machine
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "nodes",
        value_parser = clap::value_parser!(u16).range(..=50_000)
    )]
    pub port_offset: u16,
}

/// What can be done with a running cluster.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Shows the nodes of the cluster
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev ps
  sharklock dev ps --output json | jq -r '.nodes[].pid'
", after_help = "\
STATE is ready, or why not: starting, not ready (it runs, but lacks something),
paused, or how it ended.")]
    Ps {
        /// Which cluster.
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Kills a node as a crash would, with SIGKILL
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev kill 1
  sharklock dev restart 1     when you want it back
")]
    Kill(NodeArgs),
    /// Freezes a node, with SIGSTOP: it keeps its connections and says nothing
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev pause 2
  sharklock dev resume 2
")]
    Pause(NodeArgs),
    /// Lets a paused node go on, with SIGCONT
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev resume 2
")]
    Resume(NodeArgs),
    /// Starts a node that has ended; stops one that runs in order and starts it again
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev restart 1
", after_help = "\
It returns when the node is ready. Exit codes: 0 ready, 1 failed, 2 usage,
3 started and not ready after 15 s (so it is while a majority is missing), 69 no
cluster runs there.")]
    Restart(NodeArgs),
    /// Adds one more node, which serves clients and keeps data
    #[command(help_template = HELP, before_help = "\
Examples:
  sharklock dev add
", after_help = "\
It returns when the node is ready. The masters stay those of the cluster's first
start. Exit codes are those of `dev restart`.")]
    Add {
        /// Which cluster.
        #[command(flatten)]
        cluster: ClusterArgs,
    },
}

/// Which cluster is meant.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// The cluster that runs in this directory [default: the newest of this user]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// One node of a cluster.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node as `dev ps` calls it; its number will do
    pub node: String,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}
