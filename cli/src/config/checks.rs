//! Checks of settings against each other. One line says which are wrong, and what to do.

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use sharklock_client::ClusterId;
use sharklock_dataserver::SplitLimits;
use sharklock_master::{LABEL_BYTES_MAX, LABELS_MAX, NODE_BYTES_MAX};

use super::{
    Advertise, Listen, Memory, Roles, ServerConfig, Settings, Traces, Tunables, keys, machine,
};
use crate::{
    exit::{CONFIG, Failure},
    identity,
    traces::collector_url,
};

/// Masters decide by majority, and more than five only vote more slowly.
const MASTERS_COUNTS: [usize; 3] = [1, 3, 5];

/// See the module.
pub fn check(settings: &Settings) -> Result<ServerConfig, Failure> {
    let roles = roles(settings)?;
    let listen = Listen {
        gateway: settings.listen("listen.gateway"),
        data: settings.listen("listen.data"),
        master: settings.listen("listen.master"),
        admin: settings.listen("listen.admin"),
    };
    let used = used_addresses(roles, &listen);
    loopback_only(settings, &used)?;
    no_clash(settings, &used)?;
    let advertise = advertise(settings, roles, &listen)?;
    let masters = masters(settings, roles, &listen, &advertise)?;
    Ok(ServerConfig {
        printed: settings.print(),
        name: label_text(settings, "server.name")?.unwrap_or_else(identity::host),
        cluster_name: label_text(settings, "cluster.name")?.unwrap_or_default(),
        roles,
        data_dir: data_dir(settings, roles)?,
        data_on_volume: settings.is_on("server.data_on_volume"),
        masters,
        join: settings.is_on("server.join"),
        cluster: cluster(settings)?,
        listen,
        labels: labels(settings)?,
        advertise,
        sync_writes: !settings.is_on("server.unsafe_no_fsync"),
        logs_lock_names: settings.is_on("log.lock_names"),
        audit_file: settings.text("log.audit_file").map(PathBuf::from),
        chosen: settings.chosen(),
        traces: traces(settings)?,
        tunables: tunables(settings)?,
    })
}

fn refuse(why: impl Into<String>) -> Failure {
    Failure::new(CONFIG, why)
}

