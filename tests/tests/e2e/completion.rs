//! What a shell completes: bash itself runs the script that `sharklock completion bash` prints.

use std::process::Command;
use std::time::Duration;

use sharklock_tests::process::{Process, sharklock};
use sharklock_tests::wait::eventually;

use crate::dev_cluster::Cluster;

const SOON: Duration = Duration::from_secs(60);

/// Loads the script, and completes the last of the words as a TAB would.
const TAB: &str = r#"
set -e
source <("$0" completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_clap_complete_sharklock sharklock "${COMP_WORDS[COMP_CWORD]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The lines that are offered for the last word of a command line.
async fn offered(variables: &[(&str, &str)], words: &[&str]) -> Vec<String> {
    let mut bash = Command::new("bash");
    bash.args(["-c", TAB]).arg(sharklock()).arg("sharklock").args(words);
    bash.envs(variables.iter().copied());
    let mut process = Process::spawn(&mut bash);
    assert!(process.ends(SOON).await.success(), "{words:?}: {}", process.stderr());
    process.stdout().lines().map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_ids_of_a_running_cluster_are_completed() {
    let cluster = Cluster::start("1", &[]).await;
    let endpoints = cluster.endpoints().await;
    let client = sharklock_client::Client::connect(&endpoints).expect("an endpoint");
    let _held = client.lock("nightly/backup").acquire().await.expect("it is free");
    let _other = client.lock("weekly").acquire().await.expect("it is free");
    let at = [("SHARKLOCK_ENDPOINTS", endpoints.as_str())];
    let sessions = ["sessions", "show", ""];
    eventually("everything to be completed", SOON, async || {
        let names = offered(&at, &["locks", "show", "ni"]).await;
        let ranges = offered(&at, &["ranges", "show", ""]).await;
        let stores = offered(&at, &["stores", "show", ""]).await;
        let to = offered(&at, &["ranges", "transfer-leader", "1", "--to", ""]).await;
        let masters = offered(&at, &["masters", "remove", ""]).await;
        let sessions = offered(&at, &sessions).await;
        let is_one = |offered: &[String], value: &str| offered == [value];
        (is_one(&names, "nightly/backup")
            && ranges.iter().any(|it| it == "1")
            && stores.iter().any(|it| it == "1")
            && to.iter().any(|it| it == "1")
            && masters.iter().any(|it| it == "1")
            && sessions.iter().any(|it| it.len() == 32))
        .then_some(())
    })
    .await;
    let notes = cluster.notes().to_str().expect("UTF-8");
    let nodes = offered(&[("XDG_RUNTIME_DIR", notes)], &["dev", "kill", ""]).await;
    assert!(nodes.iter().any(|node| node == "node-1"), "{nodes:?}");
}

#[tokio::test]
async fn words_are_completed_without_a_cluster() {
    let nowhere = [("SHARKLOCK_ENDPOINTS", "http://127.0.0.1:1")];
    let words = offered(&nowhere, &["locks", "force"]).await;
    assert_eq!(words, ["force-release"]);
    let none = offered(&nowhere, &["locks", "show", "ni"]).await;
    assert!(none.iter().all(String::is_empty), "{none:?}");
}
