//! Which processes a cluster of `dev` consists of, and where each answers. Pure: the same cluster
//! has the same addresses at every start, because masters know each other by them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    args::{ADMIN_PORT, DATA_PORT, GATEWAY_PORT, MASTER_PORT, NODES_MAX},
    config::Roles,
};

/// Between the ports of two nodes.
const NODE_STEP: u16 = 100;
/// The admin port of a master with a process of its own: beside that of the node of its number.
const MASTER_ADMIN_PORT: u16 = ADMIN_PORT + 1;

/// The layout of a cluster, as its directory keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Nodes that serve clients and keep locks; 1 to 9.
    pub nodes: u8,
    /// Masters: 1, 3 or 5, as many as at the cluster's first start.
    pub masters: u8,
    /// Masters have processes of their own.
    pub split_roles: bool,
    /// Added to every port.
    pub port_offset: u16,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// `node-1`, or `master-1`: also the name of its directory.
    pub name: String,
    /// Its roles.
    pub roles: Roles,
    /// The address at which it would serve clients.
    pub gateway: SocketAddr,
    /// The address at which it would meet gateways and other data servers.
    pub data: SocketAddr,
    /// The address at which it would meet everybody, as a master.
    pub master: SocketAddr,
    /// The address at which it serves `/metrics` and health.
    pub admin: SocketAddr,
}

impl Layout {
    /// A new cluster. Its masters are an odd number: an even one tolerates no more losses.
    pub fn new(nodes: u8, split_roles: bool, port_offset: u16) -> Self {
        let masters = match nodes {
            0..3 => 1,
            3..5 => 3,
            5.. => 5,
        };
        Self { nodes, masters, split_roles, port_offset }
    }

    /// All processes, masters of their own first: the others wait for them.
    pub fn specs(&self) -> Vec<NodeSpec> {
        let apart = if self.split_roles { self.masters } else { 0 };
        let masters = (1..=apart).map(|number| self.master(number));
        masters.chain((1..=self.nodes).map(|number| self.node(number))).collect()
    }

    /// Addresses of all masters.
    pub fn masters(&self) -> Vec<SocketAddr> {
        (1..=self.masters).map(|number| self.at(MASTER_PORT, number)).collect()
    }

    /// Replicas of the first range: as many as there are stores, three at most, and an odd number.
    pub fn replicas(&self) -> u8 {
        if self.nodes < 3 { 1 } else { 3 }
    }

    /// One node more, if there may be one.
    pub fn add(&mut self) -> Option<NodeSpec> {
        if self.nodes >= NODES_MAX {
            return None;
        }
        self.nodes += 1;
        Some(self.node(self.nodes))
    }

    fn node(&self, number: u8) -> NodeSpec {
        let master = !self.split_roles && number <= self.masters;
        self.spec(format!("node-{number}"), number, Roles { master, ..Roles::ALL }, ADMIN_PORT)
    }

    fn master(&self, number: u8) -> NodeSpec {
        let roles = Roles { master: true, ..Roles::default() };
        self.spec(format!("master-{number}"), number, roles, MASTER_ADMIN_PORT)
    }

    fn spec(&self, name: String, number: u8, roles: Roles, admin: u16) -> NodeSpec {
        NodeSpec {
            name,
            roles,
            gateway: self.at(GATEWAY_PORT, number),
            data: self.at(DATA_PORT, number),
            master: self.at(MASTER_PORT, number),
            admin: self.at(admin, number),
        }
    }

    fn at(&self, port: u16, number: u8) -> SocketAddr {
        let port = port + self.port_offset + NODE_STEP * u16::from(number - 1);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

impl NodeSpec {
    /// Everything that it listens on, with what it is for.
    pub fn listens(&self) -> Vec<(&'static str, SocketAddr)> {
        let all = [
            (self.roles.gateway, "gateway", self.gateway),
            (self.roles.data, "data", self.data),
            (self.roles.master, "master", self.master),
            (true, "admin", self.admin),
        ];
        all.into_iter().filter(|(used, ..)| *used).map(|(_, role, at)| (role, at)).collect()
    }

    /// The arguments of `sharklock` that make this process of the cluster in `dir`.
    pub fn arguments(&self, layout: &Layout, dir: &std::path::Path) -> Vec<String> {
        let masters: Vec<String> = layout.masters().iter().map(ToString::to_string).collect();
        let data_dir: PathBuf = dir.join(&self.name);
        let mut arguments = vec![
            "server".to_owned(),
            format!("--name={}", self.name),
            format!("--roles={}", self.roles.names().join(",")),
            format!("--data-dir={}", data_dir.display()),
            format!("--masters={}", masters.join(",")),
        ];
        for (role, at) in self.listens() {
            arguments.push(format!("--listen-{role}={at}"));
        }
        arguments
    }

    /// Whether somebody who writes `name` means this one: its name, or a node's number.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix("node-") == Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_those_of_the_design() {
        let specs = Layout::new(3, false, 0).specs();
        let third = &specs[2];
        assert_eq!(third.name, "node-3");
        assert_eq!(third.roles, Roles::ALL);
        let ports = [third.gateway, third.data, third.master, third.admin].map(|at| at.port());
        assert_eq!(ports, [7900, 7910, 7920, 7990]);
        assert_eq!(Layout::new(3, false, 1000).specs()[0].gateway.port(), 8700);
    }

    #[test]
    fn masters_are_odd_and_on_the_first_nodes() {
        for (nodes, masters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
            let layout = Layout::new(nodes, false, 0);
            assert_eq!(layout.masters().len(), masters);
            let with = layout.specs().iter().filter(|spec| spec.roles.master).count();
            assert_eq!(with, masters, "{nodes} nodes");
        }
        let split = Layout::new(3, true, 0).specs();
        let names: Vec<_> = split.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["master-1", "master-2", "master-3", "node-1", "node-2", "node-3"]);
        assert!(split[3..].iter().all(|spec| !spec.roles.master && spec.roles.data));
    }

    #[test]
    fn no_two_processes_share_a_port() {
        for split in [false, true] {
            let specs = Layout::new(NODES_MAX, split, 0).specs();
            let all: Vec<_> = specs.iter().flat_map(NodeSpec::listens).map(|(_, at)| at).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }

    #[test]
    fn a_node_is_added_up_to_the_ninth_and_masters_stay() {
        let mut layout = Layout::new(3, false, 0);
        let added = layout.add().expect("there is room");
        assert_eq!((added.name.as_str(), added.roles.master), ("node-4", false));
        assert_eq!(layout.masters().len(), 3);
        for _ in 5..=NODES_MAX {
            layout.add().expect("there is room");
        }
        assert_eq!(layout.add(), None);
    }

    #[test]
    fn a_node_is_found_by_name_and_number() {
        let specs = Layout::new(2, true, 0).specs();
        let found = |name: &str| {
            specs.iter().find(|spec| spec.is_called(name)).map(|spec| spec.name.clone())
        };
        assert_eq!(found("2").as_deref(), Some("node-2"));
        assert_eq!(found("node-1").as_deref(), Some("node-1"));
        assert_eq!(found("master-1").as_deref(), Some("master-1"));
        assert_eq!(found("3"), None);
    }
}
