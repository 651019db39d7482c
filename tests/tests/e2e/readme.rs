//! The README's samples have the shape of what the binary prints: the same columns, words and lines,
//! whatever the numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;

use crate::dev_cluster::Cluster;

const SOON: Duration = Duration::from_secs(60);

/// A line without what differs from run to run: numbers, ids, people, and how wide columns are.
fn shape(line: &str) -> String {
    line.split_whitespace().map(shape_of_word).collect::<Vec<_>>().join(" ")
}

fn shape_of_word(word: &str) -> String {
    let bare = word.trim_matches([',', ':', '(', ')']);
    let is_id = bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id {
        return word.replace(bare, "ID");
    }
    if let Some((_, host)) = bare.split_once('@') {
        assert!(!host.is_empty(), "a person is at a machine: {word}");
        return word.replace(bare, "WHO");
    }
    let (mut shape, mut in_number) = (String::new(), false);
    for c in word.chars() {
        let is_of_number = c.is_ascii_digit() || c == '.' && in_number;
        if is_of_number && !in_number {
            shape.push('N');
        }
        if !is_of_number {
            shape.push(c);
        }
        in_number = is_of_number;
    }
    // A duration has one or two units.
    let units: String = bare.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
    let is_duration = bare.starts_with(|c: char| c.is_ascii_digit())
        && ["ms", "s", "ms", "hm", "dh", "m"].contains(&units.as_str());
    if is_duration { word.replace(bare, "TIME") } else { shape }
}

/// The samples of a document that have not been compared yet: a command, and what is shown below it, up
/// to the next one, in shapes. A command that is shown twice is one.
struct Samples(BTreeMap<String, Vec<String>>);

impl Samples {
    fn of(document: &str) -> Self {
        let mut samples = BTreeMap::<String, Vec<String>>::new();
        let mut prompt = None;
        for line in document.lines() {
            if line.starts_with("```") {
                prompt = None;
            } else if let Some(command) = line.strip_prefix("$ ") {
                samples.entry(command.to_owned()).or_default();
                prompt = Some(command.to_owned());
            } else if let Some(prompt) = &prompt {
                let shown = samples.get_mut(prompt).expect("it was put in");
                shown.extend(Some(shape(line)).filter(|line| !line.is_empty()));
            }
        }
        Self(samples)
    }

    fn take(&mut self, command: &str) -> Vec<String> {
        self.0.remove(command).unwrap_or_else(|| panic!("no sample of {command:?} is left"))
    }
}

/// Whether all that the README shows was printed.
fn covers(printed: &str, sample: &[String]) -> bool {
    let printed: BTreeSet<_> = printed.lines().map(shape).collect();
    sample.iter().all(|line| printed.contains(line))
}

async fn printed(endpoints: &str, args: &[&str]) -> String {
    let mut process = Process::spawn(command(args).env("SHARKLOCK_ENDPOINTS", endpoints));
    process.ends(SOON).await;
    process.stdout() + &process.stderr()
}

/// Until a command prints what the README shows.
async fn prints(endpoints: &str, args: &[&str], sample: Vec<String>) {
    assert!(!sample.is_empty(), "{args:?}");
    let wanted = format!("{args:?} to print what the README has: {sample:#?}");
    eventually(&wanted, SOON, async || {
        covers(&printed(endpoints, args).await, &sample).then_some(())
    })
    .await;
}

#[test]
fn shapes_leave_out_what_differs() {
    assert_eq!(shape("1  127.0.0.1:7720   leads  6"), "N N:N leads N");
    assert_eq!(shape("cause: held by ann@vm pid 28909 for 419ms, lease 9.6s"), {
        "cause: held by WHO pid N for TIME, lease TIME"
    });
    let id = "00ff".repeat(8);
    assert_eq!(shape(&format!("cluster {id}, version 0.0.0: healthy")), {
        "cluster ID, version N: healthy"
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_samples_are_what_the_binary_prints() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("there is one");
    let mut samples = Samples::of(&readme);
    // The words about a node that is down change when it has been so for long.
    let settings = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let patient = "[cluster]\nstore_disconnected = \"10m\"\nstore_down = \"20m\"\n";
    std::fs::write(settings.path(), patient).expect("it can be written");
    let config = settings.path().to_str().expect("UTF-8");
    let cluster = Cluster::start("3", &["--config", config]).await;
    let endpoints = cluster.endpoints().await;
    let started = samples.take("sharklock dev --nodes 3 --data-dir ./sharklock-cluster");
    let banner = cluster.banner();
    assert!(covers(&banner, &started), "it prints\n{banner}\nand the README has {started:#?}");
    let token = samples.take("sharklock lock hello -- sh -c 'echo token $SHARKLOCK_TOKEN'");
    let echo = ["lock", "hello", "--", "sh", "-c", "echo token $SHARKLOCK_TOKEN"];
    prints(&endpoints, &echo, token).await;
    let hold = ["lock", "nightly", "--", "sleep", "60"];
    let mut holder = Process::spawn(command(hold).env("SHARKLOCK_ENDPOINTS", &endpoints));
    let try_once = ["lock", "nightly", "--try", "--", "./backup.sh"];
    let mut tried = samples.take("sharklock lock nightly --try -- ./backup.sh; echo exit $?");
    assert_eq!(tried.pop().as_deref(), Some("exit N"));
    prints(&endpoints, &try_once, tried).await;
    assert!(samples.take("sharklock lock nightly -- true &").is_empty());
    let wait = ["lock", "nightly", "--", "true"];
    let mut waiter = Process::spawn(command(wait).env("SHARKLOCK_ENDPOINTS", &endpoints));
    let show = samples.take("sharklock locks show nightly");
    prints(&endpoints, &["locks", "show", "nightly"], show).await;
    let reason = "--reason=host-3 is being replaced";
    let command = "sharklock locks force-release nightly --reason 'host-3 is being replaced'";
    let released = samples.take(command);
    // Once: the next one would end another hold.
    let text = printed(&endpoints, &["locks", "force-release", "nightly", reason]).await;
    assert!(covers(&text, &released), "it prints\n{text}\nand the README has {released:#?}");
    holder.ends(SOON).await;
    waiter.ends(SOON).await;

    assert!(samples.take("sharklock lock nightly -- sleep 20 &").is_empty());
    for command in ["kill", "restart"] {
        let shown = samples.take(&format!("sharklock dev {command} 3"));
        let (_, told, err) = cluster.dev(&[command, "3"]).await;
        assert!(covers(&told, &shown), "it prints\n{told}{err}\nand the README has {shown:#?}");
    }
    cluster.dev(&["kill", "3"]).await;
    let other = samples.take("sharklock lock other -- echo got it");
    prints(&endpoints, &["lock", "other", "--", "echo", "got it"], other).await;
    let status = samples.take("sharklock status");
    // Which node leads, and what a replica lacks by then, differs from run to run.
    let status: Vec<_> = status.into_iter().filter(|line| !line.starts_with('N')).collect();
    let first = endpoints.split(',').next().expect("it has nodes");
    prints(first, &["status"], status).await;
    assert!(samples.0.is_empty(), "the README shows what is not compared: {:#?}", samples.0);
}
