//! Every setting of a server: its name, its kind, its default.

use std::time::Duration;

use super::value::Kind;

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, as in a file.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: Kind,
    /// As the kind reads it; `None`: there is none.
    pub default: Option<&'static str>,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Some(default) }
}

const fn without_default(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, default: None }
}

const HOUR_MS: u64 = 3_600_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// In order of their sections (decisions.md, *Defaults*). The bounds leave room for chaos tests,
/// which set knobs far lower.
pub const KEYS: &[Key] = &[
    without_default("server.name", Kind::Text),
    without_default("server.roles", Kind::List),
    without_default("server.data_dir", Kind::Text),
    without_default("server.masters", Kind::ReachList),
    without_default("server.labels", Kind::List),
    key("server.join", Kind::Switch, "false"),
    key("server.insecure", Kind::Switch, "false"),
    key("server.unsafe_no_fsync", Kind::Switch, "false"),
    key("server.data_on_volume", Kind::Switch, "false"),
    key("listen.gateway", Kind::Listen, "127.0.0.1:7700"),
    key("listen.data", Kind::Listen, "127.0.0.1:7710"),
    key("listen.master", Kind::Listen, "127.0.0.1:7720"),
    key("listen.admin", Kind::Listen, "127.0.0.1:7790"),
    without_default("advertise.data", Kind::Reach),
    without_default("advertise.master", Kind::Reach),
    without_default("cluster.id", Kind::Text),
    without_default("cluster.name", Kind::Text),
    key("cluster.replicas", Kind::Count(1, 5), "3"),
    key("cluster.store_heartbeat", Kind::Duration(ms(50), ms(60_000)), "1s"),
    key("cluster.store_disconnected", Kind::Duration(ms(200), ms(HOUR_MS)), "10s"),
    key("cluster.store_down", Kind::Duration(ms(1_000), ms(24 * HOUR_MS)), "5m"),
    key("raft.workers", Kind::CountOrAuto(1, 32), "auto"),
    key("raft.tick", Kind::Duration(ms(10), ms(1_000)), "100ms"),
    key("raft.image_flush", Kind::Duration(ms(10), ms(10_000)), "300ms"),
    key("log.entries_floor", Kind::Count(0, 1 << 30), "1024"),
    key("log.entries_max", Kind::Count(16, 1 << 30), "65536"),
    key("log.bytes_max", Kind::Size(64 * KIB, 64 * GIB), "16MiB"),
    key("log.lock_names", Kind::Switch, "false"),
    without_default("log.audit_file", Kind::Text),
    without_default("trace.otlp", Kind::Text),
    key("trace.every", Kind::CountOrOff(1, 1 << 30), "1000"),
    key("snapshot.chunk", Kind::Size(KIB, MIB), "256KiB"),
    key("snapshot.window", Kind::Size(KIB, GIB), "2MiB"),
    key("snapshot.rate_per_second", Kind::SizeOrOff(64 * KIB, 1024 * GIB), "32MiB"),
    key("snapshot.slots_sending", Kind::Count(1, 100), "3"),
    key("snapshot.slots_receiving", Kind::Count(1, 100), "3"),
    key("snapshot.disk_free_min", Kind::SizeOrOff(MIB, 1024 * GIB), "256MiB"),
    key("ranges.max_per_store", Kind::Count(1, 100_000), "2000"),
    key("split.locks", Kind::CountOrOff(2, 1 << 30), "100000"),
    key("split.bytes", Kind::SizeOrOff(4 * KIB, 64 * GIB), "16MiB"),
    key("split.waiters", Kind::CountOrOff(2, 1 << 30), "10000"),
    key("split.commands_per_second", Kind::CountOrOff(10, 1 << 30), "10000"),
    key("lease.ttl_min", Kind::Duration(ms(500), ms(600_000)), "2s"),
    key("memory.store_max", Kind::MemoryOrOff(MIB, 1024 * GIB), "50%"),
    key("memory.address_max", Kind::MemoryOrOff(64 * KIB, 1024 * GIB), "25%"),
    key("memory.session_acquisitions", Kind::Count(1, 10_000), "10000"),
    without_default("memory.prefix_max", Kind::QuotaList(64 * KIB, 1024 * GIB)),
];

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that the writer of `name` may have meant: one of that section, else of another one.
pub fn nearest(name: &str) -> Option<&'static Key> {
    let (section, name) = name.split_once('.').unwrap_or(("", name));
    let of_section = |key: &&Key| key.parts().0 == section;
    let among = |keys: &[&'static Key]| {
        let nearest = nearest_of(name, keys.iter().map(|key| key.parts().1))?;
        keys.iter().find(|key| key.parts().1 == nearest).copied()
    };
    let own: Vec<&Key> = KEYS.iter().filter(of_section).collect();
    among(&own).or_else(|| among(&KEYS.iter().collect::<Vec<_>>()))
}

/// The most similar of several names, if any is similar at all.
pub fn nearest_of<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this strings share little more than letters: clap's threshold for its own hints.
    const SIMILAR: f64 = 0.7;
    let scored = names.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 > SIMILAR).then_some(best.1)
}

impl Key {
    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("SHARKLOCK_{}", self.name.replace('.', "__").to_uppercase())
    }

    /// Section, and name in it.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').expect("every name has a section")
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Raw;
    use super::*;

    #[test]
    fn defaults_are_within_their_own_bounds_and_read_back() {
        for key in KEYS {
            let Some(default) = key.default else { continue };
            let value = key.kind.read(&Raw::Text(default.into()));
            let value = value.unwrap_or_else(|why| panic!("{}: {why}", key.name));
            assert_eq!(value.to_string(), default, "{}", key.name);
        }
    }

    #[test]
    fn names_are_unique_and_variables_are_theirs() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.name != key.name), "{}", key.name);
        }
        let tick = find("raft.tick").expect("it is there");
        assert_eq!(
            (tick.variable().as_str(), tick.parts()),
            ("SHARKLOCK_RAFT__TICK", ("raft", "tick"))
        );
    }

    #[test]
    fn a_mistyped_name_finds_its_neighbour() {
        let nearest = |name| nearest(name).map(|key| key.name);
        assert_eq!(nearest("raft.tikc"), Some("raft.tick"));
        assert_eq!(nearest("server.datadir"), Some("server.data_dir"));
        assert_eq!(nearest("listen.dta"), Some("listen.data"));
        assert_eq!(nearest("server.ttl_min"), Some("lease.ttl_min"));
        assert_eq!(nearest("raft.qqq"), None);
    }
}
