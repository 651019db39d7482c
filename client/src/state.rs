//! What a client keeps over its end: its session's secret, which life of it this is, and what it holds.
//! The text of the file, its meaning and its faults; the file itself is `state_file`'s.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use crate::{
    cluster::ClusterId,
    condition::{Condition, LeaseRule},
    ids::{AcquisitionId, FencingToken},
    request::LockMode,
};

/// How the text begins, before its version.
const MAGIC: &str = "sharklock client state ";

/// The version of the text that this client writes, and the only one that it reads.
const VERSION: u32 = 1;

/// The contents of a state file.
///
/// Invariant: `instance` is larger than that of every life that came before.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) secret: [u8; 16],
    /// This life of the client.
    pub(crate) instance: u64,
    /// The cluster that the holds are of, once it is known.
    pub(crate) cluster: Option<ClusterId>,
    /// What is held or about to be, by numbers that mean nothing outside the process.
    pub(crate) holds: BTreeMap<u64, Recorded>,
}

impl fmt::Debug for State {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, cluster, holds, .. } = self;
        write!(f, "State(instance {instance}, cluster {cluster:?}, holds {holds:?})")
    }
}

/// A hold, or the wish for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) name: Arc<str>,
    /// The life that acquired it.
    pub(crate) instance: u64,
    /// What it holds. `None`: it was about to be acquired, and may have been.
    pub(crate) grant: Option<(FencingToken, AcquisitionId)>,
    pub(crate) mode: LockMode,
    pub(crate) ttl: Duration,
    pub(crate) condition: Condition,
}

/// Why a text is not a state that this client can go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateFault {
    #[error("is no state file of a SharkLock client: name another file")]
    Foreign,
    #[error(
        "has version {0}, and this client reads version {VERSION}: use the client that wrote it, or \
         remove the file and let operators end what it holds"
    )]
    Version(String),
    #[error(
        "is torn or damaged ({0}): restore it from a copy, or remove it and let operators end what its \
         client held"
    )]
    Damaged(&'static str),
}

impl State {
    /// The text of the file.
    pub(crate) fn encode(&self) -> String {
        let mut text = format!("{MAGIC}{VERSION}\nsecret ");
        let memory = "memory can be written to";
        for byte in self.secret {
            write!(text, "{byte:02x}").expect(memory);
        }
        let cluster = self.cluster.map_or_else(|| "-".to_owned(), |cluster| cluster.to_string());
        write!(text, "\ninstance {}\ncluster {cluster}\n", self.instance).expect(memory);
        for hold in self.holds.values() {
            let (token, acquisition) =
                hold.grant.map_or((0, 0), |(token, acquisition)| (token.as_u64(), acquisition.0));
            let (mode, condition) = (mode_text(hold.mode), condition_text(&hold.condition));
            let Recorded { name, instance, ttl, .. } = hold;
            let ttl_ms = ttl.as_millis();
            writeln!(
                text,
                "hold {instance} {acquisition} {token} {mode} {ttl_ms} {condition} {name}"
            )
            .expect(memory);
        }
        writeln!(text, "crc32c {:08x}", crc32c::crc32c(text.as_bytes())).expect(memory);
        text
    }

    /// The state that a text tells.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateFault> {
        if bytes.is_empty() {
            return Err(StateFault::Damaged("it is empty"));
        }
        let head = bytes.len().min(MAGIC.len());
        if bytes[..head] != MAGIC.as_bytes()[..head] {
            return Err(StateFault::Foreign);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| StateFault::Damaged("no UTF-8"))?;
        let (first, _) = text.split_once('\n').ok_or(StateFault::Damaged("it ends early"))?;
        let version = first.strip_prefix(MAGIC).unwrap_or_default();
        if version != VERSION.to_string() {
            return Err(StateFault::Version(version.to_owned()));
        }
        let body = checked(text).ok_or(StateFault::Damaged("its checksum is another"))?;
        let mut lines = body.lines().skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let secret = field("secret").and_then(secret);
        let instance = field("instance").and_then(|text| text.parse().ok());
        let cluster = field("cluster").and_then(|text| match text {
            "-" => Some(None),
            text => text.parse().ok().map(Some),
        });
        let (Some(secret), Some(instance), Some(cluster)) = (secret, instance, cluster) else {
            return Err(StateFault::Damaged("a line at its begin"));
        };
        let holds: Option<BTreeMap<_, _>> = (1..).zip(lines.map(recorded)).map(flatten).collect();
        let holds = holds.ok_or(StateFault::Damaged("the line of a hold"))?;
        Ok(Self { secret, instance, cluster, holds })
    }
}

/// The text before its checksum, if that is right.
fn checked(text: &str) -> Option<&str> {
    let body = text.strip_suffix('\n')?;
    let last = body.rfind('\n')? + 1;
    let sum = u32::from_str_radix(body[last..].strip_prefix("crc32c ")?, 16).ok()?;
    let body = &text[..last];
    (crc32c::crc32c(body.as_bytes()) == sum).then_some(body)
}

fn flatten((number, hold): (u64, Option<Recorded>)) -> Option<(u64, Recorded)> {
    hold.map(|hold| (number, hold))
}

fn secret(hex: &str) -> Option<[u8; 16]> {
    let mut secret = [0; 16];
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(secret)
}

fn recorded(line: &str) -> Option<Recorded> {
    let words: Vec<&str> = line.splitn(8, ' ').collect();
    let ["hold", instance, acquisition, token, mode, ttl_ms, condition, name] = words[..] else {
        return None;
    };
    let (acquisition, token): (u64, u64) = (acquisition.parse().ok()?, token.parse().ok()?);
    let grant = (token != 0).then(|| (FencingToken::from_u64(token), AcquisitionId(acquisition)));
    Some(Recorded {
        name: Arc::from(name),
        instance: instance.parse().ok()?,
        grant,
        mode: mode_of(mode)?,
        ttl: Duration::from_millis(ttl_ms.parse().ok()?),
        condition: condition_of(condition)?,
    })
}

