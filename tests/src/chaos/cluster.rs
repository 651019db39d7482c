//! The containers of a run: those of `deploy/compose.yaml`, with what faults need put over it, and the clients
//! beside them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::fault::{Service, Topology};
use super::overlay::MEMORY;
use super::program::{MachineFault, finish, run};
use super::small_disk;

/// A start of all containers on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a container.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A stop hands over leaderships, and takes 25 s at most.
const STOP_SECONDS: &str = "30";

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The name of the Compose project, and of all that is made.
    pub project: String,
    /// The image of the servers.
    pub image: String,
    /// `deploy/compose.yaml`.
    pub compose_file: PathBuf,
    /// This program, for the containers of clients.
    pub program: PathBuf,
    /// Where everything of the run goes.
    pub dir: PathBuf,
    /// A library that makes syncs slow or fail (`tests/shim`), if it could be built.
    pub sync_shim: Option<PathBuf>,
    /// Debian's libfaketime, if it is there.
    pub faketime: Option<PathBuf>,
    /// The build under test and another one, for a rolling change.
    pub builds: Option<[PathBuf; 2]>,
}

/// The containers, while they are there. [`Cluster::down`] removes them.
#[derive(Debug)]
pub struct Cluster {
    parts: Parts,
    topology: Topology,
    has_compose_v2: bool,
    containers: BTreeMap<Service, String>,
    /// Servers that were started beside those of the Compose file.
    started: u32,
}

impl Cluster {
    /// None of it runs yet.
    pub async fn new(parts: Parts, topology: Topology) -> Self {
        let has_compose_v2 = run("docker", ["compose", "version"]).await.is_ok();
        Self { parts, topology, has_compose_v2, containers: BTreeMap::new(), started: 0 }
    }

    /// Removes what a run before has left, starts all servers, and waits until they are ready.
    pub async fn up(&mut self) -> Result<()> {
        self.down().await?;
        self.start_servers().await
    }

    async fn start_servers(&mut self) -> Result<()> {
        self.prepare().await?;
        self.compose(&["up", "--detach"]).await?;
        for service in self.topology.servers() {
            let filter = format!("label=com.docker.compose.service={service}");
            let id = self.listed("ps", &["--all", "--filter", &filter]).await?;
            ensure!(id.len() == 1, "{service}: {} containers", id.len());
            self.containers.insert(service, id[0].clone());
        }
        for service in self.topology.servers() {
            self.until_ready(&service, START_MAX).await?;
        }
        Ok(())
    }

    /// Ends and removes everything that bears the project's name, this run's and any other's.
    pub async fn down(&self) -> Result<()> {
        let removed = self.remove_all().await;
        // Containers that could not be removed are no reason to leave the disks.
        let unmounted = small_disk::unmount_all(&self.parts.project).await;
        removed.and(unmounted)
    }

    async fn remove_all(&self) -> Result<()> {
        let own = format!("label=sharklock.chaos={}", self.parts.project);
        for filter in [own, self.project_filter()] {
            let ids = self.ids("ps", &["--all", "--filter", &filter]).await?;
            if !ids.is_empty() {
                let words = ["rm", "--force", "--volumes"].map(str::to_owned);
                run("docker", words.into_iter().chain(ids)).await?;
            }
        }
        for what in ["volume", "network"] {
            for name in self.listed(what, &["ls"]).await? {
                run("docker", [what, "rm", &name]).await?;
            }
        }
        Ok(())
    }

    /// Its servers and clients.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where everything of the run goes.
    pub fn dir(&self) -> &Path {
        &self.parts.dir
    }

    /// What it was made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The mount point of the disk that may be full.
    pub fn small_disk(&self) -> PathBuf {
        self.parts.dir.join("small-disk")
    }

    /// The data server whose disk that is.
    pub fn on_small_disk(topology: &Topology) -> &Service {
        topology.data.last().expect("there are data servers")
    }

    /// The directory that a container sees as `/chaos`.
    pub fn orders_of(&self, service: &Service) -> PathBuf {
        self.parts.dir.join("orders").join(&service.0)
    }

    async fn compose(&self, args: &[&str]) -> Result<String> {
        let mut command = match self.has_compose_v2 {
            true => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            false => Command::new("docker-compose"),
        };
        command
            .args(["--project-name", &self.parts.project, "--file"])
            .arg(&self.parts.compose_file);
        command.arg("--file").arg(self.parts.dir.join("compose.chaos.yaml")).args(args);
        command.env("SHARKLOCK_IMAGE", &self.parts.image).env("SHARKLOCK_NAME", "chaos");
        // Ports of their own, beside those of `make up` and of `dev`.
        for (variable, port) in [
            ("SHARKLOCK_PORT_1", "27700"),
            ("SHARKLOCK_PORT_2", "27800"),
            ("SHARKLOCK_ADMIN_PORT_1", "27790"),
            ("SHARKLOCK_ADMIN_PORT_2", "27890"),
        ] {
            command.env(variable, port);
        }
        finish(command, None).await
    }

