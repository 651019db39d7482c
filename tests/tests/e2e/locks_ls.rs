//! `sharklock locks ls` and the live line of a waiting `sharklock lock`: what people see, in pipes and
//! on terminals.

use std::process::Command;

use serde_json::Value;
use sharklock_client::{Client, Guard};
use sharklock_tests::cluster::SOON;
use sharklock_tests::process::Process;
use sharklock_tests::pty::OnTerminal;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tokio::task::JoinHandle;

async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let mut process = Process::spawn(&mut command);
    let status = process.ends(SOON).await;
    (status.code(), process.stdout(), process.stderr())
}

async fn listed(server: &Server, options: &[&str]) -> String {
    let (code, out, err) = run(server.cli(&[&["locks", "ls"], options].concat())).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{options:?}: {out}");
    out
}

/// The names in the last column, and the footer.
fn names_and_footer(table: &str) -> (Vec<&str>, &str) {
    let (rows, footer) = table.trim_end().split_once("\n\n").expect("a table and its footer");
    let mut names = rows.lines().map(|row| row.split_whitespace().last().expect("a name"));
    assert_eq!(names.next(), Some("NAME"), "{table}");
    (names.collect(), footer)
}

async fn waits_for(client: &Client, name: &'static str) -> JoinHandle<Guard> {
    let waiting = client.clone();
    let waiter = tokio::spawn(async move { waiting.lock(name).acquire().await.expect("a turn") });
    eventually(&format!("a waiter of {name}"), SOON, async || {
        let lock = client.get_lock(name).await.ok()?.lock?;
        (lock.waiters_count == 1).then_some(())
    })
    .await;
    waiter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_limited_filtered_and_counted() {
    let server = Server::start().await;
    let (holder, other) = (server.client(), server.client());
    let mut guards = Vec::new();
    for number in 0..5 {
        guards.push(holder.lock(&format!("n/{number}")).acquire().await.expect("free"));
    }
    let _waiter = waits_for(&other, "n/3").await;

    let all = listed(&server, &[]).await;
    let (names, footer) = names_and_footer(&all);
    assert_eq!(names, ["n/0", "n/1", "n/2", "n/3", "n/4"]);
    assert_eq!(footer, "5 locks, 1 waiting");
    let some = listed(&server, &["n/", "--limit", "2"]).await;
    let more = "the first 2 locks, 0 waiting; there are more: raise --limit";
    assert_eq!(names_and_footer(&some), (vec!["n/0", "n/1"], more));
    let exactly = listed(&server, &["--limit", "5"]).await;
    assert_eq!(names_and_footer(&exactly).1, "5 locks, 1 waiting");
    let waiting = listed(&server, &["--waiting"]).await;
    assert_eq!(names_and_footer(&waiting), (vec!["n/3"], "1 lock, 1 waiting"));

    let json = listed(&server, &["--limit", "2", "--output", "json"]).await;
    let list: Value = serde_json::from_str(&json).expect("it is JSON, without a footer");
    assert_eq!((&list["locks_count"], &list["waiters_count"]), (&"2".into(), &"0".into()));
    assert_eq!(
        (&list["has_more"], list["locks"].as_array().map(Vec::len)),
        (&true.into(), Some(2))
    );

    // A prefix that looks like a pattern finds nothing, and says why.
    let (code, out, err) = run(server.cli(&["locks", "ls", "n/*"])).await;
    assert_eq!((code, names_and_footer(&out).1), (Some(0), "0 locks, 0 waiting"));
    assert!(err.starts_with("hint: a prefix is not a pattern"), "{err}");
    assert!(err.ends_with("`sharklock locks ls n/`\n"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_watched_on_a_terminal_or_as_documents() {
    let server = Server::start().await;
    let client = server.client();
    let first = client.lock("a/first").acquire().await.expect("free");

    let mut json = server.cli(&["locks", "ls", "--watch", "--output", "json"]);
    let documents = Process::spawn(&mut json);
    let watch = OnTerminal::start(&server.cli(&["locks", "ls", "--watch"]), 60);
    watch.until("the first picture", |text| text.contains("a/first")).await;
    eventually("a document", SOON, async || documents.stdout().contains("a/first").then_some(()))
        .await;
    first.release().await.expect("it is held");
    let next = client.lock("b/next").acquire().await.expect("free");
    let last = |text: &str| text.rsplit("\x1b[H").next().unwrap_or_default().to_owned();
    let is_whole = |text: &str| last(text).contains("b/next") && last(text).ends_with("\x1b[J");
    let painted = last(&watch.until("the next picture", is_whole).await);
    assert!(painted.contains("1 lock, 0 waiting"), "{painted:?}");
    assert!(!painted.contains("a/first"), "{painted:?}");
    eventually("two documents", SOON, async || {
        let text = documents.stdout();
        let told: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let told = told.ok()?;
        (told.last()?["locks"][0]["name"] == "b/next").then_some(())
    })
    .await;
    watch.interrupt();
    let (code, _) = watch.end().await;
    assert_eq!(code, None, "Ctrl-C ends it");
    next.release().await.expect("it is held");

    let (code, _, err) = run(server.cli(&["locks", "ls", "--watch"])).await;
    assert_eq!((code, err.contains("--output json")), (Some(2), true), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_one_line_of_a_narrow_terminal_and_whole_in_a_pipe() {
    let server = Server::start().await;
    let name = "invoices/2026/11/28/the-one-that-is-billed-twice";
    let _guard = server.client().lock(name).owner("billing").acquire().await.expect("free");
    assert_eq!(names_and_footer(&listed(&server, &[]).await).0, [name]);

    let (code, out) = OnTerminal::start(&server.cli(&["locks", "ls"]), 40).end().await;
    assert_eq!(code, Some(0), "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "a header, a row, a blank line, the footer: {out}");
    assert!(lines.iter().all(|line| line.chars().count() <= 40), "{out}");
    assert!(lines[0].ends_with("NAME") && lines[1].starts_with("billing  "), "{out}");
    assert!(lines[1].contains("invoices/") && lines[1].ends_with('…'), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_on_a_terminal_has_one_line_that_is_gone_when_the_lock_is_there() {
    let server = Server::start().await;
    let guard = server.client().lock("busy").owner("billing").acquire().await.expect("free");
    let mut command = server.cli(&["lock", "busy", "--", "echo", "done"]);
    let waiting = OnTerminal::start(&command, 100);
    let painted = waiting
        .until("the line painted anew", |text| text.matches("place 1 of 1, lease").count() >= 2)
        .await;
    assert!(painted.contains("held by billing for "), "{painted:?}");
    assert!(!painted.contains('\n'), "it stays on its line: {painted:?}");
    guard.release().await.expect("it is held");
    let (code, written) = waiting.end().await;
    assert_eq!(code, Some(0), "{written:?}");
    let (live, rest) = written.rsplit_once("\r\x1b[K").expect("the line was erased");
    assert!(live.ends_with("lock \"busy\""), "{live:?}");
    assert_eq!(rest, "done\r\n", "nothing of it is in the way of the command's words");

    // Ctrl-C ends the wait: the line makes room for the reason.
    let guard = server.client().lock("busy").owner("billing").acquire().await.expect("free");
    let waiting = OnTerminal::start(&command, 40);
    waiting.until("the live line", |text| text.contains("place 1 of 1")).await;
    waiting.interrupt();
    let (code, written) = waiting.end().await;
    assert_eq!(code, Some(130), "{written:?}");
    let (live, rest) = written.rsplit_once("\r\x1b[K").expect("the line was erased");
    assert!(rest.starts_with("error: stopped by SIGINT while waiting"), "{rest:?}");
    let longest = live.split("\r\x1b[K").map(|line| line.chars().count()).max();
    assert!(longest < Some(40), "one line of a narrow terminal: {live:?}");

    // Where stderr is no terminal each word is a line of its own.
    let waiting = Process::spawn(&mut command);
    eventually("a plain line", SOON, async || {
        (waiting.stderr().lines().next()?.starts_with("sharklock: waiting for \"busy\": held by"))
            .then_some(())
    })
    .await;
    assert!(!waiting.stderr().contains('\r'), "{:?}", waiting.stderr());
    drop(guard);
}