fn mode_text(mode: LockMode) -> String {
    match mode {
        LockMode::Exclusive => "exclusive".to_owned(),
        LockMode::Shared => "shared".to_owned(),
        LockMode::Permits { n, of } => format!("permits:{n}:{of}"),
    }
}

fn mode_of(text: &str) -> Option<LockMode> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["exclusive"] => Some(LockMode::Exclusive),
        ["shared"] => Some(LockMode::Shared),
        ["permits", n, of] => Some(LockMode::Permits { n: n.parse().ok()?, of: of.parse().ok()? }),
        _ => None,
    }
}

/// The rule about the lease and the clauses, joined by `+`; times are milliseconds.
fn condition_text(condition: &Condition) -> String {
    let mut text = match condition.lease {
        LeaseRule::OnExpiry => "on_expiry".to_owned(),
        LeaseRule::AfterMissed { missed, interval } => {
            format!("after_missed:{missed}:{}", interval.as_millis())
        }
        LeaseRule::Hold => "hold".to_owned(),
    };
    for (name, clause) in [
        ("lock_delay", condition.lock_delay),
        ("max_hold", condition.max_hold),
        ("ask_grace", condition.ask_grace),
    ] {
        if let Some(clause) = clause {
            write!(text, "+{name}:{}", clause.as_millis()).expect("memory can be written to");
        }
    }
    text
}

fn condition_of(text: &str) -> Option<Condition> {
    let ms = |text: &str| text.parse().ok().map(Duration::from_millis);
    let mut condition = Condition::default();
    for clause in text.split('+') {
        let parts: Vec<&str> = clause.split(':').collect();
        match parts[..] {
            ["on_expiry"] => {}
            ["after_missed", missed, interval] => {
                let (missed, interval) = (missed.parse().ok()?, ms(interval)?);
                condition.lease = LeaseRule::AfterMissed { missed, interval };
            }
            ["hold"] => condition.lease = LeaseRule::Hold,
            ["lock_delay", delay] => condition.lock_delay = Some(ms(delay)?),
            ["max_hold", max] => condition.max_hold = Some(ms(max)?),
            ["ask_grace", grace] => condition.ask_grace = Some(ms(grace)?),
            _ => return None,
        }
    }
    Some(condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(name: &str, token: u64) -> Recorded {
        Recorded {
            name: Arc::from(name),
            instance: 4,
            grant: (token != 0).then(|| (FencingToken::from_u64(token), AcquisitionId(9))),
            mode: LockMode::Permits { n: 2, of: 8 },
            ttl: Duration::from_secs(6),
            condition: Condition {
                lease: LeaseRule::AfterMissed { missed: 3, interval: Duration::from_secs(2) },
                lock_delay: Some(Duration::from_millis(1)),
                max_hold: Some(Duration::from_secs(60)),
                ask_grace: Some(Duration::from_secs(5)),
            },
        }
    }

    fn state() -> State {
        let stays = Condition { lease: LeaseRule::Hold, ..Condition::default() };
        let shared =
            Recorded { mode: LockMode::Shared, condition: stays, ..hold("a b+c:d \u{e9}", 7) };
        let about_to_be = Recorded { mode: LockMode::Exclusive, ..hold(" x ", 0) };
        State {
            secret: *b"0123456789abcde\xff",
            instance: 5,
            cluster: Some(ClusterId::from_bytes([0xab; 16])),
            holds: [(1, hold("gpu", u64::MAX)), (2, shared), (3, about_to_be)].into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for state in [state(), State { cluster: None, holds: BTreeMap::new(), ..state() }] {
            let read = State::decode(state.encode().as_bytes()).expect("it is whole");
            assert!(read == state, "{}", read.encode());
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let text = state().encode().into_bytes();
        for end in 0..text.len() {
            assert!(State::decode(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            for bit in [1, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[at] ^= bit;
                // The digits of the checksum may be written large.
                let read = State::decode(&changed);
                assert!(read.is_err() || read == Ok(state()), "byte {at} is another");
            }
        }
    }

    #[test]
    fn a_file_of_others_is_told_from_a_damaged_one() {
        assert_eq!(State::decode(b"[client]\n"), Err(StateFault::Foreign));
        assert_eq!(State::decode(b""), Err(StateFault::Damaged("it is empty")));
        let newer = state().encode().replace("state 1\n", "state 2\n");
        assert_eq!(State::decode(newer.as_bytes()), Err(StateFault::Version("2".to_owned())));
        let torn = &state().encode()[..60];
        assert!(matches!(State::decode(torn.as_bytes()), Err(StateFault::Damaged(_))));
    }

    #[test]
    fn a_text_with_a_right_checksum_and_a_wrong_line_is_damaged() {
        let text = state().encode();
        let (body, _) = text.rsplit_once("crc32c").expect("it has one");
        for (from, to) in [
            ("instance 5", "instance -5"),
            ("hold 4 9", "hold 4"),
            ("permits:2:8", "permits:2"),
            ("after_missed:3", "after_lunch:3"),
            ("secret 30", "secret 3"),
        ] {
            let body = body.replace(from, to);
            assert!(body != text[..body.len().min(text.len())], "{from} is not there");
            let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
            let fault = State::decode(text.as_bytes());
            assert!(matches!(fault, Err(StateFault::Damaged(_))), "{from}");
        }
    }
}
