//! A program that keeps locks beyond its own life, for tests that kill it: `keeper STATE_FILE TTL_MS
//! NAME...`, with the endpoints in `SHARKLOCK_ENDPOINTS`.
//!
//! It takes back what its last life held, acquires the rest of the names with the condition `hold`,
//! says so with a line for each, and then `ready`. SIGTERM ends it in order.

use std::{env, process::ExitCode, time::Duration};

use sharklock_client::Client;
use tokio::signal::unix::{SignalKind, signal};

/// Nobody works under these locks, so there is nobody to wait for.
const GRACE: Duration = Duration::ZERO;

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let (Some(state_file), Some(ttl)) = (args.next(), args.next()) else {
        eprintln!("usage: keeper STATE_FILE TTL_MS NAME...");
        return ExitCode::from(64);
    };
    let ttl = Duration::from_millis(ttl.parse().expect("TTL_MS is a number"));
    let mut asked_to_end = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    let client = Client::builder().endpoints_from_env().expect("the endpoints are addresses");
    let client = client.identity("keeper").ttl(ttl).state_file(state_file).build();
    let client = client.unwrap_or_else(|error| panic!("{error}"));

    let mut guards = Vec::new();
    let mut names: Vec<String> = args.collect();
    for one in client.reclaim_all().await {
        match one.result {
            Ok(guard) => {
                names.retain(|name| **name != *one.name);
                println!("reclaimed {} {} {}", one.name, one.token, guard.token());
                guards.push(guard);
            }
            Err(error) => println!("gone {} {} {error}", one.name, one.token),
        }
    }
    for name in names {
        let guard = client.lock(&name).hold().acquire().await;
        let guard = guard.unwrap_or_else(|error| panic!("{error}"));
        println!("acquired {name} {}", guard.token());
        guards.push(guard);
    }
    println!("ready");

    asked_to_end.recv().await;
    // The guards go first: what is held is given back when nobody uses it any more.
    drop(guards);
    let closed = client.close(GRACE).await;
    ExitCode::from(if closed.unconfirmed.is_empty() { 0 } else { 1 })
}
