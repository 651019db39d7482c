//! A resource that cannot be hurt by a paused lock holder, because it checks fencing tokens.
//!
//! A lock tells who *should* use a resource. It cannot stop a process that was paused while holding
//! it, sleeps through the end of its lease, wakes up and writes. The resource can: it keeps the
//! highest token that it has seen beside the data, and refuses every smaller one. Here the resource
//! is a folder of files.
//!
//! ```text
//! cargo run -p sharklock-client --example fenced_resource -- --endpoints http://127.0.0.1:7700
//! ```

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use sharklock_client::{Client, FencingToken};

/// Files, each with the highest fence that was ever shown for it.
///
/// One process opens a store at a time; `&mut self` keeps the comparison and the write together.
/// With several processes that takes a transaction of the resource: a database compares and raises
/// the fence in the `UPDATE` that writes the row.
struct FencedStore {
    folder: PathBuf,
}

/// The store has seen a larger fence: whoever shows this one has lost the lock meanwhile.
#[derive(Debug, thiserror::Error)]
#[error("fence {shown} is too small: {seen} has been seen")]
struct Fenced {
    shown: FencingToken,
    seen: FencingToken,
}

impl FencedStore {
    /// Reads need the check as well: what a paused holder reads now is not what it would have read
    /// under its lock, and it may carry it elsewhere.
    fn read(&mut self, file: &str, fence: FencingToken) -> anyhow::Result<Vec<u8>> {
        let (seen, data) = self.load(file)?;
        check(fence, seen)?;
        if fence > seen {
            // A reader's fence counts too: after it, no earlier holder may write.
            self.save(file, fence, &data)?;
        }
        Ok(data)
    }

    fn write(&mut self, file: &str, fence: FencingToken, data: &[u8]) -> anyhow::Result<()> {
        let (seen, _) = self.load(file)?;
        check(fence, seen)?;
        self.save(file, fence, data)
    }

    fn load(&self, file: &str) -> anyhow::Result<(FencingToken, Vec<u8>)> {
        let bytes = match fs::read(self.folder.join(file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((FencingToken::from_u64(0), Vec::new()));
            }
            Err(error) => return Err(error.into()),
        };
        let (fence, data) = bytes.split_first_chunk().context("the file is cut short")?;
        Ok((FencingToken::from_u64(u64::from_le_bytes(*fence)), data.to_owned()))
    }

    /// Data and fence become durable together or not at all: one file, renamed into its place.
    fn save(&self, file: &str, fence: FencingToken, data: &[u8]) -> anyhow::Result<()> {
        let (target, new) = (self.folder.join(file), self.folder.join(format!("{file}.new")));
        let mut out = File::create(&new)?;
        out.write_all(&fence.as_u64().to_le_bytes())?;
        out.write_all(data)?;
        out.sync_all()?;
        fs::rename(&new, &target)?;
        File::open(&self.folder)?.sync_all()?;
        Ok(())
    }
}

fn check(shown: FencingToken, seen: FencingToken) -> Result<(), Fenced> {
    if shown < seen { Err(Fenced { shown, seen }) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = client_from_arguments()?;
    let folder = tempfile::tempdir()?;
    let mut store = FencedStore { folder: folder.path().to_owned() };
    show(&client, &mut store).await
}

async fn show(client: &Client, store: &mut FencedStore) -> anyhow::Result<()> {
    // The name is new in every run: other runs do not meet this one.
    let name = format!("examples/fenced-{}", client.session_handle());

    let paused = client.lock(&name).owner("the one who pauses").acquire().await?;
    store.write("balance", paused.fence_floor(), b"100")?;
    println!("1. A holds the lock with token {} and writes 100", paused.token());

    // A process that is stopped, swapped out or moved to another machine cannot be shown in one
    // process; what it leads to can. The operator ends A's hold without waiting for A.
    client.force_release(&name, Some(paused.token()), "A does not answer", true, "example").await?;
    let reason = tokio::time::timeout(Duration::from_secs(5), paused.lost())
        .await
        .context("A hears of its loss")?;
    println!("2. A is paused; its hold ends ({reason})");

    let next =
        client.lock(&name).owner("the next one").wait(Duration::from_secs(30)).acquire().await?;
    ensure!(next.token() > paused.token(), "every grant has a larger token");
    store.write("balance", next.fence_floor(), b"75")?;
    println!("3. B holds the lock with token {} and writes 75", next.token());

    println!("4. A wakes up and goes on as if nothing had happened:");
    for (what, refused) in [
        ("write", store.write("balance", paused.fence_floor(), b"90").err()),
        ("read", store.read("balance", paused.fence_floor()).err()),
    ] {
        match refused {
            Some(error) => println!("   its {what} is refused: {error}"),
            None => bail!("the store let a late {what} pass"),
        }
    }
    let balance = store.read("balance", next.fence_floor())?;
    println!("5. the balance is still {}", String::from_utf8_lossy(&balance));
    ensure!(balance == b"75", "the late write did not get through");

    drop(paused);
    next.release().await?;
    Ok(())
}

fn client_from_arguments() -> anyhow::Result<Client> {
    let mut arguments = env::args().skip(1);
    let builder = Client::builder().identity("fenced_resource example");
    let builder = match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, None, None) => builder.endpoints_from_env()?,
        (Some("--endpoints"), Some(endpoints), None) => {
            builder.endpoints(endpoints.split(',').map(str::trim))
        }
        _ => bail!("usage: fenced_resource [--endpoints http://127.0.0.1:7700[,...]]"),
    };
    Ok(builder.build()?)
}
