//! The accept loop: how many connections there may be, from where, and for how long one may say
//! nothing before it has shown to be HTTP/2. Past that, HTTP/2's own pings find dead peers.

use std::{
    collections::BTreeMap,
    future::Future as _,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, Sleep, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{metrics::Metrics, quota::Quota, unread::Unread};

/// Accepted connections that wait for the server to take them.
pub(super) const ACCEPTED_MAX: usize = 64;
/// After an accept that failed for want of file descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How often connections whose clients do not read are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks of one connection that are on their way; more wait.
const LOOKS_PER_CONNECTION: usize = 8;
/// Length of HTTP/2's connection preface.
const PREFACE_BYTES: usize = 24;

/// Bounds of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) connections_max: usize,
    pub(super) connections_per_ip_max: usize,
    /// Unary Acquires that wait on one connection.
    pub(super) waits_per_connection: usize,
    /// Until the connection preface must have arrived.
    pub(super) preface_within: Duration,
    /// How long an answer may wait without a byte of it being taken.
    pub(super) read_within: Duration,
}

/// The bounds that all connections share; one address may use a quarter of each.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    pub(super) unread: Arc<Quota>,
    pub(super) calls: Arc<Quota>,
}

impl Shares {
    fn of_address(&self) -> Self {
        let quarter = |whole: &Arc<Quota>| whole.part("address", whole.max() / 4);
        Self { unread: quarter(&self.unread), calls: quarter(&self.calls) }
    }
}

/// Accepts until told to stop, or until nobody takes connections any more.
pub(super) async fn accept(
    listener: TcpListener,
    (bounds, shares): (Bounds, Shares),
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    accepted: mpsc::Sender<io::Result<Connection>>,
) {
    let table = Arc::new(Table { bounds, shares, metrics, open: Mutex::default() });
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {
                table.give_up_late();
                continue;
            }
            accept = listener.accept() => accept,
        };
        match socket {
            Ok((socket, from)) => {
                let Some(connection) = table.admit(socket, from) else { continue };
                if accepted.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(why = %error, "cannot accept connections for now");
                sleep(BACK_OFF).await;
            }
            // The peer has gone before it was accepted.
            Err(error) => tracing::debug!(why = %error, "a connection was not accepted"),
        }
    }
}

/// Whether accepting again at once would fail again at once.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}

/// The open connections, counted by address.
struct Table {
    bounds: Bounds,
    shares: Shares,
    metrics: Arc<Metrics>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    by_ip: BTreeMap<IpAddr, OfAddress>,
    last: u64,
    /// By the connections' numbers.
    unread: BTreeMap<u64, Arc<Unread>>,
}

struct OfAddress {
    connections: usize,
    shares: Shares,
}

