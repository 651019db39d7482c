//! How `sharklock dev ps|kill|…` speaks with the process that owns the nodes: one line of JSON each
//! way, over a socket in the cluster's directory that takes no one but the owner's user.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::index::{Note, SOCKET};
use crate::exit::{FAILED, Failure, UNREACHABLE};

/// Longest line either way: nine nodes with all their addresses are a tenth of it.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long a command may take to say what it wants.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take: a stop in order, and a start until the node is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// The request of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// All nodes.
    Ps,
    /// SIGKILL.
    Kill(String),
    /// SIGSTOP.
    Pause(String),
    /// SIGCONT.
    Resume(String),
    /// Stop if it runs, start.
    Restart(String),
    /// One more.
    Add,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// All nodes.
    Nodes(Vec<Shown>),
    /// It is done; a line for people.
    Done(String),
    /// A node was started, and is not ready yet; a line for people.
    NotReady(String),
    /// It cannot be done; a line for people.
    Refused(String),
}

/// A node as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub node: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The address at which it serves clients.
    pub gateway: Option<String>,
    /// The address at which it meets gateways and other data servers.
    pub data: Option<String>,
    /// The address at which it meets everybody, as a master.
    pub master: Option<String>,
    /// The address at which it serves `/metrics` and health.
    pub admin: Option<String>,
    /// Its process; absent when it has ended.
    pub pid: Option<u32>,
    /// `ready`, `not ready`, `starting`, `paused` or `ended`.
    pub state: String,
    /// More about the state: what is missing, or how it ended; empty: nothing.
    pub detail: String,
}

/// A request, and where its answer goes.
pub type Asked = (Ask, oneshot::Sender<Answer>);

/// Opens the socket of the cluster in `dir`; one that a dead owner left is replaced.
pub fn listen(dir: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(dir.join(SOCKET)) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    at_short_path(dir, UnixListener::bind)
}

/// The path of a socket has 108 bytes at most, a directory may be anywhere: the way through an open
/// directory is always short.
fn at_short_path<T>(dir: &Path, call: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let open = File::open(dir)?;
    call(PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd())))
}

/// Takes requests until the owner does not want any more.
pub async fn serve(listener: UnixListener, asked: mpsc::Sender<Asked>) {
    while let Ok((stream, _)) = listener.accept().await {
        let same_user =
            |peer: tokio::net::unix::UCred| peer.uid() == nix::unistd::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(same_user) {
            continue;
        }
        let asked = asked.clone();
        tokio::spawn(async move {
            if let Err(why) = answer(stream, &asked).await {
                tracing::debug!(%why, "a request to the cluster got no answer");
            }
        });
    }
}

async fn answer(mut stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::new(read.take(LINE_BYTES_MAX));
    timeout(ASK_WITHIN, read.read_line(&mut line)).await??;
    let (sender, receiver) = oneshot::channel();
    let answer = match serde_json::from_str(&line) {
        Err(why) => Answer::Refused(format!("another version of sharklock asks: {why}")),
        Ok(ask) => match asked.send((ask, sender)).await {
            Ok(()) => receiver.await.unwrap_or_else(|_| stopping()),
            Err(_) => stopping(),
        },
    };
    let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    line.push(b'\n');
    write.write_all(&line).await
}

fn stopping() -> Answer {
    Answer::Refused("the cluster is being stopped".to_owned())
}

/// Asks a running cluster, and waits for its answer.
pub fn ask(note: &Note, ask: &Ask) -> Result<Answer, Failure> {
    let exchange = || -> io::Result<String> {
        let mut stream = at_short_path(&note.data_dir, StdUnixStream::connect)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut line = serde_json::to_vec(ask).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer)?;
        Ok(answer)
    };
    let owner = format!("`sharklock dev` (pid {}) in {}", note.owner.pid, note.data_dir.display());
    let line = exchange()
        .map_err(|why| Failure::new(UNREACHABLE, format!("{owner} does not answer")).cause(why))?;
    serde_json::from_str(&line).map_err(|why| {
        Failure::new(FAILED, format!("{owner} answers what this version does not understand"))
            .cause(why)
    })
}

#[cfg(test)]
mod tests {
    use super::super::index::Identity;
    use super::*;

    #[tokio::test]
    async fn a_request_gets_its_answer_however_long_the_path() {
        let parent = tempfile::TempDir::new().expect("a temporary directory");
        let dir = parent.path().join("d".repeat(200));
        std::fs::create_dir(&dir).expect("it is made");
        // The socket that a dead owner left is no obstacle.
        drop(listen(&dir).expect("it opens"));
        let listener = listen(&dir).expect("it opens again");
        let (sender, mut asked) = mpsc::channel(1);
        let serving = tokio::spawn(serve(listener, sender));
        let owner = Identity::of(std::process::id()).expect("this process runs");
        let note = Note { owner, data_dir: dir };
        let told = note.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&told, &Ask::Kill("2".into())));
        let (ask_seen, answer) = asked.recv().await.expect("it is asked");
        assert_eq!(ask_seen, Ask::Kill("2".into()));
        answer.send(Answer::Done("killed".into())).expect("somebody waits");
        let answer = asking.await.expect("no panic").expect("an answer");
        assert_eq!(answer, Answer::Done("killed".into()));
        drop(asked);
        let told = note.clone();
        let late = tokio::task::spawn_blocking(move || ask(&told, &Ask::Ps)).await;
        assert_eq!(late.expect("no panic").expect("an answer"), stopping());
        serving.abort();
        let _ = serving.await;
        let nobody = tokio::task::spawn_blocking(move || ask(&note, &Ask::Ps)).await;
        let failure = nobody.expect("no panic").expect_err("nobody listens");
        assert_eq!(failure.code(), UNREACHABLE);
    }
}
