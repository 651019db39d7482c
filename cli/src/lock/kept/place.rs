//! Where a run of a command is at home: the machine, its boot, and the namespaces in which numbers of
//! processes and their start times mean something.

use std::fs;

/// The number of the process namespace that a machine begins with: the kernel gives it to no other
/// (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Where something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The machine's id (machine-id(5)); none where it has none.
    pub machine: Option<String>,
    /// The machine's name.
    pub host: String,
    /// The id of the machine's boot.
    pub boot: String,
    /// The process namespace, by its number. The number of one that has ended may be given to a new
    /// one; all processes of the old one have ended then.
    pub pid_namespace: u64,
    /// The time namespace, by its number; 0 where the kernel has none.
    pub time_namespace: u64,
}

impl Place {
    /// That of this process; none where /proc does not tell.
    pub fn of_this_process() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let machine = fs::read_to_string("/etc/machine-id").ok();
        let machine = machine.map(|id| id.trim().to_owned());
        let host = nix::sys::utsname::uname().ok()?;
        Some(Self {
            machine: machine
                .filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())),
            host: host.nodename().to_string_lossy().into_owned(),
            boot: boot.trim().to_owned(),
            pid_namespace: namespace("pid")?,
            time_namespace: namespace("time").unwrap_or(0),
        })
    }

    /// Whether it is the machine's own process namespace, and no container's.
    pub fn is_outermost(&self) -> bool {
        self.pid_namespace == FIRST_PID_NAMESPACE
    }

    /// Whether a number of a process, and its start, mean the same in both.
    pub fn shares_numbers_with(&self, other: &Self) -> bool {
        self.boot == other.boot
            && self.pid_namespace == other.pid_namespace
            && self.time_namespace == other.time_namespace
    }

    /// Whether they are one machine, over its boots: ids may be copied with a disk image, names too,
    /// but hardly both.
    pub fn is_same_machine_as(&self, other: &Self) -> bool {
        self.machine.is_some() && self.machine == other.machine && self.host == other.host
    }
}

/// `pid:[4026531836]`.
fn namespace(kind: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
    let (_, number) = link.to_str()?.split_once('[')?;
    number.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_somewhere() {
        let here = Place::of_this_process().expect("there is /proc");
        assert!(here.boot.len() == 36 && here.pid_namespace > 0, "{here:?}");
        assert!(here.shares_numbers_with(&here.clone()));
    }
}
