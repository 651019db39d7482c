//! `sharklock dev --nodes N`: a cluster of processes, with one that owns them, and the commands that
//! speak with it.

mod commands;
mod control;
mod index;
mod layout;
mod node;
mod owner;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::commands::{node_names, run as command};
use self::{
    index::{Identity, Note, Noted},
    layout::{Layout, NodeSpec},
    node::Recipe,
    owner::{Owner, WaitEnd},
};
use super::banner::{self, ClusterBanner, NodeLine};
use crate::{
    args::DevArgs,
    config::{self, Origin, Raw, said},
    exit::{CONFIG, Failure, INTERNAL, OK},
    render::print,
    runtime,
    server::{Claimed, DataDir, ReservedPort, Stop},
};

/// The directory of a cluster unless told otherwise.
const DATA_DIR: &str = "./sharklock-cluster";
/// The file of its layout, in its directory.
const LAYOUT: &str = "cluster.json";
/// The same, while it is being written.
const LAYOUT_NEW: &str = "cluster.json.new";

/// Runs a cluster until SIGINT or SIGTERM. To be called on the main thread: the nodes are killed
/// when it ends.
pub fn run(args: &DevArgs, nodes: u8, started: std::time::Instant) -> Result<u8, Failure> {
    let data_dir = match (args.ephemeral, &args.data_dir) {
        (true, _) => DataDir::temporary()?,
        (false, Some(dir)) => DataDir::Kept(dir.clone()),
        (false, None) => DataDir::Kept(DATA_DIR.into()),
    };
    let claimed = Claimed::of(data_dir.path(), is_ours)?;
    let dir = claimed.path().canonicalize().map_err(|why| unusable(claimed.path(), &why))?;
    let wanted = Layout::new(nodes, args.split_roles, args.port_offset);
    let layout = settle(read_layout(&dir)?, wanted)?;
    let recipe = recipe(args, &layout, &dir)?;
    ports_are_free(layout.specs().iter())?;
    write_layout(&dir, &layout).map_err(|why| unusable(&dir, &why))?;

    let runtime = runtime::start(1)?;
    runtime.block_on(async {
        let stop = Stop::listen()?;
        let keep = {
            let dir = dir.clone();
            move |layout: &Layout| write_layout(&dir, layout)
        };
        let mut owner = Owner::new(layout, recipe, keep, stop)?;
        let socket = control::listen(&dir).map_err(|why| unusable(&dir, &why))?;
        let serving = tokio::spawn(control::serve(socket, owner.requests()));
        let note = Note { owner: me()?, data_dir: dir.clone() };
        let noted = Noted::write(&note).map_err(|why| unusable(&dir, &why))?;
        eprintln!("sharklock: starting {} nodes in {}", owner.nodes().len(), dir.display());
        let ended = live(&mut owner, || {
            let facts = Facts { data_dir: data_dir.path(), args, ready_after: since(started) };
            facts.banner()
        })
        .await;
        eprintln!("sharklock: stopping");
        let forced = owner.finish().await;
        serving.abort();
        let _ = fs::remove_file(dir.join(index::SOCKET));
        drop(noted);
        ended?;
        Ok(forced.unwrap_or(OK))
    })
}

/// From the start to whatever ends it.
async fn live(owner: &mut Owner, facts: impl FnOnce() -> ClusterBanner) -> Result<(), Failure> {
    owner.start()?;
    if owner.run().await? == WaitEnd::Stopped {
        return Ok(());
    }
    let mut banner = facts();
    banner.nodes = owner.nodes().iter().map(line).collect();
    print(&banner.to_string())?;
    owner.run().await.map(drop)
}

fn line(node: &node::Node) -> NodeLine {
    let spec = &node.spec;
    NodeLine {
        name: spec.name.clone(),
        gateway: spec.roles.gateway.then_some(spec.gateway),
        admin: spec.admin,
        pid: node.running().map_or(0, node::Running::pid),
    }
}

struct Facts<'a> {
    data_dir: &'a Path,
    args: &'a DevArgs,
    ready_after: Duration,
}

impl Facts<'_> {
    fn banner(&self) -> ClusterBanner {
        ClusterBanner {
            data_dir: self.data_dir.to_owned(),
            ephemeral: self.args.ephemeral,
            unsafe_no_fsync: self.args.unsafe_no_fsync,
            ready_after: self.ready_after,
            program: banner::callable_path(),
            nodes: Vec::new(),
        }
    }
}

fn is_ours(name: &str) -> bool {
    [LAYOUT, LAYOUT_NEW, index::NOTE, index::SOCKET].contains(&name)
        || ["node-", "master-"].iter().any(|prefix| name.starts_with(prefix))
}

/// The layout of a cluster that was there before: its masters and ports stay, since its nodes know
/// each other by them, and its nodes do not get fewer, since they hold what was promised.
fn settle(before: Option<Layout>, wanted: Layout) -> Result<Layout, Failure> {
    let Some(before) = before else { return Ok(wanted) };
    let grown = Layout { nodes: wanted.nodes, ..before.clone() };
    let same = (wanted.split_roles, wanted.port_offset) == (before.split_roles, before.port_offset);
    if same && wanted.nodes >= before.nodes {
        return Ok(grown);
    }
    let mut flags = format!("--nodes {}", before.nodes.max(wanted.nodes));
    if before.split_roles {
        flags.push_str(" --split-roles");
    }
    if before.port_offset != 0 {
        flags.push_str(&format!(" --port-offset {}", before.port_offset));
    }
    let why = "the data directory holds another cluster than the one asked for";
    Err(Failure::new(CONFIG, why)
        .hint(format!("run it with {flags}, or choose another with --data-dir")))
}

