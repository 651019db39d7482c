//! Containers that cannot start as they are told, and a cluster of them: needs Docker, and an image of the
//! binary under test (`SHARKLOCK_IMAGE`, which `.ci/run` builds). Left out aloud without.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sharklock_tests::wait::eventually;
use tempfile::TempDir;

use crate::alone;

/// Six starts with pauses that double from 100 ms, on a busy machine.
const SOON: Duration = Duration::from_secs(120);

fn image() -> Option<String> {
    let image = std::env::var("SHARKLOCK_IMAGE").ok();
    if image.is_none() {
        println!(
            "left out: SHARKLOCK_IMAGE names no image; `.ci/run` installs Docker and builds one"
        );
    }
    image
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    format!("{out}{err}")
}

/// A project of Compose, which goes with this value.
struct Project {
    name: &'static str,
    dir: TempDir,
}

impl Project {
    fn up(name: &'static str, file: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        // Containers look into it as a user of their own.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("it is ours");
        std::fs::write(dir.path().join("compose.yaml"), file).expect("it is ours");
        let project = Self { name, dir };
        project.compose(&["down", "--volumes"]);
        project
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn compose(&self, args: &[&str]) -> String {
        let v2 = Command::new("docker").args(["compose", "version"]).output();
        let mut compose = match v2.is_ok_and(|it| it.status.success()) {
            true => {
                let mut compose = Command::new("docker");
                compose.arg("compose");
                compose
            }
            false => Command::new("docker-compose"),
        };
        compose.args(["--project-name", self.name, "--file"]);
        run(compose.arg(self.path().join("compose.yaml")).args(args))
    }

    /// A container's state, in the words of `docker inspect --format`.
    fn state(&self, service: &str, format: &str) -> String {
        let id = self.compose(&["ps", "--all", "--quiet", service]);
        let id = id.lines().next().unwrap_or_default().to_owned();
        run(Command::new("docker").args(["inspect", "--format", format, &id])).trim().to_owned()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let down = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "5"])
        }));
        if down.is_err() {
            eprintln!("{} is not gone", self.name);
        }
    }
}

const FILE: &str = r#"
x-server: &server
  image: IMAGE
  restart: on-failure:5
x-environment: &environment
  SHARKLOCK_SERVER__ROLES: master,data,gateway
  SHARKLOCK_SERVER__INSECURE: "true"
  SHARKLOCK_SERVER__MASTERS: first:7720
  SHARKLOCK_ADVERTISE__MASTER: first:7720
  SHARKLOCK_ADVERTISE__DATA: first:7710
  SHARKLOCK_CLUSTER__REPLICAS: "1"
services:
  first:
    <<: *server
    environment: *environment
    volumes: ["first:/var/lib/sharklock"]
  wrong-variable:
    <<: *server
    environment:
      <<: *environment
      SHARKLOCK_RAFT_TICK: 1s
    volumes: ["other:/var/lib/sharklock"]
  no-volume:
    <<: *server
    environment: *environment
  read-only:
    <<: *server
    environment: *environment
    volumes: ["other:/var/lib/sharklock:ro"]
  wrong-owner:
    <<: *server
    environment: *environment
    volumes: ["./roots:/var/lib/sharklock"]
  second-on-a-volume:
    <<: *server
    environment: *environment
    volumes: ["first:/var/lib/sharklock"]
  port-in-use:
    <<: *server
    environment: *environment
    network_mode: "service:first"
    volumes: ["third:/var/lib/sharklock"]
  unknown-key:
    <<: *server
    environment:
      <<: *environment
      SHARKLOCK_CONFIG: /server.toml
    volumes: ["other:/var/lib/sharklock", "./server.toml:/server.toml:ro"]
volumes: {first: {}, other: {}, third: {}}
"#;

/// Each service that cannot start: what its line says, and what to do.
const REFUSED: [(&str, &str, &str); 7] = [
    ("wrong-variable", "unknown setting SHARKLOCK_RAFT_TICK", "did you mean SHARKLOCK_RAFT__TICK?"),
    ("no-volume", "is on no volume", "mount a volume at /var/lib/sharklock"),
    ("read-only", "Read-only file system", "mount it for writing"),
    ("wrong-owner", "belongs to user 0, this process runs as 7700", "chown -R 7700:7700"),
    ("second-on-a-volume", "is in use by another process", "stop that process or container"),
    ("port-in-use", "0.0.0.0:7790 is in use", "choose another with --listen-admin"),
    ("unknown-key", "/server.toml:2: unknown setting \"raft.tikc\"", "did you mean raft.tick?"),
];