    fn project_filter(&self) -> String {
        format!("label=com.docker.compose.project={}", self.parts.project)
    }

    async fn listed(&self, what: &str, args: &[&str]) -> Result<Vec<String>> {
        let filter = self.project_filter();
        self.ids(what, &[args, &["--filter", &filter]].concat()).await
    }

    async fn ids(&self, what: &str, args: &[&str]) -> Result<Vec<String>> {
        let listed = run("docker", [&[what], args, &["--quiet"]].concat()).await?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Starts a container of clients: this program with these arguments.
    pub async fn start_client(&mut self, service: &Service, args: &[&str]) -> Result<()> {
        let project = &self.parts.project;
        let label = format!("sharklock.chaos={project}");
        let (name, network) = (format!("{project}-{service}"), format!("{project}_cluster"));
        let mounts = [
            format!("{}:/sharklock-chaos:ro", self.parts.program.display()),
            format!("{}:/out", self.parts.dir.join("histories").display()),
        ];
        let words = [
            "run",
            "--detach",
            "--name",
            &name,
            "--hostname",
            &service.0,
            "--network",
            &network,
            "--network-alias",
            &service.0,
            "--label",
            &label,
            "--user",
            "0:0",
            "--no-healthcheck",
            "--volume",
            &mounts[0],
            "--volume",
            &mounts[1],
            "--env",
            "SHARKLOCK_ENDPOINTS=http://gateway-1:7700,http://gateway-2:7700",
            "--entrypoint",
            "/sharklock-chaos",
            &self.parts.image,
        ];
        let id = run("docker", [&words[..], args].concat()).await?;
        self.containers.insert(service.clone(), id.trim().to_owned());
        Ok(())
    }

    /// Removes a server with its disk, and starts another in its place, with these settings instead of
    /// its own, reached as `alias`.
    pub async fn replace(
        &mut self,
        service: &Service,
        alias: &str,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let environment = self.environment(service).await?;
        self.remove(service).await?;
        self.start_server(service, alias, environment, settings).await
    }

    /// Starts one more server with the settings of another, but for these.
    pub async fn add_like(
        &mut self,
        service: &Service,
        like: &Service,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let environment = self.environment(like).await?;
        let orders = self.orders_of(service);
        std::fs::create_dir_all(&orders)?;
        for entry in std::fs::read_dir(self.orders_of(like))? {
            let entry = entry?;
            std::fs::copy(entry.path(), orders.join(entry.file_name()))?;
        }
        self.start_server(service, &service.0, environment, settings).await
    }

    /// Removes a container for good, with its disk; its log stays.
    pub async fn remove(&mut self, service: &Service) -> Result<()> {
        let id: String = self.container(service).chars().take(12).collect();
        self.keep_log(service, &format!("{service}-until-removed-{id}")).await?;
        let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
        let volumes = self.inspect(service, format).await?;
        self.docker(&["rm", "--force"], service).await?;
        self.containers.remove(service);
        for volume in volumes.split_whitespace() {
            run("docker", ["volume", "rm", volume]).await?;
        }
        Ok(())
    }

    async fn environment(&self, service: &Service) -> Result<Vec<String>> {
        let told = self.inspect(service, "{{json .Config.Env}}").await?;
        Ok(serde_json::from_str(&told)?)
    }

    async fn start_server(
        &mut self,
        service: &Service,
        alias: &str,
        environment: Vec<String>,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let project = self.parts.project.clone();
        let label = format!("sharklock.chaos={project}");
        let compose = format!("com.docker.compose.project={project}");
        let disk = format!("{project}_{alias}-{}", self.started);
        self.started += 1;
        run("docker", ["volume", "create", "--label", &compose, &disk]).await?;
        let mut words: Vec<String> =
            ["run", "--detach", "--restart", "on-failure:5", "--read-only", "--no-healthcheck"]
                .map(str::to_owned)
                .to_vec();
        for (option, value) in [
            ("--network", format!("{project}_cluster")),
            ("--network-alias", alias.to_owned()),
            ("--label", label),
            ("--memory", MEMORY.to_owned()),
            ("--volume", format!("{disk}:/var/lib/sharklock")),
            ("--volume", format!("{}:/chaos:ro", self.orders_of(service).display())),
        ] {
            words.extend([option.to_owned(), value]);
        }
        let is_set =
            |it: &String| settings.iter().any(|(name, _)| it.starts_with(&format!("{name}=")));
        let kept = environment.into_iter().filter(|it| !is_set(it));
        let set = settings.iter().map(|(name, value)| format!("{name}={value}"));
        for variable in kept.chain(set) {
            words.extend(["--env".to_owned(), variable]);
        }
        let mut rest = vec![self.parts.image.as_str()];
        if self.parts.builds.is_some() {
            // `docker run` takes one word, and the rest as arguments.
            let entrypoint = self.entrypoint(service);
            words.extend(["--entrypoint", entrypoint[0]].map(str::to_owned));
            rest.extend(&entrypoint[1..]);
        }
        rest.push("server");
        words.extend(rest.into_iter().map(str::to_owned));
        let id = run("docker", words).await?;
        self.containers.insert(service.clone(), id.trim().to_owned());
        Ok(())
    }

    /// Runs `sharklock` with these arguments in a container of its own: its output.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let network = format!("{}_cluster", self.parts.project);
        let label = format!("sharklock.chaos={}", self.parts.project);
        let words = [
            "run",
            "--rm",
            "--network",
            &network,
            "--label",
            &label,
            "--no-healthcheck",
            "--env",
            "SHARKLOCK_ENDPOINTS=http://gateway-1:7700,http://gateway-2:7700",
            &self.parts.image,
        ];
        let ran = run("docker", [&words[..], args].concat()).await;
        ran.map_err(|why| match MachineFault::of(&why).and_then(|fault| fault.code) {
            // Codes of `docker run` itself; all others are the command's: the cluster has refused.
            Some(125..=127) | None => why,
            Some(_) => anyhow!("{why:#}"),
        })
    }