fn read_layout(dir: &Path) -> Result<Option<Layout>, Failure> {
    let path = dir.join(LAYOUT);
    match fs::read(&path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(unusable(&path, &why)),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|why| unusable(&path, &why)),
    }
}

/// Whole or not at all: a crash in between leaves the old one.
fn write_layout(dir: &Path, layout: &Layout) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(layout).map_err(io::Error::other)?;
    let new = dir.join(LAYOUT_NEW);
    fs::write(&new, text)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, dir.join(LAYOUT))
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(CONFIG, format!("data directory {}: {why}", path.display()))
}

fn me() -> Result<Identity, Failure> {
    Identity::of(std::process::id())
        .ok_or_else(|| Failure::new(INTERNAL, "cannot read /proc/self/stat"))
}

/// That every port is to be had now: told before anything is started.
fn ports_are_free<'a>(specs: impl Iterator<Item = &'a NodeSpec>) -> Result<(), Failure> {
    // Taking a port needs a reactor around it, also for a moment.
    let runtime = match tokio::runtime::Handle::try_current() {
        Ok(_) => None,
        Err(_) => Some(runtime::start(1)?),
    };
    let _inside = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    for (_, at) in specs.flat_map(NodeSpec::listens) {
        drop(ReservedPort::take(at, "--port-offset N")?);
    }
    Ok(())
}

/// The arguments that all nodes get beside their own. A fault in a file or a variable is told
/// here, once.
fn recipe(args: &DevArgs, layout: &Layout, dir: &Path) -> Result<Recipe, Failure> {
    let dev = |name: &str, text: String| said(name, Raw::Text(text), Origin::Command("dev"));
    let masters: Vec<String> = layout.masters().iter().map(ToString::to_string).collect();
    let own = vec![
        dev("server.roles", "gateway".to_owned()),
        dev("server.masters", masters.join(",")),
        dev("server.data_dir", dir.display().to_string()),
        dev("listen.gateway", "127.0.0.1:7700".to_owned()),
        dev("listen.admin", "127.0.0.1:7790".to_owned()),
    ];
    let settings = config::load(args.config.as_deref(), own)?;
    config::check(&settings)?;
    let mut variables = Vec::new();
    if settings.is_default("cluster.replicas") {
        variables.push(("SHARKLOCK_CLUSTER__REPLICAS".to_owned(), layout.replicas().to_string()));
    }
    // All nodes share one machine.
    let nodes = u64::from(args.nodes.unwrap_or(1));
    for (name, percent) in [("memory.store_max", 50), ("memory.address_max", 25)] {
        if settings.is_default(name) {
            let name = format!("SHARKLOCK_{}", name.replace('.', "__").to_uppercase());
            variables.push((name, format!("{}%", percent / nodes)));
        }
    }
    let mut arguments = Vec::new();
    if let Some(config) = &args.config {
        let config = config.canonicalize().unwrap_or_else(|_| config.clone());
        arguments.extend(["--config".into(), config.into_os_string()]);
    }
    if args.unsafe_no_fsync {
        arguments.push("--unsafe-no-fsync".into());
    }
    if let Some(name) = &args.cluster_name {
        arguments.push(format!("--cluster-name={name}").into());
    }
    let program: PathBuf = std::env::current_exe()
        .map_err(|why| Failure::new(INTERNAL, "cannot find this program").cause(why))?;
    Ok(Recipe { program, dir: dir.to_owned(), arguments, variables })
}

#[expect(clippy::disallowed_methods, reason = "how long the start took, for the banner")]
fn since(started: std::time::Instant) -> Duration {
    std::time::Instant::now() - started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_may_grow_and_not_change_otherwise() {
        let before = || Some(Layout::new(3, false, 0));
        let grown = settle(before(), Layout::new(5, false, 0)).expect("it may grow");
        assert_eq!((grown.nodes, grown.masters), (5, 3), "its masters stay");
        assert_eq!(settle(None, Layout::new(1, true, 7)).expect("a new one").port_offset, 7);
        for other in [Layout::new(2, false, 0), Layout::new(3, true, 0), Layout::new(3, false, 9)] {
            let refused = settle(before(), other).expect_err("it may not");
            assert!(refused.to_string().contains("--nodes 3, or"), "{refused}");
            assert_eq!(refused.code(), CONFIG);
        }
        let split = settle(Some(Layout::new(3, true, 100)), Layout::new(4, false, 0));
        let told = split.expect_err("another kind").to_string();
        assert!(told.contains("--nodes 4 --split-roles --port-offset 100,"), "{told}");
    }

    #[test]
    fn a_layout_is_kept_whole() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        assert_eq!(read_layout(dir.path()), Ok(None));
        let layout = Layout::new(3, true, 100);
        write_layout(dir.path(), &layout).expect("it is written");
        assert_eq!(read_layout(dir.path()), Ok(Some(layout)));
        fs::write(dir.path().join(LAYOUT), "{\"nodes\":3}").expect("it is written");
        assert!(read_layout(dir.path()).is_err());
    }
}