#[tokio::test]
async fn containers_that_cannot_start_say_what_to_do_and_stop_trying_after_five_times() {
    let Some(image) = image() else { return };
    let _alone = alone().await;
    let project = Project::up("sharklock-refused", &FILE.replace("IMAGE", &image));
    std::fs::create_dir(project.path().join("roots")).expect("it is ours");
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(project.path().join("roots"), closed).expect("it is ours");
    std::fs::write(project.path().join("server.toml"), "[raft]\ntikc = \"1s\"\n")
        .expect("it is ours");
    // The first one takes its volume and its ports before the others try.
    project.compose(&["up", "--detach", "first"]);
    eventually("a healthy first container", SOON, async || {
        (project.state("first", "{{.State.Health.Status}}") == "healthy").then_some(())
    })
    .await;
    project.compose(&["up", "--detach"]);
    for (service, error, todo) in REFUSED {
        let end = eventually(&format!("the end of {service}"), SOON, async || {
            let state =
                project.state(service, "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}");
            state.starts_with("exited 5 ").then_some(state)
        })
        .await;
        assert_eq!(end, "exited 5 78", "{service}");
        let logs = project.compose(&["logs", "--no-color", service]);
        let tries = logs.lines().filter(|line| line.contains("error: ")).count();
        assert_eq!(tries, 6, "{service}: {logs}");
        assert!(logs.contains(error) && logs.contains(todo), "{service}: {logs}");
    }
    assert_eq!(
        project.state("first", "{{.State.Health.Status}}"),
        "healthy",
        "whatever others try"
    );
    let id = project.compose(&["ps", "--quiet", "first"]);
    let exec = |args: &[&str]| run(Command::new("docker").args(["exec", id.trim()]).args(args));
    assert!(exec(&["sharklock", "lock", "x", "--", "echo", "held"]).contains("held"));
    assert_eq!(exec(&["id", "-u"]).trim(), "7700", "not root");
}

/// A cluster of `make up` at ports of its own, which `make down` removes with this value at the latest.
struct Made {
    image: String,
    cluster: &'static str,
}

impl Made {
    const PROJECT: &str = "sharklock-made";

    fn make(&self, what: &str) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg("-C").arg(root).arg(what);
        make.env("SHARKLOCK_IMAGE", &self.image).env("SHARKLOCK_PROJECT", Self::PROJECT);
        make.env("CLUSTER", self.cluster);
        for (place, ports) in [("1", "28"), ("2", "29"), ("3", "30")] {
            make.env(format!("SHARKLOCK_PORT_{place}"), format!("{ports}700"));
            make.env(format!("SHARKLOCK_ADMIN_PORT_{place}"), format!("{ports}790"));
        }
        make
    }

    /// Whatever of it Docker still has.
    fn left() -> String {
        let label = format!("label=com.docker.compose.project={}", Self::PROJECT);
        let of = |args: &[&str]| {
            run(Command::new("docker").args(args).args(["--quiet", "--filter", &label]))
        };
        of(&["ps", "--all"]) + &of(&["volume", "ls"]) + &of(&["network", "ls"])
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.make("down").status().is_ok_and(|status| status.success()) {
            eprintln!("`make down` did not work");
        }
    }
}

async fn made(image: String, cluster: &'static str, containers: usize) {
    let made = Made { image, cluster };
    let said = run(&mut made.make("up"));
    assert!(said.contains(&format!("The cluster is ready: {containers} containers.")), "{said}");
    let endpoints =
        said.lines().find_map(|it| it.trim().strip_prefix("export SHARKLOCK_ENDPOINTS="));
    let endpoints = endpoints.unwrap_or_else(|| panic!("no line to copy: {said}"));
    assert_eq!(endpoints, "http://127.0.0.1:28700,http://127.0.0.1:29700");
    let sharklock = |args: &[&str]| {
        let mut sharklock = Command::new(sharklock_tests::process::sharklock());
        run(sharklock.env("SHARKLOCK_ENDPOINTS", endpoints).args(args))
    };
    let status = sharklock(&["status"]);
    assert!(status.contains("sees it: healthy"), "{status}");
    assert!(sharklock(&["lock", "hello", "--", "echo", "held"]).contains("held"));
    let shown = run(&mut made.make("ps"));
    assert_eq!(shown.matches("(healthy)").count(), containers, "{shown}");
    run(&mut made.make("down"));
    assert_eq!(Made::left(), "");
}

#[tokio::test]
async fn make_up_starts_a_cluster_that_locks_and_make_down_leaves_nothing() {
    let Some(image) = image() else { return };
    let _alone = alone().await;
    made(image, "", 10).await;
}

#[tokio::test]
async fn three_equal_nodes_are_made_and_removed_as_well() {
    let Some(image) = image() else { return };
    let _alone = alone().await;
    made(image, "small", 3).await;
}

#[test]
fn the_image_is_no_larger_than_120_mb() {
    let Some(image) = image() else { return };
    let told =
        run(Command::new("docker").args(["image", "inspect", "--format", "{{.Size}}", &image]));
    let size: u64 = told.trim().parse().expect("a number of bytes");
    assert!(size <= 120_000_000, "{size} bytes");
}
