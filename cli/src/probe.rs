//! Asks nodes' admin ports whether they are ready.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

/// A node that does not answer within this does not answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Longest answer that is read: what a node lacks is a few lines.
const ANSWER_BYTES_MAX: u64 = 8 << 10;
/// How often a node is asked while it starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The words of a node about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It lives, and lacks this.
    Lacks(String),
    /// It does not answer.
    Silent,
}

/// Asks once.
pub async fn readiness(admin: SocketAddr) -> Readiness {
    match timeout(ANSWER_WITHIN, get(admin, "/readyz", ANSWER_BYTES_MAX)).await {
        Ok(Ok((200, _))) => Readiness::Ready,
        Ok(Ok((_, body))) => {
            let lacks: Vec<&str> = body.lines().filter(|line| *line != "not ready").collect();
            Readiness::Lacks(lacks.join("; "))
        }
        Ok(Err(_)) | Err(_) => Readiness::Silent,
    }
}

/// Asks until it is ready.
pub async fn until_ready(admin: SocketAddr) {
    while readiness(admin).await != Readiness::Ready {
        sleep(LOOK_EVERY).await;
    }
}

/// GET: status, and the body as far as its first bytes may be so many. HTTP 1.0 has no chunks.
pub async fn get(admin: SocketAddr, path: &str, bytes_max: u64) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(bytes_max).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("not HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answered_with(answer: &'static str) -> Readiness {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.expect("it reads");
            stream.write_all(answer.as_bytes()).await.expect("it writes");
        });
        let seen = readiness(address).await;
        serving.await.expect("no panic");
        seen
    }

    #[tokio::test]
    async fn what_a_node_says_is_understood() {
        let ready = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
        assert_eq!(answered_with(ready).await, Readiness::Ready);
        let lacks = "HTTP/1.1 503 Service Unavailable\r\n\r\nnot ready\nmaster: a\ngateway: b\n";
        assert_eq!(answered_with(lacks).await, Readiness::Lacks("master: a; gateway: b".into()));
        assert_eq!(answered_with("nonsense").await, Readiness::Silent);
        let nobody = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(readiness(nobody).await, Readiness::Silent);
    }
}
