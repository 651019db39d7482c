//! Measures the disk: the time to append 512 bytes and `fdatasync` them, which is what a durable
//! answer cannot be faster than.
//!
//! It is sampled often before and after the load, and sparsely during it, so that it says how the
//! disk did in this very run without taking part in it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Samples before, and again after, the load.
const IDLE_SAMPLES: usize = 200;
/// Between two of them. A thread that asks for more without a pause has no credit with the
/// scheduler: on a machine with other work it is given the processor a tick late, and 4 ms are
/// blamed on the disk.
const IDLE_INTERVAL: Duration = Duration::from_millis(2);
/// Between two samples during the load: 20 small writes a second beside thousands.
const LOADED_INTERVAL: Duration = Duration::from_millis(50);
/// About what a batch of lock commands weighs.
const SAMPLE_BYTES: usize = 512;

/// Samples a quiet disk.
pub async fn sample_idle(dir: PathBuf) -> io::Result<Vec<Duration>> {
    let sample = move || {
        let mut probe = Probe::create(&dir)?;
        let paced = |_| {
            thread::park_timeout(IDLE_INTERVAL);
            probe.sample()
        };
        (0..IDLE_SAMPLES).map(paced).collect()
    };
    tokio::task::spawn_blocking(sample).await.expect("the closure does not panic")
}

/// Samples while a load runs, from a thread of its own.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Sampler {
    /// Starts to sample in `dir`.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let mut probe = Probe::create(dir)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sample = move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                // A disk that fails now fails the server too; the report shows what there is.
                let Ok(sample) = probe.sample() else { break };
                samples.push(sample);
                thread::park_timeout(LOADED_INTERVAL);
            }
            samples
        };
        let thread = thread::Builder::new().name("fdatasync".into()).spawn(sample)?;
        Ok(Self { stop, thread })
    }

    /// The samples so far.
    pub fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().expect("the thread does not panic")
    }
}

/// A file to append to; removed when dropped.
#[derive(Debug)]
struct Probe {
    file: File,
    path: PathBuf,
}

impl Probe {
    fn create(dir: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".sharklock-bench-{}-{count}", process::id()));
        let file = File::options().append(true).create_new(true).open(&path)?;
        Ok(Self { file, path })
    }

    #[expect(clippy::disallowed_methods, reason = "it measures time")]
    fn sample(&mut self) -> io::Result<Duration> {
        let start = Instant::now();
        self.file.write_all(&[0x5a; SAMPLE_BYTES])?;
        self.file.sync_data()?;
        Ok(start.elapsed())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sampling_leaves_nothing_behind() {
        let dir = std::env::temp_dir().join(format!("sharklock-disk-test-{}", process::id()));
        fs::create_dir(&dir).expect("a fresh directory");
        let sampler = Sampler::start(&dir).expect("it can write there");
        let idle = sample_idle(dir.clone()).await.expect("it can write there");
        assert_eq!(idle.len(), IDLE_SAMPLES);
        assert!(!sampler.stop().is_empty());
        fs::remove_dir(&dir).expect("the directory is empty again");
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let sampled = sample_idle("/no/such/directory".into()).await;
        assert_eq!(sampled.expect_err("no directory").kind(), io::ErrorKind::NotFound);
    }
}
