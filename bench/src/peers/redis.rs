//! Redis: one process, `SET NX PX` with a value of one's own, and a script that deletes the key if
//! the value is still that.

use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisError, Script, aio::MultiplexedConnection};

use crate::peers::{
    process::{Process, directory, free_ports, until},
    service::{CONNECTIONS_MAX, Failed, Home, Locks, Service},
};

/// A hold ends by itself after so long: longer than any wait for an answer here.
const TTL_MS: u64 = 30_000;
/// Between two tries for a lock that is held.
const RETRY_EVERY: Duration = Duration::from_millis(1);
const COMPARE_AND_DELETE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

/// A running server; `DURABLE` ones sync every write before they answer, others never write.
#[derive(Debug)]
pub struct Redis<const DURABLE: bool> {
    _process: Vec<Process>,
    client: Client,
}

impl<const DURABLE: bool> Service for Redis<DURABLE> {
    type Locks = Worker;

    async fn start(home: &Home) -> anyhow::Result<Self> {
        let [port] = free_ports::<1>()?;
        let port = port.to_string();
        let data = directory(&home.dir, "data")?;
        let (append, sync) = if DURABLE { ("yes", "always") } else { ("no", "no") };
        let args = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--dir",
            &data,
            "--save",
            "",
            "--appendonly",
            append,
            "--appendfsync",
            sync,
        ];
        let mut process = vec![Process::spawn("redis-server", args, home.dir.join("redis.log"))?];
        let client = Client::open(format!("redis://127.0.0.1:{port}/"))?;
        until("Redis", &mut process, async || connect(&client).await).await?;
        Ok(Self { _process: process, client })
    }

    async fn workers(&self, count: u32, _: Option<Duration>) -> anyhow::Result<Vec<Worker>> {
        let connections = count.min(CONNECTIONS_MAX);
        let mut shared = Vec::new();
        for _ in 0..connections {
            shared.push(connect(&self.client).await?);
        }
        let worker = |worker: u32| Worker {
            connection: shared[(worker % connections) as usize].clone(),
            script: Script::new(COMPARE_AND_DELETE),
            worker,
            holds: 0,
        };
        Ok((0..count).map(worker).collect())
    }
}

async fn connect(client: &Client) -> anyhow::Result<MultiplexedConnection> {
    // Its own limit, half a second, would fail calls that a slow disk makes wait.
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(client.get_multiplexed_async_connection_with_config(&patient).await?)
}

/// One worker; those of a connection share it.
pub struct Worker {
    connection: MultiplexedConnection,
    script: Script,
    worker: u32,
    holds: u64,
}

/// The value that tells a hold from all others.
#[derive(Clone, Debug)]
pub struct Held {
    name: String,
    value: String,
}

impl Locks for Worker {
    type Held = Held;

    async fn acquire(&mut self, name: &str) -> Result<Held, Failed> {
        self.holds += 1;
        let value = format!("{}-{}", self.worker, self.holds);
        loop {
            let mut set = redis::cmd("SET");
            set.arg(name).arg(&value).arg("NX").arg("PX").arg(TTL_MS);
            let set: Option<String> =
                set.query_async(&mut self.connection).await.map_err(failed)?;
            if set.is_some() {
                return Ok(Held { name: name.to_owned(), value });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    async fn release(&mut self, held: Held) -> Result<(), Failed> {
        let mut delete = self.script.key(&held.name);
        delete.arg(&held.value);
        let deleted: u32 = delete.invoke_async(&mut self.connection).await.map_err(failed)?;
        if deleted == 1 { Ok(()) } else { Err(Failed("lost: held by another one".to_owned())) }
    }
}

fn failed(error: RedisError) -> Failed {
    Failed(error.category().to_owned())
}
