//! Measures loopback: the time of one byte there and back over TCP, which no answer can be faster
//! than.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

const SAMPLES: usize = 2_000;

/// Round trips on a quiet machine.
pub async fn sample() -> io::Result<Vec<Duration>> {
    tokio::task::spawn_blocking(measure).await.expect("the closure does not panic")
}

#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn measure() -> io::Result<Vec<Duration>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        let mut byte = [0];
        // Ends when the other end is closed.
        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
    });
    let round_trip = |_| {
        let start = Instant::now();
        near.write_all(&[1])?;
        near.read_exact(&mut [0])?;
        Ok(start.elapsed())
    };
    let samples = (0..SAMPLES).map(round_trip).collect();
    drop(near);
    echo.join().expect("the echo does not panic");
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_byte_comes_back() {
        let samples = sample().await.expect("there is loopback");
        assert_eq!(samples.len(), SAMPLES);
        assert!(samples.iter().all(|sample| !sample.is_zero()));
    }
}
