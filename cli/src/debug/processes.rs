//! The processes of a cluster behind their admin ports: which there are, and what each says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use sharklock_client::GetStatusResponse;
use tokio::{net::lookup_host, task::JoinSet, time::timeout};

use crate::{probe::get, render::printable};

/// What is asked of each, and how the answer's file is called.
const PARTS: [(&str, &str); 5] = [
    ("/readyz", "readyz.txt"),
    ("/metrics", "metrics.txt"),
    ("/debug/config", "config.toml"),
    ("/debug/log", "log.jsonl"),
    ("/debug/traces", "traces.jsonl"),
];
/// An admin port answers from memory.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The longest answer: thousands of ranges have metrics of some megabytes.
const BYTES_MAX: u64 = 16 << 20;

/// A process that has an admin port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// What people call it; empty: that is not known.
    pub node: String,
    /// HOST:PORT.
    pub admin_address: String,
}

impl Process {
    pub fn new(node: &str, admin_address: &str) -> Self {
        Self { node: node.to_owned(), admin_address: admin_address.to_owned() }
    }

    /// As people call it.
    pub fn shown(&self) -> String {
        match self.node.as_str() {
            "" => self.admin_address.clone(),
            node => format!("{node} ({})", self.admin_address),
        }
    }
}

/// What a process said, part by part; or why not.
pub struct Said {
    pub parts: Vec<(&'static str, Result<String, String>)>,
}

impl Said {
    /// It has answered everything.
    pub fn answers(&self) -> bool {
        self.parts.iter().all(|(_, answer)| answer.is_ok())
    }
}

/// The processes that a status names, and those that were named besides.
pub fn of(status: Option<&GetStatusResponse>, named: &[String]) -> Vec<Process> {
    let mut processes = Vec::new();
    if let Some(status) = status {
        let masters = status.masters.iter().map(|it| (&it.node, &it.admin_address, &it.address));
        let stores = status.stores.iter().map(|it| (&it.node, &it.admin_address, &it.address));
        for (node, admin, address) in masters.chain(stores) {
            processes.push(Process::new(node, &reachable(admin, address)));
        }
    }
    processes.extend(named.iter().map(|address| Process::new("", address)));
    processes
}

/// Each admin port once; those that nobody knows are left out.
pub fn once(processes: Vec<Process>) -> Vec<Process> {
    let mut known = BTreeMap::<String, String>::new();
    for Process { node, admin_address } in processes {
        if !admin_address.is_empty() {
            let name = known.entry(admin_address).or_default();
            if name.is_empty() {
                *name = node;
            }
        }
    }
    let process = |(admin_address, node)| Process { node, admin_address };
    let mut processes: Vec<_> = known.into_iter().map(process).collect();
    processes.sort_by(|a, b| (&a.node, &a.admin_address).cmp(&(&b.node, &b.admin_address)));
    processes
}

/// A port that listens on all addresses is reached where the process is.
fn reachable(admin: &str, address: &str) -> String {
    let unspecified = admin.parse::<SocketAddr>().ok().filter(|it| it.ip().is_unspecified());
    match (unspecified, address.rsplit_once(':')) {
        (Some(admin), Some((host, _))) => format!("{host}:{}", admin.port()),
        _ => admin.to_owned(),
    }
}

/// A directory of an archive for each, which may share a name.
pub fn names(processes: &[(Process, Said)]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut name = |process: &Process| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let called = if process.node.is_empty() { &process.admin_address } else { &process.node };
        let mut name: String = called.chars().map(plain).collect();
        if name.starts_with('.') || !taken.insert(name.clone()) {
            name =
                format!("{name}-{}", process.admin_address.chars().map(plain).collect::<String>());
            taken.insert(name.clone());
        }
        name
    };
    processes.iter().map(|(process, _)| name(process)).collect()
}

/// Asks all at once, in their order.
pub async fn ask_all(processes: Vec<Process>) -> Vec<(Process, Said)> {
    let mut asking = JoinSet::new();
    for (at, process) in processes.into_iter().enumerate() {
        asking.spawn(async move {
            let said = ask(&process.admin_address).await;
            (at, (process, said))
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

async fn ask(address: &str) -> Said {
    let mut parts = Vec::new();
    for (path, file) in PARTS {
        parts.push((file, one(address, path).await));
    }
    Said { parts }
}

async fn one(address: &str, path: &str) -> Result<String, String> {
    let asking = async {
        let found = lookup_host(address).await.map_err(|why| why.to_string())?;
        let address = found.into_iter().next().ok_or("no such host")?;
        get(address, path, BYTES_MAX).await.map_err(|why| why.to_string())
    };
    let seconds = ANSWERS_WITHIN.as_secs();
    let answer = timeout(ANSWERS_WITHIN, asking).await;
    match answer.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))? {
        (200, body) => Ok(body),
        // It says what it lacks.
        (503, body) if path == "/readyz" => Ok(body),
        (code, body) => Err(format!("HTTP {code}: {}", printable(body.trim_end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_is_asked_once_by_the_name_that_is_known() {
        let known = vec![
            Process::new("n2", "h2:7790"),
            Process::new("", "h1:7790"),
            Process::new("n1", "h1:7790"),
            Process::new("n3", ""),
        ];
        let expected = [Process::new("n1", "h1:7790"), Process::new("n2", "h2:7790")];
        assert_eq!(once(known), expected);
    }

    #[test]
    fn a_port_on_all_addresses_is_reached_where_its_process_is() {
        assert_eq!(reachable("0.0.0.0:7790", "host-7:7710"), "host-7:7790");
        assert_eq!(reachable("[::]:7790", "[fd00::7]:7710"), "[fd00::7]:7790");
        assert_eq!(reachable("10.0.0.7:7790", "host-7:7710"), "10.0.0.7:7790");
        assert_eq!(reachable("", "host-7:7710"), "");
    }

    #[test]
    fn directories_have_plain_names_and_differ() {
        let all = [("n1", "h:1"), ("n1", "h:2"), ("", "[::1]:3"), ("../x", "h:4")];
        let all = all.map(|(node, at)| (Process::new(node, at), Said { parts: Vec::new() }));
        assert_eq!(names(&all), ["n1", "n1-h_2", "___1__3", ".._x-h_4"]);
    }
}
