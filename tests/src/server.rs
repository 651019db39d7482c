//! `sharklock dev` as a child process, with its data directory and its ports.

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_client::Client;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::process::{Process, command};
use crate::wait::eventually;

/// A start that takes longer is a failure of the machine, not of the product: what the product
/// promises (2 s) is asserted by the test that is about it.
const START_MAX: Duration = Duration::from_secs(30);

/// The range of the tests' ports.
const PORTS: std::ops::Range<u16> = 12_000..30_000;

/// A running `sharklock dev`, and what it takes to start it again.
#[derive(Debug)]
pub struct Server {
    process: Process,
    data: TempDir,
    args: Vec<String>,
    gateway: String,
    admin: String,
    ready_after: Duration,
}

impl Server {
    /// Starts one with an empty data directory on free ports, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[], |command| command).await
    }

    /// The same with more arguments, and with a wrapper around the command (as `strace`).
    pub async fn start_with(args: &[&str], wrap: impl FnOnce(Command) -> Command) -> Self {
        let data = TempDir::new().expect("a temporary directory can be made");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (gateway, admin) = (free_address(), free_address());
        let dev = wrap(dev(&data, &gateway, &admin, &args));
        let (process, gateway, admin, ready_after) = launch(dev).await;
        Self { process, data, args, gateway, admin, ready_after }
    }

    /// `http://ADDRESS` for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// `ADDRESS:PORT` of the client port.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// `ADDRESS:PORT` of `/metrics` and health.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// From its start until it had said that it is ready, and answered `/readyz`.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A client with a session of its own.
    pub fn client(&self) -> Client {
        Client::builder()
            .endpoints([self.endpoint()])
            .identity("tests")
            .build()
            .expect("the endpoint is an address")
    }

    /// A call of the command line that reaches this server.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("SHARKLOCK_ENDPOINTS", self.endpoint());
        command
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after its end, on the same data and ports, and waits until it is ready.
    pub async fn start_again(&mut self) {
        let dev = dev(&self.data, &self.gateway, &self.admin, &self.args);
        let (process, gateway, admin, ready_after) = launch(dev).await;
        assert_eq!((&gateway, &admin), (&self.gateway, &self.admin), "the ports are the same");
        self.process = process;
        self.ready_after = ready_after;
    }

    /// Starts it again where it is expected not to become ready: the process, to look at its end.
    pub fn start_in_vain(&self) -> Process {
        Process::spawn(&mut dev(&self.data, &self.gateway, &self.admin, &self.args))
    }

    /// Ends it in order.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.ends(Duration::from_secs(35)).await
    }

    /// GET on the admin port: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.admin, path).await.expect("the admin port answers")
    }

    /// That it lives, serves, and has not been started anew behind our back.
    pub async fn assert_serves(&mut self) {
        let ended = self.process.ended();
        assert!(ended.is_none(), "the server has ended: {ended:?}\n{}", self.process.stderr());
        let guard = self.client().lock("tests/serves").ttl(Duration::from_secs(5)).acquire();
        let guard = tokio::time::timeout(Duration::from_secs(20), guard).await;
        let guard = guard.expect("it serves within 20 s").expect("a free lock is granted");
        guard.release().await.expect("a lock is released");
    }
}

/// A loopback address whose port is free and below those that the system gives to outgoing
/// connections: a client that retries while its server is down could otherwise be given the very
/// port that it connects to, and hold it against the server's return.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 97).expect("below 97") * 113;
    for _ in 0..PORTS.len() {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(spread);
        let port = PORTS.start + offset % (PORTS.end - PORTS.start);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
    panic!("no port is free between {} and {}", PORTS.start, PORTS.end);
}

fn dev(data: &TempDir, gateway: &str, admin: &str, args: &[String]) -> Command {
    let mut command = command(["dev", "--listen", gateway, "--admin-listen", admin]);
    command.args(args);
    if !args.iter().any(|arg| arg == "--ephemeral") {
        command.arg("--data-dir").arg(data.path());
    }
    command
}

async fn launch(mut command: Command) -> (Process, String, String, Duration) {
    let begin = Instant::now();
    let mut process = Process::spawn(&mut command);
    let (gateway, admin) = eventually("the banner of `sharklock dev`", START_MAX, async || {
        let ended = process.ended();
        assert!(ended.is_none(), "it ended before it was ready: {ended:?}\n{}", process.stderr());
        let banner = process.stdout();
        banner.contains("Ctrl-C").then_some(())?;
        Some((address(&banner, "gateway")?, address(&banner, "admin")?))
    })
    .await;
    eventually("200 of /readyz", START_MAX, async || {
        let (status, _) = get(&admin, "/readyz").await.ok()?;
        (status == 200).then_some(())
    })
    .await;
    (process, gateway, admin, begin.elapsed())
}

/// `  word   http://ADDRESS` of the banner.
fn address(banner: &str, word: &str) -> Option<String> {
    let value = banner.lines().find_map(|line| line.trim_start().strip_prefix(word))?;
    Some(value.trim().strip_prefix("http://")?.to_owned())
}

/// GET over plain HTTP: status and body.
pub async fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let bad = || std::io::Error::other(format!("not HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}
