//! A TCP proxy in front of every port of a cluster, which knows who speaks to whom: each node dials
//! from an address of its own, and each node's ports are reached through a listener of their own. So
//! faults strike *links*: from one node to another, or from the world outside (clients) to a node.
//!
//! A link that is cut behaves as TCP does over a broken network: bytes wait, connections stand, new ones are
//! taken and stay silent; when it is mended everything that waited arrives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Bytes that pass at a time where they drip, and the pause between.
const DROP_BYTES: usize = 64;
const DROP_EVERY: Duration = Duration::from_millis(5);

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A node of the cluster, from 0.
    Node(usize),
    /// Clients, who are no node.
    Outside,
}

/// The fate of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They wait until the link is mended.
    Hold,
    /// They pass so much later.
    Delay(Duration),
    /// They pass in drops.
    Drip,
}

/// How a link is: of connections that one host opens to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    /// From who opened them.
    forward: Flow,
    /// Back to it.
    backward: Flow,
    /// New ones are closed at once.
    refuses: bool,
    /// Counts how often all of them were broken.
    resets: u64,
}

type Links = BTreeMap<(Host, Host), Link>;

/// See the module. Ends with its value.
#[derive(Debug)]
pub struct LinkProxy {
    links: watch::Sender<Links>,
    /// By the address from which a node dials.
    nodes: Arc<BTreeMap<IpAddr, usize>>,
    accepting: Vec<AbortHandle>,
}

impl LinkProxy {
    /// Of nodes that dial from these addresses, in their order.
    pub fn new(nodes: impl IntoIterator<Item = IpAddr>) -> Self {
        let nodes = nodes.into_iter().zip(0..).collect();
        Self { links: watch::Sender::default(), nodes: Arc::new(nodes), accepting: Vec::new() }
    }

    /// Passes what comes to `listen` on to `target`, a port of a node.
    ///
    /// # Panics
    /// When the address cannot be had.
    pub async fn open(&mut self, node: usize, listen: SocketAddr, target: SocketAddr) {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.unwrap_or_else(|error| panic!("{listen}: {error}"));
        let (links, nodes) = (self.links.subscribe(), Arc::clone(&self.nodes));
        let accepting = tokio::spawn(async move {
            while let Ok((opened, by)) = listener.accept().await {
                let by = nodes.get(&by.ip()).map_or(Host::Outside, |node| Host::Node(*node));
                let ends = (by, Host::Node(node));
                tokio::spawn(pass(opened, target, Wire { ends, links: links.clone() }));
            }
        });
        self.accepting.push(accepting.abort_handle());
    }

    /// Bytes that one host sends to another wait, whoever opened the connection.
    pub fn cut_one_way(&self, from: Host, to: Host) {
        self.set_flow(from, to, Flow::Hold);
    }

    /// Nothing passes between two hosts.
    pub fn cut(&self, one: Host, other: Host) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Bytes that one host sends to another pass like this.
    pub fn set_flow(&self, from: Host, to: Host, flow: Flow) {
        self.links.send_modify(|links| {
            links.entry((from, to)).or_default().forward = flow;
            links.entry((to, from)).or_default().backward = flow;
        });
    }

    /// Cuts a node off from everybody, as far as these directions go: what it sends, what it is
    /// sent, or both.
    pub fn cut_off(&self, node: usize, sends: bool, hears: bool) {
        for other in self.others(node) {
            if sends {
                self.cut_one_way(Host::Node(node), other);
            }
            if hears {
                self.cut_one_way(other, Host::Node(node));
            }
        }
    }

    /// Breaks every connection between two hosts; new ones are passed on, or refused.
    pub fn reset(&self, one: Host, other: Host, refuses: bool) {
        self.links.send_modify(|links| {
            for ends in [(one, other), (other, one)] {
                let link = links.entry(ends).or_default();
                link.resets += 1;
                link.refuses = refuses;
            }
        });
    }

    /// Everything passes again.
    pub fn mend(&self) {
        self.links.send_modify(|links| {
            for link in links.values_mut() {
                *link = Link { resets: link.resets, ..Link::default() };
            }
        });
    }

    fn others(&self, node: usize) -> Vec<Host> {
        let nodes = self.nodes.values().copied().filter(|other| *other != node);
        nodes.map(Host::Node).chain([Host::Outside]).collect()
    }
}

impl Drop for LinkProxy {
    fn drop(&mut self) {
        self.accepting.iter().for_each(AbortHandle::abort);
    }
}

/// A connection's view of its link.
#[derive(Clone)]
struct Wire {
    ends: (Host, Host),
    links: watch::Receiver<Links>,
}

impl Wire {
    fn link(&self) -> Link {
        self.links.borrow().get(&self.ends).copied().unwrap_or_default()
    }
}

