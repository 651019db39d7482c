//! Plain connections between stores: a preamble each way, then frames, each behind its length. They
//! have no task of their own on the way, as HTTP/2 has: if the thread that makes the messages polls
//! their keeper, they leave without a wake-up.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream, lookup_host,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Handle,
    time::timeout,
};

use crate::dialling::{DIAL_WITHIN, Dialling, PING_EVERY, PONG_WITHIN};

/// What both sides send first. HTTP/2 begins with another letter, and its servers answer with other
/// bytes, so that each side knows at once whom it has to do with. The last byte is the version.
pub(crate) const PREAMBLE: [u8; 8] = *b"SLPEER\0\x01";

/// The largest frame: a frame ends with the message that brings it over 1 MiB, and one entry may
/// have 16 MiB uncommitted before Raft refuses more.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 20;

/// The largest frame of somebody who has not said who it is: a hello, or the answer to it.
const HELLO_BYTES_MAX: usize = 4 << 10;

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = size_of::<u32>();

/// Room for what comes while the length of the next frame is not known.
const READ_BYTES: usize = 16 << 10;

/// A connection that takes nothing for so long is dead, or its peer is. The system sees it: it
/// acknowledges by itself while the thread that reads is busy or waits for a disk.
#[expect(clippy::cast_possible_truncation, reason = "seconds, in milliseconds")]
const UNACKNOWLEDGED_MS: u32 = (PING_EVERY.as_millis() + PONG_WITHIN.as_millis()) as u32;

/// A connection whose preambles have been exchanged.
pub(crate) struct Frames {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

impl Frames {
    /// Connects to `address` (`HOST:PORT`). None: whoever answers there does not speak frames.
    ///
    /// # Errors
    /// When there is no connection, or it ends without a word; a sentence for people.
    pub(crate) async fn dial(dialling: Dialling, address: &str) -> Result<Option<Self>, String> {
        let dialled = timeout(DIAL_WITHIN, async {
            let mut stream = connect(dialling, address).await?;
            stream.write_all(&PREAMBLE).await?;
            let mut answer = [0; PREAMBLE.len()];
            // An HTTP/2 server says more than that at once, before it has read anything.
            stream.read_exact(&mut answer).await?;
            Ok((answer == PREAMBLE).then(|| Self::new(stream)))
        });
        match dialled.await {
            Ok(dialled) => dialled.map_err(|why: io::Error| why.to_string()),
            Err(_elapsed) => Err(format!("no connection within {} s", DIAL_WITHIN.as_secs())),
        }
    }

    /// Takes a connection on which [`is_spoken`] has found the preamble.
    ///
    /// # Errors
    /// It is another version's, or the connection breaks.
    pub(crate) async fn accept(mut stream: TcpStream) -> io::Result<Self> {
        let mut preamble = [0; PREAMBLE.len()];
        stream.read_exact(&mut preamble).await?;
        if preamble != PREAMBLE {
            return Err(io::Error::other("it begins with the preamble of another version"));
        }
        tend(&stream)?;
        stream.write_all(&PREAMBLE).await?;
        Ok(Self::new(stream))
    }

    fn new(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        let reader =
            FrameReader { half: reader, buffer: BytesMut::new(), bytes_max: HELLO_BYTES_MAX };
        Self { reader, writer: FrameWriter { half: writer, buffer: BytesMut::new() } }
    }

