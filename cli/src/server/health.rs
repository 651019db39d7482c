//! The lacks of a process, for `/readyz`: each is named, so that nobody has to guess.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// Says what is missing; `None`: nothing.
type Probe = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The parts that must be well for a process to be ready.
#[derive(Default)]
pub struct Health {
    parts: Vec<Part>,
    stopping: AtomicBool,
}

struct Part {
    role: &'static str,
    /// The words for a part that cannot be asked yet.
    starting: &'static str,
    probe: OnceLock<Probe>,
}

impl Health {
    /// Of a process with these parts; each says what it does until it has started.
    pub fn of(parts: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let part = |(role, starting)| Part { role, starting, probe: OnceLock::new() };
        Self { parts: parts.into_iter().map(part).collect(), stopping: AtomicBool::new(false) }
    }

    /// A part has started: `probe` says what it lacks.
    pub fn started(&self, role: &str, probe: impl Fn() -> Option<String> + Send + Sync + 'static) {
        let part = self.parts.iter().find(|part| part.role == role);
        let part = part.unwrap_or_else(|| unreachable!("{role} is no part of this process"));
        assert!(part.probe.set(Box::new(probe)).is_ok(), "{role} starts once");
    }

    /// From now on it is not ready, whatever its parts say.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// The lacks, a line each; empty when the process is ready.
    pub fn missing(&self) -> Vec<String> {
        if self.stopping.load(Ordering::Acquire) {
            return vec!["stopping".to_owned()];
        }
        let missing = |part: &Part| {
            let what = match part.probe.get() {
                Some(probe) => probe()?,
                None => part.starting.to_owned(),
            };
            Some(format!("{}: {what}", part.role))
        };
        self.parts.iter().filter_map(missing).collect()
    }

    /// Nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_missing_is_named_until_all_is_well() {
        let health = Health::of([("master", "opens its store"), ("gateway", "waits for data")]);
        assert_eq!(health.missing(), ["master: opens its store", "gateway: waits for data"]);
        let leads = Arc::new(AtomicBool::new(false));
        let seen = leads.clone();
        health.started("master", move || {
            (!seen.load(Ordering::Relaxed)).then(|| "no master leads".to_owned())
        });
        health.started("gateway", || None);
        assert_eq!(health.missing(), ["master: no master leads"]);
        leads.store(true, Ordering::Relaxed);
        assert!(health.is_ready());
        health.stop();
        assert_eq!(health.missing(), ["stopping"]);
    }
}
