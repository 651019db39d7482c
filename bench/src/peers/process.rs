//! Servers that are started here: on free ports, with their output in a file, never left behind.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

/// How long a system may take until it serves: three JVMs on two busy cores.
const START_MAX: Duration = Duration::from_secs(90);
/// Between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of a log, in an error.
const LINES_TOLD_MAX: usize = 8;

/// A child. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with its output in the file `log`.
    ///
    /// It is a process group of its own, so that a Ctrl-C in the terminal ends the run in order, and
    /// the kernel kills it should this process die without a word (`setpriv --pdeathsig`, which
    /// then becomes the program: the id stays). That is tied to the thread that starts it, so it
    /// is started from the main one only.
    pub fn spawn<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = File::create(&log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args(args);
        for (name, _) in std::env::vars_os() {
            // The default is measured, not the settings of the person who measures.
            if ["SHARKLOCK_", "ETCD_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
                command.env_remove(name);
            }
        }
        command.process_group(0).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.as_ref().to_string_lossy()))?;
        Ok(Self { child, log })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES_TOLD_MAX)..].join("\n");
        anyhow::bail!("a server ended by itself, {status}:\n{last}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Tries until it succeeds, a process ends, or the time for a start is over.
pub async fn until<T>(
    what: &str,
    processes: &mut [Process],
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + START_MAX;
    loop {
        let tried = tokio::time::timeout_at(deadline, attempt()).await;
        let why = match tried {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => why,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        processes.iter_mut().try_for_each(Process::check)?;
        if tokio::time::Instant::now() >= deadline {
            return Err(why.context(format!("{what} does not serve within {START_MAX:?}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// So many ports that nobody uses now.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // All are held until all are known, so that they differ.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// Makes a directory and returns its path as text, for a command line.
pub fn directory(parent: &Path, name: &str) -> anyhow::Result<String> {
    let path = parent.join(name);
    fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{path:?} is not Unicode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let mut ports = free_ports::<12>().expect("there are free ports").to_vec();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 12);
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server =
            [Process::spawn("sh", ["-c", "echo no such option; exit 3"], dir.path().join("log"))
                .expect("there is a shell")];
        let never = async || -> anyhow::Result<()> { anyhow::bail!("not yet") };
        let told = until("it", &mut server, never).await.expect_err("it ends").to_string();
        assert!(told.contains("exit status: 3") && told.contains("no such option"), "{told}");
    }

    #[test]
    fn what_is_dropped_is_dead() {
        let dir = tempfile::tempdir().expect("a directory");
        let server =
            Process::spawn("sleep", ["1000"], dir.path().join("log")).expect("there is sleep");
        let pid = nix::unistd::Pid::from_raw(server.child.id().cast_signed());
        assert!(nix::sys::signal::kill(pid, None).is_ok());
        drop(server);
        assert!(nix::sys::signal::kill(pid, None).is_err());
    }
}