    /// Both sides know each other: from now on frames may be large, and `runtime` polls the
    /// connection, since a socket belongs to the runtime that registers it.
    ///
    /// # Errors
    /// The runtime ends.
    pub(crate) fn trusted_on(self, runtime: &Handle) -> io::Result<Self> {
        let (reader, writer) = (self.reader, self.writer);
        let stream = reader.half.reunite(writer.half).expect("both halves are of one connection");
        let stream = stream.into_std()?;
        let _inside = runtime.enter();
        let (read_half, write_half) = TcpStream::from_std(stream)?.into_split();
        let reader = FrameReader { half: read_half, bytes_max: FRAME_BYTES_MAX, ..reader };
        Ok(Self { reader, writer: FrameWriter { half: write_half, ..writer } })
    }
}

/// Whether a connection begins with the preamble, by its first letter, which stays unread. None:
/// nothing comes within so long, or the connection is gone.
pub(crate) async fn is_spoken(stream: &TcpStream, within: Duration) -> Option<bool> {
    let mut first = [0];
    match timeout(within, stream.peek(&mut first)).await {
        Ok(Ok(1)) => Some(first[0] == PREAMBLE[0]),
        _ => None,
    }
}

async fn connect(dialling: Dialling, address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("its name has no address");
    for at in lookup_host(address).await? {
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = dialling.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        match socket.connect(at).await {
            Ok(stream) => {
                tend(&stream)?;
                return Ok(stream);
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

/// Small frames leave at once, and a dead connection is noticed by who sends.
fn tend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?)
}

/// The receiving half.
pub(crate) struct FrameReader {
    half: OwnedReadHalf,
    /// What was read and belongs to the next frames.
    buffer: BytesMut,
    bytes_max: usize,
}

impl FrameReader {
    /// The next frame; `None` at the end of the connection. Nothing is lost if nobody waits for it.
    ///
    /// # Errors
    /// The connection breaks, also within a frame, or a frame is larger than [`FRAME_BYTES_MAX`].
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let missing = match self.buffer.first_chunk::<LENGTH_BYTES>() {
                None => READ_BYTES,
                Some(length) => {
                    let bytes = u32::from_be_bytes(*length) as usize;
                    if bytes > self.bytes_max {
                        return Err(self.refuse(bytes));
                    }
                    match (LENGTH_BYTES + bytes).checked_sub(self.buffer.len()) {
                        None | Some(0) => return Ok(Some(self.take(bytes))),
                        Some(missing) => missing,
                    }
                }
            };
            self.buffer.reserve(missing);
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Takes a frame that is there. The log keeps parts of it for long: a small one gets memory of
    /// its own, since it would keep all of the buffer otherwise.
    fn take(&mut self, bytes: usize) -> Bytes {
        self.buffer.advance(LENGTH_BYTES);
        if bytes < READ_BYTES {
            let frame = Bytes::copy_from_slice(&self.buffer[..bytes]);
            self.buffer.advance(bytes);
            return frame;
        }
        self.buffer.split_to(bytes).freeze()
    }

    fn refuse(&self, bytes: usize) -> io::Error {
        let most = self.bytes_max;
        io::Error::other(format!("a frame of {bytes} bytes, above the {most} that are taken"))
    }
}

/// The sending half.
pub(crate) struct FrameWriter {
    half: OwnedWriteHalf,
    /// What [`put`](Self::put) has encoded and nothing has sent.
    buffer: BytesMut,
}

impl FrameWriter {
    /// Encodes a frame, to be sent by [`write`](Self::write).
    pub(crate) fn put(&mut self, message: &impl Message) {
        let bytes = message.encoded_len();
        let length = u32::try_from(bytes).expect("frames are far smaller than 4 GiB");
        self.buffer.reserve(LENGTH_BYTES + bytes);
        self.buffer.put_u32(length);
        message.encode(&mut self.buffer).expect("there is room for it");
    }

    /// Whether all that was put is sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Sends what the connection takes of what was put. Nothing is lost if nobody waits for it.
    ///
    /// # Errors
    /// The connection breaks.
    pub(crate) async fn write(&mut self) -> io::Result<()> {
        match self.half.write_buf(&mut self.buffer).await? {
            0 if !self.buffer.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    /// Sends all of what was put, within so long.
    ///
    /// # Errors
    /// The connection breaks, or takes too little.
    pub(crate) async fn flush(&mut self, within: Duration) -> io::Result<()> {
        match timeout(within, self.half.write_all_buf(&mut self.buffer)).await {
            Ok(written) => written,
            Err(_elapsed) => Err(io::Error::other(format!("it took too little in {within:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::internal::v1::{RaftFrame, RaftHello};
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// Both ends of a connection, the second not yet accepted.
    async fn pair() -> (Option<Frames>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let accepted = async { listener.accept().await.expect("it comes").0 };
        let dialling = Frames::dial(Dialling::default(), &address);
        let answered = async {
            let stream = accepted.await;
            assert_eq!(is_spoken(&stream, SOON).await, Some(true));
            stream
        };
        // The preamble is answered here, since dialling waits for it.
        let answered = async {
            let mut stream = answered.await;
            let mut preamble = [0; PREAMBLE.len()];
            stream.read_exact(&mut preamble).await.expect("it was sent");
            stream.write_all(&PREAMBLE).await.expect("it is read");
            stream
        };
        let (dialled, stream) = tokio::join!(dialling, answered);
        (dialled.expect("it stands"), stream)
    }

    fn frame(from_store: u64, bytes: usize) -> RaftFrame {
        let cluster_id = vec![7; bytes].into();
        let hello = RaftHello { from_store, cluster_id, ..RaftHello::default() };
        RaftFrame { hello: Some(hello), ..RaftFrame::default() }
    }

    #[tokio::test]
    async fn frames_of_all_sizes_arrive_whole_and_in_order() {
        let (sender, receiver) = pair().await;
        let mut writer = sender.expect("it speaks frames").writer;
        let reader = Frames::new(receiver).trusted_on(&Handle::current());
        let mut reader = reader.expect("it runs").reader;
        let sizes = [0, 1, READ_BYTES - 4, READ_BYTES, 3 * READ_BYTES + 1, 5 << 20, 2];
        let sending = async {
            for (number, size) in (1..).zip(sizes) {
                writer.put(&frame(number, size));
            }
            writer.put(&RaftFrame::default());
            writer.flush(SOON).await.expect("it is read");
            drop(writer);
        };
        let receiving = async {
            for (number, size) in (1..).zip(sizes) {
                let bytes = reader.next().await.expect("it stands").expect("there is another");
                assert_eq!(RaftFrame::decode(bytes), Ok(frame(number, size)));
            }
            assert_eq!(reader.next().await.expect("it stands").as_deref(), Some(&[][..]));
            assert!(reader.next().await.expect("an orderly end").is_none());
        };
        tokio::join!(sending, receiving);
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_off_or_too_large_ends_the_connection() {
        let (sender, mut receiver) = pair().await;
        let mut reader = sender.expect("it speaks frames").reader;
        receiver.write_all(&[0, 0, 0, 9, 1, 2]).await.expect("it is read");
        drop(receiver);
        let why = reader.next().await.expect_err("seven bytes are missing");
        assert_eq!(why.kind(), io::ErrorKind::UnexpectedEof);

        let (sender, mut receiver) = pair().await;
        let mut reader = sender.expect("it speaks frames").reader;
        receiver.write_all(&[0xff; 4]).await.expect("it is read");
        let why = reader.next().await.expect_err("nobody reserves 4 GiB for it");
        assert!(why.to_string().contains("a frame of 4294967295 bytes"), "{why}");
    }

    #[tokio::test]
    async fn who_answers_otherwise_does_not_speak_frames() {
        // The first frame of an HTTP/2 server, and somebody who ends before a word.
        for (answer, speaks_otherwise) in [(&[0, 0, 24, 4, 0, 0, 0, 0, 0][..], true), (&[], false)]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            let address = listener.local_addr().expect("it is bound").to_string();
            let answering = async {
                let (mut stream, _) = listener.accept().await.expect("it comes");
                stream.write_all(answer).await.expect("it is read");
            };
            let dialling = Frames::dial(Dialling::default(), &address);
            let (dialled, ()) = tokio::join!(dialling, answering);
            match dialled {
                Ok(frames) => assert!(speaks_otherwise && frames.is_none(), "{answer:?}"),
                Err(why) => assert!(!speaks_otherwise, "{why}"),
            }
        }
    }

    #[tokio::test]
    async fn a_small_frame_that_is_kept_keeps_nothing_else() {
        let (sender, receiver) = pair().await;
        let mut writer = sender.expect("it speaks frames").writer;
        let mut reader = Frames::new(receiver).reader;
        for _ in 0..2 {
            writer.put(&frame(1, 100));
        }
        writer.flush(SOON).await.expect("it is read");
        let first = reader.next().await.expect("it stands").expect("there is another");
        let second = reader.next().await.expect("it stands").expect("there is another");
        assert!(first.is_unique() && second.is_unique());
    }
}
