//! The resource behind the locks of slow holders: a process of its own that checks tokens on reads and
//! writes, so that a client that stood still past its lease finds it changed.
//!
//! A line asks, a line answers: `read NAME TOKEN OWNER` and `write NAME TOKEN OWNER VERSION VALUE`;
//! `ok VERSION VALUE` and `stale MARK`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sharklock_history::{FencingOracle, Versioned};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The port at which it serves.
pub const PORT: u16 = 9000;
/// The file that it leaves.
pub const SUMMARY: &str = "resource.json";
/// An answer that takes longer does not come.
const ANSWER_MAX: Duration = Duration::from_secs(10);

type Oracles = Arc<Mutex<BTreeMap<String, FencingOracle>>>;

/// Serves until SIGTERM, and leaves what it has seen in `out`.
///
/// # Errors
/// When the port or the directory cannot be used.
pub async fn serve(out: &Path, stop: impl Future<Output = ()>) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let oracles = Oracles::default();
    let accepting = {
        let oracles = Arc::clone(&oracles);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&oracles)));
            }
        })
    };
    stop.await;
    accepting.abort();
    let oracles = oracles.lock().expect("nobody panics with it");
    let faults = oracles.iter().flat_map(|(name, oracle)| {
        oracle.faults().iter().map(move |fault| format!("{name}: {fault}"))
    });
    let summary = serde_json::json!({
        "faults": faults.collect::<Vec<_>>(),
        "refused": oracles.values().map(FencingOracle::refused).sum::<u64>(),
        "writes": oracles.values().map(FencingOracle::value).sum::<u64>(),
    });
    std::fs::write(out.join(SUMMARY), summary.to_string())?;
    Ok(())
}

async fn answer(stream: TcpStream, oracles: Oracles) {
    let (from, mut to) = stream.into_split();
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(answer) = one(&line, &mut oracles.lock().expect("nobody panics with it")) else {
            return;
        };
        if to.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The answer to a line; none to what is no question.
fn one(line: &str, oracles: &mut BTreeMap<String, FencingOracle>) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let oracle = oracles.entry((*words.get(1)?).to_owned()).or_default();
    let (token, owner) = (number(2)?, number(3)?);
    let done = match *words.first()? {
        "read" => oracle.read(token, owner),
        "write" => {
            let (version, value) = (number(4)?, number(5)?);
            let read = Versioned { version, value };
            oracle.write(token, owner, read, value).map(|()| read)
        }
        _ => return None,
    };
    Some(match done {
        Ok(Versioned { version, value }) => format!("ok {version} {value}\n"),
        Err(stale) => format!("stale {}\n", stale.mark),
    })
}

/// A client of the resource.
#[derive(Debug)]
pub struct Resource {
    stream: BufReader<TcpStream>,
}

impl Resource {
    /// Connects to `host`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(host: &str) -> Result<Self> {
        let stream = TcpStream::connect((host, PORT)).await.with_context(|| host.to_owned())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Reads under a token; `None`: somebody with a larger one was there.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn read(&mut self, name: &str, token: u64, owner: u64) -> Result<Option<Versioned>> {
        self.ask(&format!("read {name} {token} {owner}\n")).await
    }

    /// Adds one to what was read; false: somebody with a larger token was there.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn add_one(
        &mut self,
        name: &str,
        token: u64,
        owner: u64,
        read: Versioned,
    ) -> Result<bool> {
        let (version, value) = (read.version, read.value + 1);
        let asked = format!("write {name} {token} {owner} {version} {value}\n");
        Ok(self.ask(&asked).await?.is_some())
    }

    async fn ask(&mut self, question: &str) -> Result<Option<Versioned>> {
        let answered = tokio::time::timeout(ANSWER_MAX, async {
            self.stream.get_mut().write_all(question.as_bytes()).await?;
            let mut answer = String::new();
            self.stream.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        });
        let answer = answered.await??;
        let words: Vec<&str> = answer.split_whitespace().collect();
        match words[..] {
            ["ok", version, value] => {
                Ok(Some(Versioned { version: version.parse()?, value: value.parse()? }))
            }
            ["stale", _] => Ok(None),
            _ => bail!("the resource answers {answer:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_write_is_refused_and_a_lost_update_is_a_fault() {
        let mut oracles = BTreeMap::new();
        let mut ask = |line: &str| one(line, &mut oracles).expect("it is a question");
        assert_eq!(ask("read a 7 1"), "ok 0 0\n");
        assert_eq!(ask("read a 8 2"), "ok 0 0\n");
        assert_eq!(ask("write a 7 1 0 1"), "stale 8\n");
        assert_eq!(ask("write a 8 2 0 1"), "ok 0 1\n");
        assert_eq!(ask("write a 9 3 0 1"), "ok 0 1\n");
        assert_eq!(oracles["a"].faults().len(), 1, "version 0 was read, and 1 replaced");
        assert_eq!((oracles["a"].refused(), oracles["a"].value()), (1, 1));
        assert_eq!(one("dance", &mut BTreeMap::new()), None);
    }
}