impl Table {
    /// None, and the connection closed at once, when there are too many: who waits in a full queue
    /// learns nothing, who is refused tries another gateway.
    fn admit(self: &Arc<Self>, socket: TcpStream, from: SocketAddr) -> Option<Connection> {
        let ip = from.ip().to_canonical();
        let mut open = self.open();
        if open.unread.len() >= self.bounds.connections_max {
            self.metrics.connection_refused("gateway");
            return None;
        }
        let shares = || OfAddress { connections: 0, shares: self.shares.of_address() };
        let of_ip = open.by_ip.entry(ip).or_insert_with(shares);
        if of_ip.connections >= self.bounds.connections_per_ip_max {
            self.metrics.connection_refused("address");
            return None;
        }
        of_ip.connections += 1;
        let shares = of_ip.shares.clone();
        open.last += 1;
        let number = open.last;
        let unread = Arc::new(Unread::new(&shares.unread));
        open.unread.insert(number, unread.clone());
        self.metrics.connections.inc();
        drop(open);
        let seat = Seat { table: self.clone(), ip, number };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(why = %error, "a connection keeps Nagle's delay");
        }
        let waits = Arc::new(Semaphore::new(self.bounds.waits_per_connection));
        let looks = Arc::new(Semaphore::new(LOOKS_PER_CONNECTION));
        let (calls, is_lost) = (shares.calls, Arc::default());
        let peer = Peer { address: from, waits, looks, calls, unread, is_lost };
        Some(Connection::new(socket, peer, seat, self.bounds.preface_within))
    }

    /// Closes connections whose clients do not read.
    fn give_up_late(&self) {
        let now = Instant::now();
        let open: Vec<_> = self.open().unread.values().cloned().collect();
        for unread in open {
            if unread.give_up_if_late(now, self.bounds.read_within) {
                self.metrics.connection_given_up();
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // A panic cannot leave the table half changed.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table.
struct Seat {
    table: Arc<Table>,
    ip: IpAddr,
    number: u64,
}

/// The connection of a request, as far as the request knows it.
#[derive(Clone)]
pub(super) struct Peer {
    /// The address from which it comes.
    pub(super) address: SocketAddr,
    /// A unary Acquire that waits has one of these: half of the connection's streams, so that
    /// waits leave room for the keepalives and releases beside them (D16).
    pub(super) waits: Arc<Semaphore>,
    /// A look that is on its way has one of these.
    pub(super) looks: Arc<Semaphore>,
    /// Unary calls that can wait, of the connection's address.
    pub(super) calls: Arc<Quota>,
    /// Answers that the client has not taken.
    pub(super) unread: Arc<Unread>,
    is_lost: Arc<AtomicBool>,
}

impl Peer {
    /// The connection has ended: its streams end with it, whatever their callers want.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.table.open();
        open.unread.remove(&self.number);
        if let Some(of_ip) = open.by_ip.get_mut(&self.ip) {
            of_ip.connections -= 1;
            if of_ip.connections == 0 {
                open.by_ip.remove(&self.ip);
            }
        }
        self.table.metrics.connections.dec();
    }
}

/// A connection that fails when its preface takes too long, and gives its seat back when dropped.
pub(super) struct Connection {
    socket: TcpStream,
    /// None once the preface has arrived.
    preface: Option<Preface>,
    peer: Peer,
    _seat: Seat,
}

struct Preface {
    missing: usize,
    late: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(socket: TcpStream, peer: Peer, seat: Seat, preface_within: Duration) -> Self {
        let late = Box::pin(sleep(preface_within));
        let preface = Some(Preface { missing: PREFACE_BYTES, late });
        Self { socket, preface, peer, _seat: seat }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => self.peer.unread.written(Some(*bytes)),
            Poll::Ready(Err(_)) => self.peer.is_lost.store(true, Ordering::Release),
            Poll::Pending => {}
        }
    }

    /// The client does not read: nothing more is written or read.
    fn check(&self) -> io::Result<()> {
        if !self.peer.unread.is_given_up() {
            return Ok(());
        }
        self.peer.is_lost.store(true, Ordering::Release);
        Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers"))
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if let Poll::Ready(result) = &read
            && (result.is_err() || buffer.filled().len() == filled)
        {
            self.peer.is_lost.store(true, Ordering::Release);
        }
        if read.is_pending() {
            self.peer.unread.connection_waits(cx);
        }
        let Some(preface) = &mut self.preface else { return read };
        match read {
            Poll::Ready(result) => {
                let got = buffer.filled().len() - filled;
                preface.missing = preface.missing.saturating_sub(got);
                if preface.missing == 0 {
                    self.preface = None;
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                std::task::ready!(preface.late.as_mut().poll(cx));
                let late = "no HTTP/2 connection preface in time";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)))
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            // HTTP/2 flushes when it has nothing left that the client's windows let through.
            self.peer.unread.written(None);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, parts);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;

    /// Nothing here takes long unless it is broken.
    const PATIENCE: Duration = Duration::from_secs(10);

    const BOUNDS: Bounds = Bounds {
        connections_max: 3,
        connections_per_ip_max: 2,
        waits_per_connection: 1,
        preface_within: PATIENCE,
        read_within: PATIENCE,
    };

    /// A listener under `bounds`, and what it lets in.
    async fn listen(bounds: Bounds) -> (SocketAddr, mpsc::Receiver<io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("the names are distinct"));
        let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
        let shares = Shares { unread: Quota::whole(1 << 20), calls: Quota::whole(100) };
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, (bounds, shares), metrics, stop, accepted));
        (address, connections)
    }

    async fn let_in(connections: &mut mpsc::Receiver<io::Result<Connection>>) -> Connection {
        let connection = timeout(PATIENCE, connections.recv()).await.expect("it is let in");
        connection.expect("the listener lives").expect("it was accepted")
    }

    /// Whether the other side has closed the connection.
    async fn is_closed(socket: &mut TcpStream) -> bool {
        let read = timeout(PATIENCE, socket.read(&mut [0; 1])).await.expect("it is closed");
        matches!(read, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn one_address_over_its_bound_is_closed_and_a_closed_connection_makes_room() {
        let (address, mut connections) = listen(BOUNDS).await;
        let _a = TcpStream::connect(address).await.expect("connects");
        let _b = TcpStream::connect(address).await.expect("connects");
        let first = let_in(&mut connections).await;
        let _second = let_in(&mut connections).await;
        let mut over = TcpStream::connect(address).await.expect("connects");
        assert!(is_closed(&mut over).await);
        drop(first);
        let _c = TcpStream::connect(address).await.expect("connects");
        let_in(&mut connections).await;
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_bound() {
        let (address, mut connections) = listen(Bounds { connections_max: 1, ..BOUNDS }).await;
        let _a = TcpStream::connect(address).await.expect("connects");
        let _first = let_in(&mut connections).await;
        let mut over = TcpStream::connect(address).await.expect("connects");
        assert!(is_closed(&mut over).await);
    }

    #[tokio::test]
    async fn a_connection_that_says_too_little_fails() {
        let preface_within = Duration::from_millis(50);
        for said in [0, 1, PREFACE_BYTES - 1] {
            let (address, mut connections) = listen(Bounds { preface_within, ..BOUNDS }).await;
            let mut client = TcpStream::connect(address).await.expect("connects");
            let mut connection = let_in(&mut connections).await;
            client.write_all(&vec![b'P'; said]).await.expect("writes");
            let mut heard = Vec::new();
            let read = timeout(PATIENCE, connection.read_to_end(&mut heard)).await;
            let error = read.expect("it does not hang").expect_err("it fails");
            assert_eq!((error.kind(), heard.len()), (io::ErrorKind::TimedOut, said));
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_said_enough_may_be_silent() {
        let preface_within = Duration::from_millis(50);
        let (address, mut connections) = listen(Bounds { preface_within, ..BOUNDS }).await;
        let mut client = TcpStream::connect(address).await.expect("connects");
        let mut connection = let_in(&mut connections).await;
        client.write_all(&[b'P'; PREFACE_BYTES]).await.expect("writes");
        let mut heard = [0; PREFACE_BYTES];
        connection.read_exact(&mut heard).await.expect("reads");
        let more = timeout(preface_within * 4, connection.read(&mut heard)).await;
        assert!(more.is_err(), "it waits on");
    }
}
