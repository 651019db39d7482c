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
    /// Says what is not well although nothing is missing.
    remark: OnceLock<Probe>,
}

impl Health {
    /// Of a process with these parts; each says what it does until it has started.
    pub fn of(parts: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let part = |(role, starting)| {
            let (probe, remark) = (OnceLock::new(), OnceLock::new());
            Part { role, starting, probe, remark }
        };
        Self { parts: parts.into_iter().map(part).collect(), stopping: AtomicBool::new(false) }
    }

    /// A part has started: `probe` says what it lacks.
    pub fn started(&self, role: &str, probe: impl Fn() -> Option<String> + Send + Sync + 'static) {
        assert!(self.part(role).probe.set(Box::new(probe)).is_ok(), "{role} starts once");
    }

    /// A part has something to say beside what it lacks: it does not make the process unready.
    pub fn remarked(
        &self,
        role: &str,
        remark: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        assert!(self.part(role).remark.set(Box::new(remark)).is_ok(), "{role} starts once");
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

    /// Things that are not well although they are not missing, a line each.
    pub fn remarks(&self) -> Vec<String> {
        let remark = |part: &Part| Some(format!("{}: {}", part.role, part.remark.get()?()?));
        self.parts.iter().filter_map(remark).collect()
    }

    fn part(&self, role: &str) -> &Part {
        let part = self.parts.iter().find(|part| part.role == role);
        part.unwrap_or_else(|| unreachable!("{role} is no part of this process"))
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
        health.remarked("gateway", || Some("range 7 has no leader".to_owned()));
        assert_eq!(health.missing(), ["master: no master leads"]);
        leads.store(true, Ordering::Relaxed);
        assert!(health.is_ready(), "whatever is remarked");
        assert_eq!(health.remarks(), ["gateway: range 7 has no leader"]);
        health.stop();
        assert_eq!(health.missing(), ["stopping"]);
    }
}
