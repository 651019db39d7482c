//! `sharklock dev ps|kill|pause|resume|restart|add`: asks the owner of a running cluster.

use std::path::Path;

use serde::Serialize;

use super::{
    control::{self, Answer, Ask, Shown},
    index::{self, Note},
};
use crate::{
    args::{DevCommand, Output, OutputArgs},
    exit::{DEGRADED, FAILED, Failure, OK, UNREACHABLE},
    render::{self, print, table},
};

/// What whoever adds a node should know.
const EMPTY: &str = "its store is empty: the masters move replicas there by themselves, a few at a time \
                     (`sharklock schedule show` tells what comes next; `sharklock ranges rebalance` does it now)";

/// Runs one command.
pub fn run(command: DevCommand) -> Result<u8, Failure> {
    let (cluster, ask, output) = match command {
        DevCommand::Ps { cluster, output } => (cluster, Ask::Ps, Some(output)),
        DevCommand::Kill(args) => (args.cluster, Ask::Kill(args.node), None),
        DevCommand::Pause(args) => (args.cluster, Ask::Pause(args.node), None),
        DevCommand::Resume(args) => (args.cluster, Ask::Resume(args.node), None),
        DevCommand::Restart(args) => (args.cluster, Ask::Restart(args.node), None),
        DevCommand::Add { cluster } => (cluster, Ask::Add, None),
    };
    let is_new = matches!(ask, Ask::Add);
    let note = find(cluster.data_dir.as_deref())?;
    match (control::ask(&note, &ask)?, output) {
        (Answer::Nodes(nodes), Some(output)) => show(&note, nodes, output),
        (Answer::Done(told), _) if is_new => print(&format!("{told}\n{EMPTY}\n")).map(|()| OK),
        (Answer::Done(told), _) => print(&format!("{told}\n")).map(|()| OK),
        (Answer::NotReady(told), _) => print(&format!("{told}\n")).map(|()| DEGRADED),
        (Answer::Refused(why), _) => Err(Failure::new(FAILED, why)),
        (Answer::Nodes(_), None) => {
            Err(Failure::new(FAILED, "the cluster answers what was not asked"))
        }
    }
}

/// What the nodes of the newest cluster of this user are called, and their states; nothing where
/// none runs.
pub fn node_names() -> Vec<(String, String)> {
    let Some(note) = index::newest_running() else { return Vec::new() };
    match control::ask(&note, &Ask::Ps) {
        Ok(Answer::Nodes(nodes)) => nodes.into_iter().map(|it| (it.node, it.state)).collect(),
        _ => Vec::new(),
    }
}

fn find(data_dir: Option<&Path>) -> Result<Note, Failure> {
    let (note, why) = match data_dir {
        Some(dir) => (
            index::running_in(dir),
            format!("no cluster of `sharklock dev` runs in {}", dir.display()),
        ),
        None => (index::newest_running(), "no cluster of `sharklock dev` runs".to_owned()),
    };
    note.ok_or_else(|| {
        Failure::new(UNREACHABLE, why).hint("start one with `sharklock dev --nodes 3`")
    })
}

/// `dev ps`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.DevCluster")]
struct Cluster {
    /// The process that owns the nodes.
    pid: u32,
    /// The directory of the cluster.
    data_dir: String,
    /// Masters of their own, then nodes.
    nodes: Vec<Shown>,
}

fn show(note: &Note, nodes: Vec<Shown>, output: OutputArgs) -> Result<u8, Failure> {
    let data_dir = note.data_dir.display().to_string();
    let cluster = Cluster { pid: note.owner.pid, data_dir, nodes };
    print(&match output.output {
        Output::Json => render::json(&cluster),
        Output::Table => cluster.table(),
    })?;
    Ok(OK)
}

impl Cluster {
    fn table(&self) -> String {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let row = |node: &Shown| {
            let state = match node.detail.as_str() {
                "" => node.state.clone(),
                detail => format!("{}: {detail}", node.state),
            };
            vec![
                node.node.clone(),
                node.roles.join(","),
                dash(&node.gateway),
                dash(&node.data),
                dash(&node.master),
                dash(&node.admin),
                node.pid.map_or("-".to_owned(), |pid| pid.to_string()),
                state,
            ]
        };
        let rows: Vec<_> = self.nodes.iter().map(row).collect();
        table(&["NODE", "ROLES", "GATEWAY", "DATA", "MASTER", "ADMIN", "PID", "STATE"], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let node = Shown {
            node: "node-1".into(),
            roles: vec!["data".into(), "gateway".into()],
            gateway: Some("127.0.0.1:7700".into()),
            data: Some("127.0.0.1:7710".into()),
            admin: Some("127.0.0.1:7790".into()),
            state: "ended".into(),
            detail: "killed by SIGKILL".into(),
            ..Shown::default()
        };
        Cluster { pid: 7, data_dir: "/d".into(), nodes: vec![node] }
    }

    #[test]
    fn nodes_are_shown_in_a_table() {
        assert_eq!(
            cluster().table(),
            "NODE    ROLES         GATEWAY         DATA            MASTER  ADMIN           PID  STATE\n\
             node-1  data,gateway  127.0.0.1:7700  127.0.0.1:7710  -       127.0.0.1:7790  -    \
             ended: killed by SIGKILL\n"
        );
    }

    #[test]
    fn json_names_its_schema_and_says_what_is_absent() {
        let value: serde_json::Value =
            serde_json::from_str(&render::json(&cluster())).expect("it is JSON");
        assert_eq!(value["schema"], "sharklock.v1.DevCluster");
        let node = &value["nodes"][0];
        assert_eq!((&node["pid"], &node["node"]), (&serde_json::Value::Null, &"node-1".into()));
    }

    #[test]
    fn a_directory_without_a_cluster_is_told() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let failure = find(Some(dir.path())).expect_err("nothing runs there");
        assert_eq!(failure.code(), UNREACHABLE);
        assert!(failure.to_string().contains("hint: start one with"), "{failure}");
    }
}
