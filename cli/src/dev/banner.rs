//! The words of `sharklock dev` when it is ready: where it answers, and what to try next.

use std::{
    env, fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    args::DEFAULT_ENDPOINT,
    render::{printable, shell_word, table},
};

const UNSAFE: &str = "
UNSAFE: --unsafe-no-fsync acknowledges what is not on the disk. A power cut may
give a lock to two holders and repeat fencing tokens. For measurements only.
";

/// The consequence of a data directory that nobody keeps.
const NEW_CLUSTER: &str = " (each start with --ephemeral is a new cluster)";

/// The facts of one run. Each stands on a line of its own as `  word   value`, so that programs can
/// find the addresses too.
#[derive(Debug)]
pub struct Banner<'a> {
    /// The cluster's id, as hex.
    pub cluster_id: &'a str,
    /// The directory of locks and tokens.
    pub data_dir: &'a Path,
    /// The data directory is removed at the end.
    pub ephemeral: bool,
    /// Nothing is durable.
    pub unsafe_no_fsync: bool,
    /// The address at which clients are served.
    pub gateway: SocketAddr,
    /// The address at which `/metrics` and health are served.
    pub admin: SocketAddr,
    /// Time from the start of the process.
    pub ready_after: Duration,
    /// This binary as a shell in the same directory can call it.
    pub program: &'a str,
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = format!("http://{}", self.gateway);
        let data_dir = printable(&self.data_dir.display().to_string());
        let ready = self.ready_after.as_secs_f64();
        writeln!(f, "SharkLock {} is ready ({ready:.2} s)\n", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "  gateway   {endpoint}")?;
        writeln!(f, "  admin     http://{}", self.admin)?;
        writeln!(
            f,
            "  data      {data_dir}{}",
            if self.ephemeral { " (removed at the end)" } else { "" }
        )?;
        let new = if self.ephemeral { NEW_CLUSTER } else { "" };
        writeln!(f, "  cluster   {}{new}", self.cluster_id)?;

        if self.unsafe_no_fsync {
            write!(f, "{UNSAFE}")?;
        }

        let to = match endpoint == DEFAULT_ENDPOINT {
            true => String::new(),
            false => format!(" --endpoints {endpoint}"),
        };
        let program = self.program;
        writeln!(f, "\nTry in another terminal:\n")?;
        writeln!(f, "  {program} lock hello{to} -- sh -c 'echo token $SHARKLOCK_TOKEN'")?;
        writeln!(f, "  {program} locks ls{to}")?;
        writeln!(f, "  {program} status{to}")?;
        writeln!(f, "  curl -s http://{}/metrics", self.admin)?;
        writeln!(f, "\nCtrl-C stops it.")
    }
}

/// The words of `sharklock dev --nodes` when all nodes are ready.
#[derive(Debug)]
pub struct ClusterBanner {
    /// The directory of the nodes' data.
    pub data_dir: PathBuf,
    /// The data directory is removed at the end.
    pub ephemeral: bool,
    /// Nothing is durable.
    pub unsafe_no_fsync: bool,
    /// Time from the start of the process.
    pub ready_after: Duration,
    /// This binary as a shell in the same directory can call it.
    pub program: String,
    /// All processes.
    pub nodes: Vec<NodeLine>,
}

/// One process of a cluster.
#[derive(Debug)]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// The address at which it serves clients, if it does.
    pub gateway: Option<SocketAddr>,
    /// The address at which it serves `/metrics` and health.
    pub admin: SocketAddr,
    /// Its process.
    pub pid: u32,
}

impl fmt::Display for ClusterBanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready_after.as_secs_f64();
        writeln!(f, "SharkLock {} is ready ({ready:.2} s)\n", env!("CARGO_PKG_VERSION"))?;
        let row = |node: &NodeLine| {
            let gateway = node.gateway.map_or("-".to_owned(), |at| format!("http://{at}"));
            vec![
                format!("  {}", node.name),
                gateway,
                format!("http://{}", node.admin),
                node.pid.to_string(),
            ]
        };
        let rows: Vec<_> = self.nodes.iter().map(row).collect();
        write!(f, "{}", table(&["  NODE", "GATEWAY", "ADMIN", "PID"], &rows))?;
        let data_dir = printable(&self.data_dir.display().to_string());
        let removed = match self.ephemeral {
            true => " (removed at the end; each start is a new cluster)",
            false => "",
        };
        writeln!(f, "\n  data      {data_dir}{removed}")?;
        if self.unsafe_no_fsync {
            write!(f, "{UNSAFE}")?;
        }
        let gateways = self.nodes.iter().filter_map(|node| node.gateway);
        let endpoints: Vec<String> = gateways.map(|at| format!("http://{at}")).collect();
        let program = &self.program;
        writeln!(f, "\nTry in another terminal:\n")?;
        writeln!(f, "  export SHARKLOCK_ENDPOINTS={}", endpoints.join(","))?;
        writeln!(f, "  {program} lock hello -- sh -c 'echo token $SHARKLOCK_TOKEN'")?;
        writeln!(f, "  {program} status")?;
        writeln!(f, "  {program} dev ps")?;
        writeln!(f, "  {program} dev kill 1")?;
        writeln!(f, "\nCtrl-C stops all of it.")
    }
}

