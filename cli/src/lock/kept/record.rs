//! The record of a run: what belongs to it, so that a later start can prove that nothing of it lives.
//! Its text, its meaning and its faults; the file is `file`'s.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

use sharklock_client::LockMode;

use super::{
    cgroup::{Cgroup, View},
    place::Place,
};
use crate::lock::proc::Process;

/// How the text begins, before its version.
const MAGIC: &str = "sharklock lock run ";
/// The version of the text that is written, and the only one that is read.
const VERSION: &str = "1";

/// The sign that all processes of a run have in their environment, 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark([u8; 16]);

impl Mark {
    /// A new one.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(bytes))
    }

    fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(hex, 16).ok().map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Mark {
    /// Whoever knows it can make a process look like one of the run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A process that was seen to belong to the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since the machine did; 0 where that is hidden.
    pub start: u64,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Its program.
    pub name: String,
}

impl From<&Process> for Member {
    fn from(process: &Process) -> Self {
        let plain = |c: char| if c.is_control() { '?' } else { c };
        Self {
            pid: process.pid.as_raw_pid(),
            start: process.start,
            group: process.group,
            session: process.session,
            name: process.name.chars().map(plain).collect(),
        }
    }
}

/// What is not of the run although it is near: the `sharklock lock` that began it, and all from which
/// that one descends. Who has lost its parent is given to one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The process group of the `sharklock lock`.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// The numbers and starts of those from which it descends.
    pub ancestors: Vec<(i32, u64)>,
}

/// One run of a command under a kept lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRecord {
    /// The lock.
    pub name: String,
    /// How it is held.
    pub mode: LockMode,
    /// Under which token.
    pub token: u64,
    /// Its sign.
    pub mark: Mark,
    /// Nothing of it started before, in ticks since the machine did.
    pub since: u64,
    /// Where it runs.
    pub place: Place,
    /// What is not of it.
    pub outside: Outside,
    /// The cgroup that all of it is in, where one could be made.
    pub cgroup: Option<Cgroup>,
    /// Those that were seen.
    pub members: Vec<Member>,
}

/// Why a text is no record that can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is something else.
    Foreign,
    /// It was written by another version of `sharklock`.
    Version,
    /// It is cut short, or was changed.
    Damaged,
}

/// The text of the file. Without a record it says that nothing runs.
pub fn encode(record: Option<&RunRecord>) -> String {
    let mut text = format!("{MAGIC}{VERSION}\n");
    match record {
        None => text.push_str("nothing runs\n"),
        Some(record) => encode_run(record, &mut text).expect("memory can be written to"),
    }
    let sum = crc32c::crc32c(text.as_bytes());
    writeln!(text, "crc32c {sum:08x}").expect("memory can be written to");
    text
}

fn encode_run(record: &RunRecord, text: &mut String) -> fmt::Result {
    let Place { machine, host, boot, pid_namespace, time_namespace } = &record.place;
    writeln!(text, "lock {}", record.name)?;
    writeln!(text, "mode {}", mode_text(record.mode))?;
    writeln!(text, "token {}", record.token)?;
    writeln!(text, "mark {}", record.mark)?;
    writeln!(text, "since {}", record.since)?;
    writeln!(text, "machine {}", machine.as_deref().unwrap_or("-"))?;
    writeln!(text, "host {host}")?;
    writeln!(text, "boot {boot}")?;
    writeln!(text, "namespaces {pid_namespace} {time_namespace}")?;
    writeln!(text, "outside {} {}", record.outside.group, record.outside.session)?;
    for (pid, start) in &record.outside.ancestors {
        writeln!(text, "ancestor {pid} {start}")?;
    }
    if let Some(Cgroup { view, path }) = &record.cgroup {
        writeln!(text, "view {} {}", view.root, view.mount.display())?;
        writeln!(text, "cgroup {}", path.display())?;
    }
    for Member { pid, start, group, session, name } in &record.members {
        writeln!(text, "process {pid} {start} {group} {session} {name}")?;
    }
    Ok(())
}

/// What a text says.
pub fn decode(bytes: &[u8]) -> Result<Option<RunRecord>, Fault> {
    let head = bytes.len().min(MAGIC.len());
    if bytes[..head] != MAGIC.as_bytes()[..head] {
        return Err(Fault::Foreign);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::Damaged)?;
    let (first, _) = text.split_once('\n').ok_or(Fault::Damaged)?;
    if first.strip_prefix(MAGIC) != Some(VERSION) {
        return Err(Fault::Version);
    }
    let body = checked(text).ok_or(Fault::Damaged)?;
    let mut lines = Lines(body.lines().skip(1).collect::<Vec<_>>().into_iter().peekable());
    if lines.0.len() == 1 && lines.0.peek() == Some(&"nothing runs") {
        return Ok(None);
    }
    decode_run(&mut lines).filter(|_| lines.0.len() == 0).map(Some).ok_or(Fault::Damaged)
}

/// The text before its checksum, if that is right.
fn checked(text: &str) -> Option<&str> {
    let last = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, sum) = text.split_at(last);
    let sum = u32::from_str_radix(sum.trim_end().strip_prefix("crc32c ")?, 16).ok()?;
    (crc32c::crc32c(body.as_bytes()) == sum).then_some(body)
}