/// A name for people: short, and good to print in any table.
fn label_text(settings: &Settings, name: &str) -> Result<Option<String>, Failure> {
    let Some(text) = settings.text(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if text.len() > NODE_BYTES_MAX || !is_plain {
        return Err(refuse(format!(
            "{}: {text:?}; a name has 1 to {NODE_BYTES_MAX} of a to z, A to Z, 0 to 9, `.`, `_` and \
             `-`",
            settings.told_by(name)
        )));
    }
    Ok(Some(text.to_owned()))
}

fn traces(settings: &Settings) -> Result<Traces, Failure> {
    let every = settings.number_or_off("trace.every").and_then(NonZeroU64::new);
    let otlp = settings.text("trace.otlp").filter(|url| !url.is_empty());
    let checked = otlp.map(collector_url).transpose();
    let otlp =
        checked.map_err(|why| refuse(format!("{}: {why}", settings.told_by("trace.otlp"))))?;
    Ok(Traces { otlp, every })
}

fn cluster(settings: &Settings) -> Result<Option<ClusterId>, Failure> {
    let told = settings.text("cluster.id").filter(|id| !id.is_empty());
    let parse = |id: &str| {
        id.parse().map_err(|why| refuse(format!("{}: {why}", settings.told_by("cluster.id"))))
    };
    told.map(parse).transpose()
}

fn roles(settings: &Settings) -> Result<Roles, Failure> {
    let mut roles = Roles::default();
    let list = settings.list("server.roles");
    if list.is_empty() {
        return Err(refuse("server.roles is not set: what is this process to do?")
            .hint("--roles master,data,gateway does everything"));
    }
    for role in list {
        match role.as_str() {
            "master" => roles.master = true,
            "data" => roles.data = true,
            "gateway" => roles.gateway = true,
            other => {
                let told = format!("{}: unknown role {other:?}", settings.told_by("server.roles"));
                let nearest = keys::nearest_of(other, Roles::NAMES.into_iter());
                return Err(refuse(told).hint(match nearest {
                    Some(nearest) => format!("did you mean {nearest}?"),
                    None => format!("roles are {}", Roles::NAMES.join(", ")),
                }));
            }
        }
    }
    Ok(roles)
}

/// Settings and addresses of what this process opens.
fn used_addresses(roles: Roles, listen: &Listen) -> Vec<(&'static str, SocketAddr)> {
    let all = [
        (roles.gateway, "listen.gateway", listen.gateway),
        (roles.data, "listen.data", listen.data),
        (roles.master, "listen.master", listen.master),
        (true, "listen.admin", listen.admin),
    ];
    all.into_iter().filter(|(used, ..)| *used).map(|(_, name, at)| (name, at)).collect()
}

fn loopback_only(settings: &Settings, used: &[(&'static str, SocketAddr)]) -> Result<(), Failure> {
    if settings.is_on("server.insecure") {
        return Ok(());
    }
    match used.iter().find(|(_, at)| !at.ip().is_loopback()) {
        None => Ok(()),
        Some((name, at)) => Err(refuse(format!(
            "{}: {at} can be reached from other machines, and nothing is encrypted or authenticated",
            settings.told_by(name)
        ))
        .hint("--insecure allows it, on a network where everybody is trusted")),
    }
}

fn no_clash(settings: &Settings, used: &[(&'static str, SocketAddr)]) -> Result<(), Failure> {
    for (at, (name, address)) in used.iter().enumerate() {
        for (other_name, other) in &used[..at] {
            let any = |address: &SocketAddr| address.ip().is_unspecified();
            let same_ip = address.ip() == other.ip() || any(address) || any(other);
            if address.port() != 0 && address.port() == other.port() && same_ip {
                return Err(refuse(format!(
                    "{} and {} are both {address}: each needs a port of its own",
                    settings.told_by(other_name),
                    settings.told_by(name),
                )));
            }
        }
    }
    Ok(())
}

/// `zone=b` and the like, each key once.
fn labels(settings: &Settings) -> Result<Vec<(String, String)>, Failure> {
    let name = settings.told_by("server.labels");
    let mut labels: Vec<(String, String)> = Vec::new();
    for text in settings.list("server.labels") {
        let bad = |why: String| Err(refuse(format!("{name}: {why}")));
        let Some((key, value)) = text.split_once('=') else {
            return bad(format!("expected KEY=VALUE, like zone=b, got {text:?}"));
        };
        let fits = |part: &str| (1..=LABEL_BYTES_MAX).contains(&part.len());
        if !fits(key) || !fits(value) {
            return bad(format!("{text:?}: key and value have 1 to {LABEL_BYTES_MAX} bytes each"));
        }
        if labels.iter().any(|(known, _)| known == key) {
            return bad(format!("the key {key:?} stands there twice"));
        }
        labels.push((key.to_owned(), value.to_owned()));
    }
    if labels.len() > LABELS_MAX {
        let count = labels.len();
        return Err(refuse(format!("{name}: {count} labels; a store has at most {LABELS_MAX}")));
    }
    Ok(labels)
}

/// A wildcard says where this process listens, and not how others reach it.
fn advertise(settings: &Settings, roles: Roles, listen: &Listen) -> Result<Advertise, Failure> {
    let one = |role: bool, name: &str, listen_name: &str, at: SocketAddr| {
        let told = settings.text(name).map(str::to_owned);
        if role && told.is_none() && at.ip().is_unspecified() {
            let why = format!("{}: others cannot reach {at}", settings.told_by(listen_name));
            let flag = name.replace('.', "-");
            return Err(refuse(why).hint(format!("tell them where with --{flag} HOST:PORT")));
        }
        Ok(told)
    };
    Ok(Advertise {
        data: one(roles.data, "advertise.data", "listen.data", listen.data)?,
        master: one(roles.master, "advertise.master", "listen.master", listen.master)?,
    })
}

fn masters(
    settings: &Settings,
    roles: Roles,
    listen: &Listen,
    advertise: &Advertise,
) -> Result<Vec<String>, Failure> {
    let masters = settings.list("server.masters").to_vec();
    let name = settings.told_by("server.masters");
    if masters.is_empty() {
        return Err(refuse("server.masters is not set: where are the cluster's masters?")
            .hint("name all of them, in the same way everywhere: --masters host-1:7720,…"));
    }
    let joins = settings.is_on("server.join");
    if joins && !roles.master {
        let name = settings.told_by("server.join");
        return Err(refuse(format!("{name}: this process has no role master, which would join"))
            .hint("stores join by themselves: leave it out"));
    }
    // Whoever only looks for them, or joins them, may begin with any of them.
    if roles.master && !joins && !MASTERS_COUNTS.contains(&masters.len()) {
        let why = format!("{name}: {} masters; a cluster begins with 1, 3 or 5", masters.len());
        return Err(refuse(why).hint(
            "to change the masters of a cluster that is there: `sharklock masters add|remove`",
        ));
    }
    if roles.master {
        let own = advertise.master.clone().unwrap_or_else(|| listen.master.to_string());
        if listen.master.port() == 0 && advertise.master.is_none() {
            return Err(refuse("listen.master: a master needs a port that the others know, not 0"));
        }
        if joins && masters == [own.clone()] {
            return Err(refuse(format!(
                "{name}: it names this master alone, which is to join others"
            ))
            .hint("name the masters of the cluster that it is to join"));
        }
        if !joins && !masters.contains(&own) {
            return Err(refuse(format!("{name}: this master, {own}, is not among them")).hint(
                "--advertise-master HOST:PORT tells under which of these names it is known; to \
                 become one more master of their cluster, say --join",
            ));
        }
    }
    Ok(masters)
}

/// A gateway alone keeps nothing, also where its image or a file for all roles names a directory.
fn data_dir(settings: &Settings, roles: Roles) -> Result<Option<PathBuf>, Failure> {
    if !roles.master && !roles.data {
        return Ok(None);
    }
    let dir = settings.text("server.data_dir").map(PathBuf::from);
    if dir.is_none() {
        return Err(refuse("server.data_dir is not set: where is this process to keep its data?")
            .hint("--data-dir DIR"));
    }
    Ok(dir)
}

fn memory(settings: &Settings) -> Result<Memory, Failure> {
    let usable = machine::usable_memory();
    let (store, address) = ("memory.store_max", "memory.address_max");
    let memory = Memory {
        store_max: settings.bytes_of(store, usable),
        address_max: settings.bytes_of(address, usable),
        session_acquisitions: settings.number("memory.session_acquisitions"),
        prefix_max: settings.quotas("memory.prefix_max"),
    };
    // An address whose bound is above the store's is only bounded by that one. That is no mistake
    // where it is a default: whoever makes the store's small need not think of the other.
    let (Some(store_max), Some(address_max)) = (memory.store_max, memory.address_max) else {
        return Ok(memory);
    };
    if address_max > store_max && !settings.is_default(address) {
        let (store, address) = (settings.told_by(store), settings.told_by(address));
        return Err(refuse(format!(
            "{address} is {address_max} bytes, above the {store_max} of {store}"
        ))
        .hint("make it smaller, or off: the store's bound holds for everybody"));
    }
    Ok(memory)
}

/// By itself, a quarter of the cores: gateways, clients' connections and the disk need the others (D5).
fn raft_workers(settings: &Settings) -> NonZeroUsize {
    let told = settings.number_or_auto("raft.workers");
    let told = told.and_then(|number| NonZeroUsize::new(usize::try_from(number).ok()?));
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    told.or_else(|| NonZeroUsize::new((cores() / 4).clamp(1, 8))).expect("it is 1 at least")
}

fn tunables(settings: &Settings) -> Result<Tunables, Failure> {
    let duration = |name| settings.duration(name);
    let small = |name| u32::try_from(settings.number(name)).expect("its kind has a small bound");
    let tunables = Tunables {
        replicas: small("cluster.replicas"),
        store_heartbeat: duration("cluster.store_heartbeat"),
        store_disconnected: duration("cluster.store_disconnected"),
        store_down: duration("cluster.store_down"),
        raft_workers: raft_workers(settings),
        tick: duration("raft.tick"),
        image_flush: duration("raft.image_flush"),
        log_entries_floor: settings.number("log.entries_floor"),
        log_entries_max: settings.number("log.entries_max"),
        log_bytes_max: settings.number("log.bytes_max"),
        snapshot_chunk: settings.number("snapshot.chunk"),
        snapshot_window: settings.number("snapshot.window"),
        snapshot_rate: settings.number_or_off("snapshot.rate_per_second"),
        snapshots_sending: small("snapshot.slots_sending"),
        snapshots_receiving: small("snapshot.slots_receiving"),
        snapshot_disk_free_min: settings.number_or_off("snapshot.disk_free_min"),
        ranges_max_per_store: small("ranges.max_per_store"),
        split: SplitLimits {
            locks: settings.number_or_off("split.locks"),
            bytes: settings.number_or_off("split.bytes"),
            waiters: settings.number_or_off("split.waiters"),
            commands_per_second: settings.number_or_off("split.commands_per_second"),
        },
        ttl_min: duration("lease.ttl_min"),
        memory: memory(settings)?,
    };
    // 1, 3 or 5: an even number tolerates no more losses than the odd one below it.
    if tunables.replicas.is_multiple_of(2) {
        let name = settings.told_by("cluster.replicas");
        return Err(refuse(format!("{name}: {} replicas; choose 1, 3 or 5", tunables.replicas)));
    }
    let ordered = |low: &str, high: &str, ok: bool| {
        let (low, high) = (settings.told_by(low), settings.told_by(high));
        if ok { Ok(()) } else { Err(refuse(format!("{low} must be below {high}"))) }
    };
    let twice = |duration: Duration| duration * 2;
    ordered(
        "twice cluster.store_heartbeat",
        "cluster.store_disconnected",
        twice(tunables.store_heartbeat) <= tunables.store_disconnected,
    )?;
    ordered(
        "cluster.store_disconnected",
        "cluster.store_down",
        tunables.store_disconnected < tunables.store_down,
    )?;
    ordered(
        "log.entries_floor",
        "log.entries_max",
        tunables.log_entries_floor < tunables.log_entries_max,
    )?;
    let fits = tunables.snapshot_chunk <= tunables.snapshot_window;
    ordered("snapshot.chunk", "snapshot.window", fits)?;
    Ok(tunables)
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, Raw, said, settings, sources};
    use super::*;

    const GOOD: &[(&str, &str)] = &[
        ("server.roles", "master,data,gateway"),
        ("server.data_dir", "/d"),
        ("server.masters", "127.0.0.1:7720"),
    ];

    fn with(more: &[(&str, &str)]) -> Result<ServerConfig, Failure> {
        let flag = |(name, text): &(&str, &str)| {
            said(name, Raw::Text((*text).to_owned()), Origin::Flag("--flag"))
        };
        let flags = GOOD.iter().chain(more).map(flag).collect();
        check(&Settings::merge([flags])?)
    }

    fn refused(more: &[(&str, &str)]) -> String {
        let failure = with(more).expect_err("it is refused");
        assert_eq!(failure.code(), CONFIG);
        let text = failure.to_string();
        assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
        text
    }

    #[test]
    fn the_small_cluster_needs_three_settings() {
        let config = with(&[]).expect("it is good");
        assert_eq!(config.roles, Roles::ALL);
        assert_eq!(config.listen.gateway.to_string(), "127.0.0.1:7700");
        assert_eq!(config.tunables.tick, Duration::from_millis(100));
        assert!(config.sync_writes);
    }

    #[test]
    fn raft_workers_follow_the_machine_unless_somebody_says_how_many() {
        let workers = |told| with(&[("raft.workers", told)]).expect("it is good").tunables;
        assert_eq!(workers("4").raft_workers.get(), 4);
        assert!((1..=8).contains(&workers("auto").raft_workers.get()));
        for wrong in ["0", "33", "many"] {
            let text = refused(&[("raft.workers", wrong)]);
            assert!(text.contains("expected auto, or a number, 1 to 32"), "{text}");
        }
    }

    #[test]
    fn a_gateways_cluster_is_named_by_its_id() {
        let id = "00ff00ff00ff00ff00ff00ff00ff0a0b";
        let told = |id| with(&[("cluster.id", id)]).expect("it is good").cluster;
        assert_eq!(told(id).map(|id| id.to_string()).as_deref(), Some(id));
        let text = refused(&[("cluster.id", "00ff")]);
        assert!(text.contains("cluster.id (--flag): an id has 32 hex digits"), "{text}");
    }

    #[test]
    fn the_column_of_chaos_tests_can_be_configured() {
        let config = with(&[
            ("raft.workers", "4"),
            ("raft.tick", "50ms"),
            ("lease.ttl_min", "1s"),
            ("log.entries_max", "256"),
            ("log.entries_floor", "32"),
            ("snapshot.chunk", "1KiB"),
            ("snapshot.window", "4KiB"),
            ("snapshot.rate_per_second", "off"),
            ("snapshot.slots_sending", "1"),
            ("snapshot.slots_receiving", "1"),
            ("ranges.max_per_store", "3"),
            ("split.locks", "200"),
            ("split.bytes", "64KiB"),
            ("split.waiters", "20"),
            ("split.commands_per_second", "off"),
            ("cluster.store_heartbeat", "200ms"),
            ("cluster.store_disconnected", "2s"),
            ("cluster.store_down", "10s"),
        ]);
        let tunables = config.expect("it is good").tunables;
        assert_eq!((tunables.log_entries_max, tunables.snapshot_rate), (256, None));
        assert_eq!((tunables.ttl_min, tunables.ranges_max_per_store), (Duration::from_secs(1), 3));
        let split = SplitLimits {
            locks: Some(200),
            bytes: Some(64 << 10),
            waiters: Some(20),
            commands_per_second: None,
        };
        assert_eq!(tunables.split, split);
    }

    #[test]
    fn memory_is_a_share_a_size_or_unbounded() {
        let memory = |more: &[(&str, &str)]| with(more).expect("it is good").tunables.memory;
        let default = memory(&[]);
        let usable = machine::usable_memory().expect("this machine tells");
        assert_eq!(default.store_max, Some(usable / 100 * 50));
        assert_eq!(default.address_max, Some(usable / 100 * 25));
        assert_eq!((default.session_acquisitions, default.prefix_max), (10_000, vec![]));
        let own = memory(&[
            ("memory.store_max", "64MiB"),
            ("memory.address_max", "off"),
            ("memory.session_acquisitions", "500"),
            ("memory.prefix_max", "jobs/=8MiB, a=b=64KiB"),
        ]);
        assert_eq!((own.store_max, own.address_max), (Some(64 << 20), None));
        assert_eq!(own.prefix_max, [("jobs/".to_owned(), 8 << 20), ("a=b".to_owned(), 64 << 10)]);
        // The default of an address is a share of the machine, and above a small bound.
        assert!(memory(&[("memory.store_max", "1MiB")]).address_max.is_some());
        for (more, told) in [
            (("memory.store_max", "101%"), "a share of memory from 1% to 100%"),
            (("memory.store_max", "0%"), "a share of memory from 1% to 100%"),
            (("memory.store_max", "1KiB"), "1MiB to"),
            (("memory.address_max", "2GiB"), "memory.address_max (--flag) is 2147483648 bytes"),
            (("memory.session_acquisitions", "10001"), "a number, 1 to 10000"),
            (("memory.prefix_max", "jobs/"), "PREFIX=SIZE, like jobs/=256MiB"),
            (("memory.prefix_max", "=1MiB"), "PREFIX=SIZE"),
            (("memory.prefix_max", "a=1MiB,a=2MiB"), "the prefix \"a\" stands there twice"),
        ] {
            let bound = ("memory.store_max", "1GiB");
            let refused =
                if more.0 == bound.0 { refused(&[more]) } else { refused(&[bound, more]) };
            assert!(refused.contains(told), "{more:?}: {refused}");
        }
    }

    #[test]
    fn a_gateway_alone_keeps_nothing() {
        let flags = vec![
            said("server.roles", Raw::Text("gateway".into()), Origin::Flag("--roles")),
            said("server.masters", Raw::Text("a:1,b:1,c:1".into()), Origin::Flag("--masters")),
            said("server.data_dir", Raw::Text("/d".into()), Origin::Flag("--data-dir")),
        ];
        let config = check(&Settings::merge([flags]).expect("it reads")).expect("it is good");
        assert_eq!(config.data_dir, None);
    }

    #[test]
    fn an_address_that_others_reach_needs_consent() {
        let told = refused(&[("listen.gateway", "0.0.0.0:7700")]);
        assert!(told.contains("error: listen.gateway (--flag): 0.0.0.0:7700"), "{told}");
        assert!(told.contains("hint: --insecure"), "{told}");
        let consent = ("server.insecure", "true");
        assert!(with(&[("listen.gateway", "0.0.0.0:7700"), consent]).is_ok());
        let told = refused(&[("listen.data", "0.0.0.0:7710"), consent]);
        assert!(told.contains("--advertise-data HOST:PORT"), "{told}");
        let known = ("advertise.data", "host-1:7710");
        assert!(with(&[("listen.data", "0.0.0.0:7710"), known, consent]).is_ok());
    }

    #[test]
    fn two_ports_that_clash_are_named_both() {
        let told = refused(&[("listen.data", "127.0.0.1:7700")]);
        assert!(told.contains("listen.gateway and listen.data (--flag) are both"), "{told}");
        let consent = ("server.insecure", "true");
        let told = refused(&[("listen.admin", "0.0.0.0:7700"), consent]);
        assert!(told.contains("listen.gateway"), "{told}");
        assert!(with(&[("listen.data", "127.0.0.2:7700")]).is_ok());
        let free = [("listen.data", "127.0.0.1:0"), ("listen.gateway", "127.0.0.1:0")];
        assert!(with(&free).is_ok());
    }

    #[test]
    fn masters_are_odd_and_this_one_is_among_them() {
        assert!(refused(&[("server.masters", "127.0.0.1:7720,a:1")]).contains("1, 3 or 5"));
        assert!(refused(&[("server.masters", "a:1")]).contains("127.0.0.1:7720, is not among"));
        let known = ("advertise.master", "a:1");
        assert!(with(&[("server.masters", "a:1"), known]).is_ok());
        let joins = ("server.join", "true");
        assert!(with(&[("server.masters", "a:1,b:1"), joins]).expect("it joins them").join);
        assert!(refused(&[joins]).contains("names this master alone"));
        let apart = [("server.roles", "data,gateway"), ("server.masters", "a:1,b:1")];
        assert!(!with(&apart).expect("it only asks them").join);
        assert!(refused(&[apart[0], apart[1], joins]).contains("no role master"));
        assert!(refused(&[("listen.master", "127.0.0.1:0")]).contains("not 0"));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (more, told) in [
            (("cluster.replicas", "2"), "choose 1, 3 or 5"),
            (("cluster.store_heartbeat", "6s"), "cluster.store_heartbeat"),
            (("cluster.store_down", "10s"), "cluster.store_down"),
            (("log.entries_floor", "65536"), "log.entries_floor"),
            (("snapshot.chunk", "1MiB"), ""),
            (("server.roles", "master,date"), "did you mean data?"),
            (("raft.tick", "100"), "--flag: expected a number with a unit of time"),
        ] {
            let more = [more, ("snapshot.window", "512KiB")];
            let refused = refused(&more);
            assert!(refused.contains(told), "{more:?}: {refused}");
        }
    }

    #[test]
    fn flags_win_over_variables_and_those_over_the_file() {
        let text = "[raft]\ntick = \"20ms\"\n[log]\nentries_max = 100\n[lease]\nttl_min = \"3s\"\n";
        let file = sources::parse("s.toml", text).expect("it is good");
        let variables = [("RAFT__TICK", "30ms"), ("LOG__ENTRIES_MAX", "200")];
        let variables =
            variables.map(|(name, value)| (format!("SHARKLOCK_{name}"), value.to_owned()));
        let variables = sources::variables(variables.into_iter()).expect("they are known");
        let flags = vec![said("raft.tick", Raw::Text("40ms".into()), Origin::Flag("--raft-tick"))];
        let merged = settings::Settings::merge([file, variables, flags]).expect("all are good");
        assert_eq!(merged.duration("raft.tick"), Duration::from_millis(40));
        assert_eq!(merged.number("log.entries_max"), 200);
        assert_eq!(merged.duration("lease.ttl_min"), Duration::from_secs(3));
        assert_eq!(merged.number("cluster.replicas"), 3);
        let printed = merged.print();
        for line in [
            "tick = \"40ms\"                                    # --raft-tick",
            "entries_max = 200                                # SHARKLOCK_LOG__ENTRIES_MAX",
            "ttl_min = \"3s\"                                   # s.toml:6",
            "replicas = 3                                     # default",
            "# data_dir =                                     # not set",
        ] {
            assert!(printed.contains(&format!("{line}\n")), "{line}\nin\n{printed}");
        }
        let again = sources::parse("printed", &printed).expect("what is printed can be used");
        let again = settings::Settings::merge([again]).expect("and is good");
        assert_eq!(again.number("log.entries_max"), 200);
    }
}
