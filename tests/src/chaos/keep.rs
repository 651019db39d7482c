//! Holds that outlive their process: a client of one life after the other, each of which is a process that kills
//! itself while it holds, and whose next life takes the hold back by its state file.

use std::fs;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use sharklock_client::{Client, ReclaimError};
use sharklock_history::{History, Journal, read};
use tokio::process::Command;
use tokio::time::sleep;

use crate::wait::now;
use crate::witness::{Held, Want, Witness};

/// The lease: what a next life waits for, at the longest.
const LEASE: Duration = Duration::from_secs(3);
/// The longest that a life waits for the lock.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of all lives, this share ends by SIGKILL.
const KILLED: f64 = 0.7;
/// What an orderly end may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// One life, in its own process.
#[derive(Clone, Debug, clap::Args)]
pub struct Life {
    /// What outlives it
    #[arg(long)]
    pub state_file: PathBuf,
    /// The lock
    #[arg(long)]
    pub name: String,
    /// Its label in the history
    #[arg(long)]
    pub session: u32,
}

impl Life {
    /// Lives: takes the hold of the life before back, or acquires the lock, and writes what it saw to the
    /// standard output before it kills itself or ends in order.
    ///
    /// # Errors
    /// When a hold that was kept is gone, or its history cannot be written.
    pub async fn live(self) -> Result<()> {
        let client = Client::builder().endpoints_from_env()?.identity("kept");
        let client = client.ttl(LEASE).state_file(&self.state_file).build()?;
        let mut witness = Witness::labelled(client.clone(), self.session);
        let Some(held) = self.hold(&mut witness).await? else { return leave(&mut witness) };
        let (is_killed, long) = {
            let mut rng = rand::rng();
            (rng.random_bool(KILLED), Duration::from_millis(rng.random_range(0..300)))
        };
        sleep(long).await;
        if is_killed {
            witness.abandon(held);
            leave(&mut witness)?;
            // Nothing comes after it.
            return Ok(nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?);
        }
        // From here on the hold may be gone, whether or not the answer comes.
        fs::write(self.asked_file(), "")?;
        if witness.release(held).await.is_ok() {
            self.forget_asked()?;
        }
        client.close(CLOSE_MAX).await;
        leave(&mut witness)
    }

    /// It is there while the release of the hold in the state file was asked for and not confirmed.
    fn asked_file(&self) -> PathBuf {
        self.state_file.with_extension("asked")
    }

    /// The next hold is one whose release nobody has asked for.
    fn forget_asked(&self) -> Result<()> {
        if fs::exists(self.asked_file())? {
            fs::remove_file(self.asked_file())?;
        }
        Ok(())
    }

    /// The hold of the life before, or a new one; none where the cluster is out of reach.
    async fn hold(&self, witness: &mut Witness) -> Result<Option<Held>> {
        let want = Want::exclusive(&self.name).ttl(LEASE).within(PATIENCE);
        let kept = witness.client().unreclaimed().iter().any(|it| it.token.is_some());
        let invoked = now();
        if let Some(one) = witness.client().clone().reclaim_all().await.into_iter().next() {
            return match one.result {
                Ok(guard) => {
                    // If a release was asked for, it never came there.
                    self.forget_asked()?;
                    Ok(Some(witness.adopt(guard, &want, invoked)))
                }
                // The release came there, and its answer did not come back.
                Err(ReclaimError::Gone { .. }) if fs::exists(self.asked_file())? => {
                    self.forget_asked()?;
                    Ok(None)
                }
                Err(why @ ReclaimError::Gone { .. }) => bail!("a kept hold is gone: {why}"),
                // The next life tries again.
                Err(_) => Ok(None),
            };
        }
        ensure!(!kept, "the state file has a hold, and nothing was taken back");
        self.forget_asked()?;
        Ok(witness.acquire_with(&want, |lock| lock.hold()).await.ok())
    }
}

/// Writes down what was seen.
fn leave(witness: &mut Witness) -> Result<()> {
    let mut journal = Journal::begin(stdout().lock())?;
    journal.append(&witness.take_notes())?;
    journal.flush()?;
    Ok(stdout().flush()?)
}

/// Runs one life of this program to its end: what it saw.
///
/// # Errors
/// When it says that something is wrong.
pub async fn one_life(life: &Life) -> Result<History> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("keep").arg("--state-file").arg(&life.state_file).arg("--name").arg(&life.name);
    command.arg("--session").arg(life.session.to_string());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.context("a life")?;
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(killed || output.status.success(), "{}: {}", output.status, said.trim());
    Ok(read(&output.stdout[..])?)
}

/// The state file of a client, in its container.
pub fn state_file(label: &str, number: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{label}-{number}.state"))
}