struct Lines<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl<'a> Lines<'a> {
    /// The rest of the next line, if that begins so.
    fn take(&mut self, word: &str) -> Option<&'a str> {
        let rest = self.0.peek()?.strip_prefix(word)?.strip_prefix(' ')?;
        self.0.next();
        Some(rest)
    }

    fn number<T: std::str::FromStr>(&mut self, word: &str) -> Option<T> {
        self.take(word)?.parse().ok()
    }

    fn pair<A: std::str::FromStr, B: std::str::FromStr>(&mut self, word: &str) -> Option<(A, B)> {
        let (one, other) = self.take(word)?.split_once(' ')?;
        Some((one.parse().ok()?, other.parse().ok()?))
    }
}

fn decode_run(lines: &mut Lines<'_>) -> Option<RunRecord> {
    let name = lines.take("lock")?.to_owned();
    let mode = mode_of(lines.take("mode")?)?;
    let token = lines.number("token")?;
    let mark = Mark::parse(lines.take("mark")?)?;
    let since = lines.number("since")?;
    let machine = Some(lines.take("machine")?).filter(|id| *id != "-").map(str::to_owned);
    let (host, boot) = (lines.take("host")?.to_owned(), lines.take("boot")?.to_owned());
    let (pid_namespace, time_namespace) = lines.pair("namespaces")?;
    let (group, session) = lines.pair("outside")?;
    let mut ancestors = Vec::new();
    while let Some(ancestor) = lines.pair("ancestor") {
        ancestors.push(ancestor);
    }
    let mut cgroup = None;
    if let Some((root, mount)) = lines.pair::<u64, String>("view") {
        let view = View { root, mount: PathBuf::from(mount) };
        cgroup = Some(Cgroup { view, path: PathBuf::from(lines.take("cgroup")?) });
    }
    let mut members = Vec::new();
    while let Some(member) = lines.take("process") {
        members.push(member_of(member)?);
    }
    Some(RunRecord {
        name,
        mode,
        token,
        mark,
        since,
        place: Place { machine, host, boot, pid_namespace, time_namespace },
        outside: Outside { group, session, ancestors },
        cgroup,
        members,
    })
}

fn member_of(text: &str) -> Option<Member> {
    let words: Vec<&str> = text.splitn(5, ' ').collect();
    let [pid, start, group, session, name] = words[..] else { return None };
    Some(Member {
        pid: pid.parse().ok()?,
        start: start.parse().ok()?,
        group: group.parse().ok()?,
        session: session.parse().ok()?,
        name: name.to_owned(),
    })
}

/// `exclusive`, `shared`, `permits 2 of 8`.
pub fn mode_text(mode: LockMode) -> String {
    match mode {
        LockMode::Exclusive => "exclusive".to_owned(),
        LockMode::Shared => "shared".to_owned(),
        LockMode::Permits { n, of } => format!("permits {n} of {of}"),
    }
}

fn mode_of(text: &str) -> Option<LockMode> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["exclusive"] => Some(LockMode::Exclusive),
        ["shared"] => Some(LockMode::Shared),
        ["permits", n, "of", of] => {
            Some(LockMode::Permits { n: n.parse().ok()?, of: of.parse().ok()? })
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record() -> RunRecord {
        RunRecord {
            name: "a b: process 7".to_owned(),
            mode: LockMode::Permits { n: 2, of: 8 },
            token: u64::MAX,
            mark: Mark(*b"0123456789abcde\xff"),
            since: 5_000,
            place: Place {
                machine: Some("ab".repeat(16)),
                host: "host-3".to_owned(),
                boot: "945adb0c-2d58-451e-a002-19322e292677".to_owned(),
                pid_namespace: 0xEFFF_FFFC,
                time_namespace: 9,
            },
            outside: Outside { group: 40, session: 41, ancestors: vec![(42, 100), (1, 3)] },
            cgroup: None,
            members: vec![Member {
                pid: 70,
                start: 5_001,
                group: 70,
                session: 41,
                name: "a b) x".to_owned(),
            }],
        }
    }

    fn with_cgroup() -> RunRecord {
        let view = View { root: 77, mount: PathBuf::from("/sys/fs/c group") };
        let path = PathBuf::from("/sys/fs/c group/a b/sharklock-run-7");
        RunRecord { cgroup: Some(Cgroup { view, path }), ..record() }
    }

    #[test]
    fn what_is_written_is_read() {
        let place = Place { machine: None, ..record().place };
        for record in [record(), with_cgroup(), RunRecord { place, members: vec![], ..record() }] {
            let text = encode(Some(&record));
            assert_eq!(decode(text.as_bytes()), Ok(Some(record)), "{text}");
        }
        assert_eq!(decode(encode(None).as_bytes()), Ok(None));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let text = encode(Some(&with_cgroup())).into_bytes();
        for end in 0..text.len() {
            assert!(decode(&text[..end]).is_err(), "cut at {end}");
        }
        for at in 0..text.len() {
            for bit in [1, 0x20, 0x80] {
                let mut changed = text.clone();
                changed[at] ^= bit;
                // The digits of the checksum may be written large.
                let read = decode(&changed);
                assert!(read.is_err() || read == Ok(Some(with_cgroup())), "byte {at} is another");
            }
        }
    }

    #[test]
    fn a_file_of_others_is_told_from_a_damaged_one() {
        assert_eq!(decode(b"[run]\n"), Err(Fault::Foreign));
        assert_eq!(decode(b""), Err(Fault::Damaged));
        let newer = encode(None).replace("run 1\n", "run 2\n");
        assert_eq!(decode(newer.as_bytes()), Err(Fault::Version));
        let body = encode(Some(&record())).replace("since 5000", "since -1");
        let (body, _) = body.rsplit_once("crc32c").expect("it has one");
        let text = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
        assert_eq!(decode(text.as_bytes()), Err(Fault::Damaged));
    }
}