async fn pass(opened: TcpStream, target: SocketAddr, wire: Wire) {
    if wire.link().refuses {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (opened.set_nodelay(true), server.set_nodelay(true));
    let (from_opener, to_opener) = opened.into_split();
    let (from_server, to_server) = server.into_split();
    let forward = copy(from_opener, to_server, wire.clone(), |link| link.forward);
    let backward = copy(from_server, to_opener, wire, |link| link.backward);
    // The end of one direction is the end of the connection: HTTP/2 has no half of one.
    tokio::select! {
        () = forward => {}
        () = backward => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut wire: Wire,
    flow_of: impl Fn(&Link) -> Flow,
) {
    let mut buffer = vec![0; 16 << 10];
    let resets = wire.link().resets;
    loop {
        let link = wire.link();
        if link.resets != resets {
            return;
        }
        let flow = flow_of(&link);
        let count = tokio::select! {
            // A fault that has happened comes before bytes that have arrived.
            biased;
            changed = wire.links.changed() => match changed {
                Ok(()) => continue,
                Err(_proxy_is_gone) => return,
            },
            count = from.read(&mut buffer), if flow != Flow::Hold => count,
        };
        let Ok(count @ 1..) = count else { return };
        if write(&mut to, &buffer[..count], flow).await.is_err() {
            return;
        }
    }
}

async fn write(to: &mut OwnedWriteHalf, bytes: &[u8], flow: Flow) -> std::io::Result<()> {
    match flow {
        Flow::Pass | Flow::Hold => to.write_all(bytes).await,
        Flow::Delay(delay) => {
            sleep(delay).await;
            to.write_all(bytes).await
        }
        Flow::Drip => {
            for drop in bytes.chunks(DROP_BYTES) {
                to.write_all(drop).await?;
                sleep(DROP_EVERY).await;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    /// Echoes whatever comes.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    struct Speaker(TcpStream);

    impl Speaker {
        async fn dial(from: &str, to: SocketAddr) -> Self {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(format!("{from}:0").parse().expect("an address")).expect("it is ours");
            Self(socket.connect(to).await.expect("the proxy listens"))
        }

        async fn say(&mut self, word: &[u8]) {
            self.0.write_all(word).await.expect("the proxy takes it");
        }

        async fn hears(&mut self, word: &[u8], within: Duration) -> bool {
            let mut heard = vec![0; word.len()];
            let read = timeout(within, self.0.read_exact(&mut heard)).await;
            matches!(read, Ok(Ok(_))) && heard == word
        }

        async fn is_broken(&mut self) -> bool {
            let mut byte = [0];
            matches!(timeout(LONG, self.0.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
        }
    }

    /// A proxy before node 1, and its address; node 0 dials from 127.0.9.1.
    async fn proxy() -> (LinkProxy, SocketAddr) {
        let node = |last| IpAddr::from([127, 0, 9, last]);
        let mut proxy = LinkProxy::new([node(1), node(2)]);
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let listen = free.local_addr().expect("it is bound");
        drop(free);
        proxy.open(1, listen, echo().await).await;
        (proxy, listen)
    }

    #[tokio::test]
    async fn faults_strike_the_link_of_one_node_and_no_other() {
        let (proxy, at) = proxy().await;
        let mut node = Speaker::dial("127.0.9.1", at).await;
        let mut client = Speaker::dial("127.0.0.1", at).await;
        proxy.cut(Host::Node(0), Host::Node(1));
        node.say(b"a").await;
        client.say(b"b").await;
        assert!(client.hears(b"b", LONG).await);
        assert!(!node.hears(b"a", SHORT).await, "its link is cut");
        let mut again = Speaker::dial("127.0.9.1", at).await;
        again.say(b"c").await;
        assert!(!again.hears(b"c", SHORT).await, "new connections stay silent");
        proxy.mend();
        assert!(node.hears(b"a", LONG).await, "what waited arrives");
        assert!(again.hears(b"c", LONG).await);
    }

    #[tokio::test]
    async fn one_direction_can_be_cut_alone() {
        let (proxy, at) = proxy().await;
        let mut node = Speaker::dial("127.0.9.1", at).await;
        proxy.cut_one_way(Host::Node(1), Host::Node(0));
        node.say(b"a").await;
        assert!(!node.hears(b"a", SHORT).await, "the answer waits");
        proxy.mend();
        assert!(node.hears(b"a", LONG).await, "the question had passed");
        proxy.cut_off(1, false, true);
        node.say(b"b").await;
        assert!(!node.hears(b"b", SHORT).await, "the question waits");
        proxy.mend();
        assert!(node.hears(b"b", LONG).await);
    }

    #[tokio::test]
    async fn connections_are_broken_and_refused() {
        let (proxy, at) = proxy().await;
        let mut node = Speaker::dial("127.0.9.1", at).await;
        node.say(b"a").await;
        assert!(node.hears(b"a", LONG).await);
        proxy.reset(Host::Node(0), Host::Node(1), true);
        assert!(node.is_broken().await);
        assert!(Speaker::dial("127.0.9.1", at).await.is_broken().await, "it is refused");
        proxy.mend();
        let mut node = Speaker::dial("127.0.9.1", at).await;
        node.say(b"b").await;
        assert!(node.hears(b"b", LONG).await);
    }

    #[tokio::test]
    async fn bytes_are_late_or_drip() {
        let (proxy, at) = proxy().await;
        let mut node = Speaker::dial("127.0.9.1", at).await;
        proxy.set_flow(Host::Node(0), Host::Node(1), Flow::Delay(SHORT));
        let begin = Instant::now();
        node.say(b"a").await;
        assert!(node.hears(b"a", LONG).await);
        assert!(begin.elapsed() >= SHORT);
        proxy.set_flow(Host::Node(0), Host::Node(1), Flow::Drip);
        let begin = Instant::now();
        let text = vec![b'x'; 40 * DROP_BYTES];
        node.say(&text).await;
        assert!(node.hears(&text, LONG).await);
        assert!(begin.elapsed() >= 39 * DROP_EVERY);
    }
}