    /// The container of a service.
    pub fn container(&self, service: &Service) -> &str {
        self.containers.get(service).map_or("", String::as_str)
    }

    /// A command of Docker about one container, which comes last.
    pub async fn docker(&self, args: &[&str], service: &Service) -> Result<String> {
        let id = self.container(service);
        run("docker", [args, &[id]].concat()).await.with_context(|| service.0.clone())
    }

    /// What `docker inspect --format` says of a container.
    pub async fn inspect(&self, service: &Service, format: &str) -> Result<String> {
        Ok(self.docker(&["inspect", "--format", format], service).await?.trim().to_owned())
    }

    /// The first process of a container.
    pub async fn pid(&self, service: &Service) -> Result<String> {
        let pid = self.inspect(service, "{{.State.Pid}}").await?;
        ensure!(pid != "0", "{service} does not run");
        Ok(pid)
    }

    /// Its address on the network of the cluster.
    pub async fn address(&self, service: &Service) -> Result<Ipv4Addr> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = self.inspect(service, format).await?;
        address.parse().with_context(|| format!("{service} has the address {address:?}"))
    }

    /// Whether it has a process: one that waits for its next try has none.
    pub async fn runs(&self, service: &Service) -> Result<bool> {
        let status = self.inspect(service, "{{.State.Status}}").await?;
        Ok(["running", "paused"].contains(&status.as_str()))
    }

    /// Kills it as a crash would.
    pub async fn kill(&self, service: &Service) -> Result<()> {
        match self.docker(&["kill", "--signal", "KILL"], service).await {
            // It may have ended by itself, which is as good.
            Err(why) if self.runs(service).await? => Err(why),
            _ => Ok(()),
        }
    }

    /// Starts it again; nothing where it runs.
    pub async fn start(&self, service: &Service) -> Result<()> {
        // Docker takes one that waits for its next try for one that runs, and that try may be the last.
        if self.inspect(service, "{{.State.Status}}").await? == "restarting" {
            self.docker(&["stop", "--time", "1"], service).await?;
        }
        self.docker(&["start"], service).await.map(|_| ())
    }

    /// Ends it in order.
    pub async fn stop(&self, service: &Service) -> Result<()> {
        self.docker(&["stop", "--time", STOP_SECONDS], service).await.map(|_| ())
    }

    /// Runs a program in the network namespace of a container, with this input.
    pub async fn in_network(
        &self,
        service: &Service,
        args: &[&str],
        input: Option<&str>,
    ) -> Result<String> {
        let pid = self.pid(service).await?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--net"]).args(args);
        finish(command, input).await
    }

    /// Waits until a server says that it is ready. One that ends meanwhile is started again: it may have
    /// begun when the damage was not mended yet.
    pub async fn until_ready(&self, service: &Service, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let asked = self.ready(service).await;
            if asked.as_ref().is_ok_and(|ready| *ready) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let said = self.docker(&["logs", "--tail", "3"], service).await.unwrap_or_default();
                bail!("{service} is not ready after {within:?}: {asked:?}\n{said}");
            }
            if self.inspect(service, "{{.State.Status}}").await? == "exited" {
                self.start(service).await?;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether its `/readyz` says so.
    pub async fn ready(&self, service: &Service) -> Result<bool> {
        let admin = format!("{}:7790", self.address(service).await?);
        let asked = crate::server::get(&admin, "/readyz");
        let (status, _) = tokio::time::timeout(Duration::from_secs(2), asked).await??;
        Ok(status == 200)
    }

    /// Keeps the logs of all containers in the directory of the run.
    pub async fn keep_logs(&self) -> Result<()> {
        for service in self.containers.keys() {
            self.keep_log(service, &service.0).await?;
        }
        Ok(())
    }

    async fn keep_log(&self, service: &Service, name: &str) -> Result<()> {
        let logs = self.parts.dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        let file = std::fs::File::create(logs.join(format!("{name}.log")))?;
        let mut command = Command::new("docker");
        command.args(["logs", "--timestamps", self.container(service)]).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file).status().await?;
        Ok(())
    }
}
