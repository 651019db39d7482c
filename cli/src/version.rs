//! `sharklock version`: which program this is, and which one answers.

use std::time::Duration;

use serde::Serialize;

use crate::{
    args::{Output, ReachArgs, VersionArgs},
    exit::{Failure, OK},
    identity,
    render::{json, print},
    runtime,
};

/// The commit that this program was built from, where the build has recorded it.
pub const COMMIT: Option<&str> = option_env!("SHARKLOCK_COMMIT");
/// Of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A server is not waited for: the version of this program is what was asked for first.
const ASK_MAX: Duration = Duration::from_secs(1);

/// `sharklock version`.
#[derive(Debug, Serialize)]
#[serde(tag = "schema", rename = "sharklock.v1.Version")]
pub struct Version {
    /// Of this program.
    pub client: Build,
    /// Of the gateway that answers; absent: none does.
    pub server: Option<Server>,
}

/// A build of the program.
#[derive(Debug, Serialize)]
pub struct Build {
    /// As in its release.
    pub version: String,
    /// The commit that it was built from; empty: that was not recorded.
    pub commit: String,
}

/// A gateway.
#[derive(Debug, Serialize)]
pub struct Server {
    /// What people call its process.
    pub node: String,
    /// Its program.
    #[serde(flatten)]
    pub build: Build,
    /// The cluster's id, as hex.
    pub cluster_id: String,
    /// What people call the cluster; empty: nothing.
    pub cluster_name: String,
}

/// Prints both. That no server answers is no failure.
pub fn run(reach: &ReachArgs, args: VersionArgs) -> Result<u8, Failure> {
    let server = runtime::start(1)?.block_on(ask(reach));
    let version = Version { client: own(), server };
    print(&match args.output.output {
        Output::Json => json(&version),
        Output::Table => version.text(),
    })?;
    Ok(OK)
}

fn own() -> Build {
    Build { version: VERSION.to_owned(), commit: COMMIT.unwrap_or_default().to_owned() }
}

async fn ask(reach: &ReachArgs) -> Option<Server> {
    let client = reach.client().identity(&identity::default_owner());
    let client = client.call_timeout(ASK_MAX).build().ok()?;
    let seen = tokio::time::timeout(ASK_MAX, client.status()).await.ok()?.ok()?;
    Some(Server {
        node: seen.node,
        build: Build { version: seen.version, commit: seen.commit },
        cluster_id: seen.cluster_id,
        cluster_name: seen.cluster_name,
    })
}

impl Version {
    fn text(&self) -> String {
        let build = |build: &Build| match build.commit.as_str() {
            "" => format!("{}, commit not recorded", build.version),
            commit => format!("{}, commit {commit}", build.version),
        };
        let server = match &self.server {
            Some(server) => format!("{} (gateway {})", build(&server.build), server.node),
            None => "no gateway answers: `sharklock doctor` says why".to_owned(),
        };
        format!("client  {}\nserver  {server}\n", build(&self.client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_told() {
        let build = |commit: &str| Build { version: "1.2.3".into(), commit: commit.into() };
        let mut version = Version { client: build("c0ffee"), server: None };
        assert_eq!(
            version.text(),
            "client  1.2.3, commit c0ffee\n\
             server  no gateway answers: `sharklock doctor` says why\n"
        );
        version.server = Some(Server {
            node: "node-1".into(),
            build: build(""),
            cluster_id: "00ff".into(),
            cluster_name: String::new(),
        });
        assert!(version.text().ends_with("server  1.2.3, commit not recorded (gateway node-1)\n"));
        let document = serde_json::to_value(&version).expect("it is JSON");
        assert_eq!(document["server"]["version"], "1.2.3");
    }
}
