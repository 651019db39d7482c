//! Servers that have started anew though nothing that was done to them ends a process: an abort or a fault of
//! memory is over in a moment, since Docker starts them again.

use std::collections::BTreeMap;

use anyhow::Result;

use super::cluster::Cluster;
use super::fault::{Act, Fault, Kind, Service};

/// The container of each server, and when its process was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starts(BTreeMap<Service, String>);

impl Starts {
    /// Those of all servers as they are.
    ///
    /// # Errors
    /// When Docker does not tell them.
    pub async fn look(cluster: &Cluster) -> Result<Self> {
        let mut starts = BTreeMap::new();
        for service in cluster.topology().servers() {
            let start = cluster.inspect(&service, "{{.Id}} {{.State.StartedAt}}").await?;
            starts.insert(service, start);
        }
        Ok(Self(starts))
    }

    /// Servers that have started anew by `later`, and that this fault, which was all that was done meanwhile,
    /// does not end.
    pub fn unexplained(&self, later: &Self, fault: &Fault) -> Vec<String> {
        let changed = later.0.iter().filter(|(service, start)| self.0.get(service) != Some(start));
        let unexplained = changed.filter(|(service, _)| !may_end(fault, service));
        let told = unexplained.map(|(service, start)| {
            let at = start.split(' ').next_back().unwrap_or_default();
            format!("{service} has started anew at {at}, and `{fault}` does not end it")
        });
        told.collect()
    }
}

/// Whether a fault may end the process of this server.
fn may_end(fault: &Fault, service: &Service) -> bool {
    let is_struck = match &fault.act {
        Act::All => true,
        Act::Several(servers) => servers.contains(service),
        _ => fault.victim() == Some(service),
    };
    let ends = matches!(
        fault.kind,
        Kind::Kill
            | Kind::Stop
            | Kind::KillAll
            | Kind::MastersDown
            | Kind::SyncError
            | Kind::FullDisk
            | Kind::Memory
            | Kind::Descriptors
            | Kind::RollingRestart
            | Kind::RollingChange
            | Kind::EmptiedVolume
            | Kind::OldVolume
            | Kind::ReplaceMaster
    );
    is_struck && ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_struck_and_ends_may_start_anew() {
        let service = |name: &str| Service(name.to_owned());
        let starts = |of: [(&str, &str); 2]| {
            Starts(of.map(|(name, start)| (service(name), start.to_owned())).into())
        };
        let before = starts([("data-1", "aa 10:00"), ("data-2", "bb 10:00")]);
        let later = starts([("data-1", "aa 10:00"), ("data-2", "bb 10:05")]);
        let fault = |kind, name: &str| Fault { kind, act: Act::One(service(name)) };
        let unexplained = |fault: &Fault| before.unexplained(&later, fault).len();
        assert_eq!(unexplained(&fault(Kind::Kill, "data-2")), 0);
        assert_eq!(unexplained(&fault(Kind::Kill, "data-1")), 1, "another was struck");
        assert_eq!(unexplained(&fault(Kind::Pause, "data-2")), 1, "nothing ends by a pause");
        assert_eq!(unexplained(&Fault { kind: Kind::Split, act: Act::Dice(1) }), 1);
        assert_eq!(unexplained(&Fault { kind: Kind::KillAll, act: Act::All }), 0);
        let down = |name| Fault { kind: Kind::MastersDown, act: Act::Several(vec![service(name)]) };
        assert_eq!(unexplained(&down("data-2")), 0);
        assert_eq!(unexplained(&down("data-1")), 1, "others were struck");
        let told = before.unexplained(&later, &fault(Kind::Pause, "data-2"));
        assert!(told[0].starts_with("data-2 has started anew at 10:05"), "{told:?}");
    }
}