/// How a shell in the current directory calls this binary: by its bare name if that finds it, by a
/// path below the current directory if it is there, else by its full path.
pub fn callable_path() -> String {
    let Ok(exe) = env::current_exe() else { return "sharklock".into() };
    let path = env::var_os("PATH").unwrap_or_default();
    let found =
        env::split_paths(&path).map(|dir| dir.join("sharklock")).find(|file| file.is_file());
    callable(&exe, env::current_dir().ok().as_deref(), found)
}

fn callable(exe: &Path, current_dir: Option<&Path>, found_by_name: Option<PathBuf>) -> String {
    let same = |found: PathBuf| found.canonicalize().is_ok_and(|found| found == exe);
    if found_by_name.is_some_and(same) {
        return "sharklock".into();
    }
    let below = current_dir.and_then(|dir| exe.strip_prefix(dir).ok());
    shell_word(&match below {
        // Without a slash a shell would look for it in PATH.
        Some(file) if file.components().count() == 1 => format!("./{}", file.display()),
        Some(path) => path.display().to_string(),
        None => exe.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(gateway: &str) -> String {
        Banner {
            cluster_id: "00ff",
            data_dir: Path::new("./sharklock-data"),
            ephemeral: false,
            unsafe_no_fsync: false,
            gateway: gateway.parse().expect("an address"),
            admin: "127.0.0.1:7790".parse().expect("an address"),
            ready_after: Duration::from_millis(214),
            program: "target/debug/sharklock",
        }
        .to_string()
    }

    #[test]
    fn the_default_endpoint_is_not_repeated_in_commands() {
        let text = banner("127.0.0.1:7700");
        assert!(text.contains("\n  gateway   http://127.0.0.1:7700\n"), "{text}");
        assert!(text.contains("\n  target/debug/sharklock lock hello -- sh -c"), "{text}");
    }

    #[test]
    fn another_endpoint_stands_in_every_command() {
        let text = banner("127.0.0.1:40123");
        let commands = text.lines().filter(|line| line.starts_with("  target/debug/sharklock"));
        for line in commands {
            assert!(line.contains(" --endpoints http://127.0.0.1:40123"), "{line}");
        }
    }

    #[test]
    fn a_cluster_shows_every_node_and_all_endpoints() {
        let node = |number: u16| NodeLine {
            name: format!("node-{number}"),
            gateway: Some(([127, 0, 0, 1], 7600 + 100 * number).into()),
            admin: ([127, 0, 0, 1], 7690 + 100 * number).into(),
            pid: 40 + u32::from(number),
        };
        let text = ClusterBanner {
            data_dir: "./sharklock-cluster".into(),
            ephemeral: false,
            unsafe_no_fsync: true,
            ready_after: Duration::from_millis(1_214),
            program: "sharklock".into(),
            nodes: vec![node(1), node(2)],
        }
        .to_string();
        let both = "SHARKLOCK_ENDPOINTS=http://127.0.0.1:7700,http://127.0.0.1:7800\n";
        assert!(text.contains(both), "{text}");
        let line = "\n  node-2  http://127.0.0.1:7800  http://127.0.0.1:7890  42\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("UNSAFE") && text.contains("dev kill 1"), "{text}");
    }

    #[test]
    fn the_path_shown_can_be_called() {
        let exe = Path::new("/r/target/debug/sharklock");
        assert_eq!(callable(exe, Some(Path::new("/r")), None), "target/debug/sharklock");
        assert_eq!(callable(exe, Some(Path::new("/r/target/debug")), None), "./sharklock");
        assert_eq!(callable(exe, Some(Path::new("/elsewhere")), None), "/r/target/debug/sharklock");
        assert_eq!(callable(exe, None, Some("/usr/bin/sharklock".into())), exe.to_string_lossy());
        let this = env::current_exe().and_then(|exe| exe.canonicalize()).expect("a test binary");
        assert_eq!(callable(&this, None, Some(this.clone())), "sharklock");
    }
}
