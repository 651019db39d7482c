//! The counters of servers (`/metrics`), of this machine's loopback, and of processes' writes.

use std::{collections::BTreeMap, fs};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The metrics of some servers, added up: each by its name and labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks these admin addresses.
    pub async fn of(admins: &[String]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for admin in admins {
            all.add(&get(admin, "/metrics").await?);
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((metric, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            *self.0.entry(metric.to_owned()).or_default() += value;
        }
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let since = |(metric, now): (&String, &f64)| {
            (metric.clone(), now - before.0.get(metric).copied().unwrap_or_default())
        };
        Self(self.0.iter().map(since).collect())
    }

    /// A metric without labels; 0 when there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The median of a histogram in its unit, as far as its buckets tell; none when it is empty.
    pub fn median(&self, histogram: &str) -> Option<f64> {
        let begin = format!("{histogram}_bucket{{le=\"");
        let bucket = |(metric, count): (&String, &f64)| {
            let bound = metric.strip_prefix(&begin)?.strip_suffix("\"}")?;
            Some((bound.parse::<f64>().ok()?, *count))
        };
        let mut buckets: Vec<(f64, f64)> = self.0.iter().filter_map(bucket).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let half = buckets.last().map(|(_, all)| all / 2.0).filter(|half| *half > 0.0)?;
        let (mut from, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= half {
                let share = (half - below) / (count - below);
                return Some(if bound.is_finite() { from + (bound - from) * share } else { from });
            }
            (from, below) = (bound, count);
        }
        None
    }
}

/// The body of an answer.
pub async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("it is no HTTP")?;
        let is_ok = head.split(' ').nth(1) == Some("200");
        anyhow::ensure!(is_ok, "{}", head.lines().next().unwrap_or_default());
        Ok(body.to_owned())
    };
    ask.await.with_context(|| format!("http://{address}{path}"))
}

/// What went over the loopback of this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loopback {
    /// Bytes of all packets.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Loopback {
    /// So far.
    pub fn now() -> anyhow::Result<Self> {
        const PATH: &str = "/proc/net/dev";
        Self::read(&fs::read_to_string(PATH)?).with_context(|| format!("{PATH} has no lo"))
    }

    fn read(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"))?;
        let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
        Some(Self { bytes: numbers.next()??, packets: numbers.next()?? })
    }
}

/// Bytes that these processes have had written to disks.
pub fn written(processes: &[u32]) -> anyhow::Result<u64> {
    let mut all = 0;
    for process in processes {
        let path = format!("/proc/{process}/io");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        let bytes = bytes.and_then(|bytes| bytes.parse::<u64>().ok());
        all += bytes.with_context(|| format!("{path} has no write_bytes"))?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total Things.\na_total 3\nb_seconds_bucket{le=\"0.001\"} 2\n\
                        b_seconds_bucket{le=\"0.002\"} 8\nb_seconds_bucket{le=\"+Inf\"} 10\n\
                        b_seconds_sum 0.5\nb_seconds_count 10\n";

    #[test]
    fn metrics_of_all_servers_are_added_up() {
        let mut all = Metrics::default();
        all.add(TEXT);
        let before = all.clone();
        all.add(TEXT);
        assert_eq!((all.get("a_total"), all.get("nothing")), (6.0, 0.0));
        assert_eq!(all.since(&before), before);
    }

    #[test]
    fn a_median_lies_in_its_bucket() {
        let mut metrics = Metrics::default();
        metrics.add(TEXT);
        assert_eq!(metrics.median("b_seconds"), Some(0.0015));
        assert_eq!(metrics.median("c_seconds"), None);
        metrics.add("b_seconds_bucket{le=\"+Inf\"} 90");
        assert_eq!(metrics.median("b_seconds"), Some(0.002), "it is longer than the last bound");
    }

    #[test]
    fn loopback_is_found_among_the_interfaces() {
        let text =
            "Inter-|   Receive\n face |bytes    packets errs\n  eth0: 5 6 0\n    lo: 70 8 0 0\n";
        assert_eq!(Loopback::read(text), Some(Loopback { bytes: 70, packets: 8 }));
        assert_eq!(Loopback::read("eth0: 1 2"), None);
        Loopback::now().expect("every machine has a loopback");
    }

    #[test]
    fn writes_of_a_process_are_known() {
        written(&[std::process::id()]).expect("this process is there");
        written(&[u32::MAX]).expect_err("nobody has this id");
    }
}
