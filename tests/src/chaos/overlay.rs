//! What faults need put over `deploy/compose.yaml`: libraries in front of the C library, a small disk, and
//! builds that can be exchanged.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::cluster::{Cluster, Parts};
use super::fault::{Kind, Service};
use super::program::run;
use super::small_disk;

/// What `deploy/compose.yaml` gives a data server.
pub const MEMORY: &str = "512m";

impl Parts {
    /// Whether this machine has what a kind of fault needs.
    pub fn can_do(&self, kind: Kind) -> bool {
        match kind {
            Kind::SlowDisk | Kind::SyncError => self.sync_shim.is_some(),
            Kind::Clock => self.faketime.is_some(),
            Kind::RollingChange => self.builds.is_some(),
            _ => true,
        }
    }
}

impl Cluster {
    /// Makes what containers find at `/chaos`, the small disk, and the file that says so.
    pub(super) async fn prepare(&self) -> Result<()> {
        let disk = self.small_disk();
        small_disk::mount(&self.parts().project, &disk).await?;
        std::fs::create_dir_all(disk.join("data"))?;
        run("chown", ["7700:7700", &disk.join("data").to_string_lossy()]).await?;
        for service in self.topology().servers() {
            let orders = self.orders_of(&service);
            std::fs::create_dir_all(&orders)?;
            std::fs::set_permissions(&orders, Permissions::from_mode(0o755))?;
            self.order(&service, "sync", "")?;
            self.order(&service, "faketime", "+0")?;
            let libraries =
                [(&self.parts().sync_shim, "sync.so"), (&self.parts().faketime, "faketime.so")];
            for (library, name) in libraries {
                if let Some(library) = library {
                    copy_for_all(library, &orders.join(name))?;
                }
            }
            if let Some([build, _]) = &self.parts().builds {
                copy_for_all(build, &orders.join("sharklock"))?;
            }
        }
        std::fs::write(self.parts().dir.join("compose.chaos.yaml"), self.overlay())?;
        Ok(())
    }

    /// What faults need of the Compose file: libraries in front of the C library, a small disk, and builds
    /// that can be exchanged. YAML reads JSON as it is.
    fn overlay(&self) -> String {
        let services = self.topology().servers().into_iter().map(|service| {
            let clock = self.topology().clocks().contains(&service);
            let preloaded = [
                self.parts().sync_shim.is_some().then_some("/chaos/sync.so"),
                (self.parts().faketime.is_some() && clock).then_some("/chaos/faketime.so"),
            ];
            let preloaded: Vec<&str> = preloaded.into_iter().flatten().collect();
            let mut volumes = vec![format!("{}:/chaos:ro", self.orders_of(&service).display())];
            if service == *Self::on_small_disk(self.topology()) {
                volumes.push(format!(
                    "{}:/var/lib/sharklock",
                    self.small_disk().join("data").display()
                ));
            }
            let mut overlay = serde_json::json!({
                "volumes": volumes,
                // A start of a process every five seconds in each would be a load of its own.
                "healthcheck": { "disable": true },
                "environment": {
                    "LD_PRELOAD": preloaded.join(" "),
                    "SHARKLOCK_SHIM": "/chaos/sync",
                    "FAKETIME_TIMESTAMP_FILE": "/chaos/faketime",
                    "FAKETIME_CACHE_DURATION": "1",
                    "DONT_FAKE_MONOTONIC": "1",
                },
            });
            if service == *Self::on_small_disk(self.topology()) {
                overlay["mem_limit"] = serde_json::json!(self.memory_of(&service));
            }
            if self.parts().builds.is_some() {
                // Without the image's entry point Compose leaves out its command, too.
                overlay["entrypoint"] = serde_json::json!(self.entrypoint(&service));
                overlay["command"] = serde_json::json!(["server"]);
            }
            (service.0, overlay)
        });
        let services: serde_json::Map<String, serde_json::Value> = services.collect();
        serde_json::json!({ "services": services }).to_string()
    }

    /// How a container starts a build that may be exchanged. Builds from before the image are to start, too:
    /// they do not know its setting about volumes, and keep a directory for every role.
    pub(super) fn entrypoint(&self, service: &Service) -> Vec<&'static str> {
        let mut words = vec!["/usr/bin/env", "--unset=SHARKLOCK_SERVER__DATA_ON_VOLUME"];
        if self.topology().gateways.contains(service) {
            words.push("--unset=SHARKLOCK_SERVER__DATA_DIR");
        }
        words.push("/chaos/sharklock");
        words
    }

    /// Writes an order that a library in the container reads.
    pub(super) fn order(&self, service: &Service, file: &str, order: &str) -> Result<()> {
        let path = self.orders_of(service).join(file);
        std::fs::write(&path, order).with_context(|| service.0.clone())?;
        Ok(std::fs::set_permissions(path, Permissions::from_mode(0o644))?)
    }

    /// Puts a build in the place of another: the next start of the container takes it.
    pub(super) fn exchange_build(&self, service: &Service, build: &Path) -> Result<()> {
        let place = self.orders_of(service);
        copy_for_all(build, &place.join("sharklock.new"))?;
        Ok(std::fs::rename(place.join("sharklock.new"), place.join("sharklock"))?)
    }

    /// The memory of a data server, as Docker writes it. What is in the small disk counts as its server's.
    pub(super) fn memory_of(&self, service: &Service) -> &'static str {
        if service == Self::on_small_disk(self.topology()) { "1112m" } else { MEMORY }
    }
}

/// Copies a file so that the user in a container may read and run it, whatever this one's umask is.
fn copy_for_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(std::fs::set_permissions(to, Permissions::from_mode(0o755))?)
}
