//! A TCP proxy between clients and a server, for what networks do: connections that break, and
//! connections that fall silent.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The fate of the connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Bytes pass.
    Open,
    /// They break.
    Broken,
    /// They stay open and nothing passes, ever.
    Silent,
}

/// Passes connections on to a server. Ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// The address to which connections are passed on from now on.
    server: watch::Sender<String>,
    /// Of the connections opened from now on; replaced at each fault.
    fate: watch::Sender<Arc<watch::Sender<Fate>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port in front of `server` (`ADDRESS:PORT`).
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (fate, current) = watch::channel(Arc::new(watch::Sender::new(Fate::Open)));
        let (server, target) = watch::channel(server.to_owned());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let fate = current.borrow().subscribe();
                let server = target.borrow().clone();
                tokio::spawn(pass(client, server, fate));
            }
        });
        Self { address, server, fate, accepting }
    }

    /// `http://ADDRESS` for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on another server answers here: every open connection breaks.
    pub fn move_to(&self, server: &str) {
        self.server.send_replace(server.to_owned());
        self.cut();
    }

    /// Breaks every open connection; new ones are passed on.
    pub fn cut(&self) {
        self.end_all(Fate::Broken);
    }

    /// Silences every open connection; new ones are passed on.
    pub fn silence(&self) {
        self.end_all(Fate::Silent);
    }

    fn end_all(&self, fate: Fate) {
        let before = self.fate.send_replace(Arc::new(watch::Sender::new(Fate::Open)));
        before.send_replace(fate);
        if fate == Fate::Silent {
            // Its receivers would take the end of the sender for a break.
            std::mem::forget(before);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, server: String, fate: watch::Receiver<Fate>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(copy(from_client, to_server, fate.clone()), copy(from_server, to_client, fate),);
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fate: watch::Receiver<Fate>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = tokio::select! {
            // A fault that has happened comes before bytes that have arrived.
            biased;
            _ = fate.changed() => {
                if *fate.borrow() == Fate::Silent {
                    // Neither end hears of the other again, until one of them hangs up.
                    while !matches!(from.read(&mut buffer).await, Ok(0) | Err(_)) {}
                }
                return;
            }
            count = from.read(&mut buffer) => count,
        };
        match count {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
            _ => return,
        }
    }
}
