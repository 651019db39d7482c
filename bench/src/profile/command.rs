//! The whole run: every load in its three parts, then the files.

use std::{collections::BTreeSet, fs, path::Path, process, thread, time::Duration};

use anyhow::Context as _;

use crate::{
    disk::{self, Sampler},
    measure,
    peers::{
        drive,
        service::{Service as _, home, version},
        sharklock::Sharklock,
    },
    profile::{
        args::{Args, Load},
        budget::Budget,
        counters::{Loopback, Metrics, get, written},
        figures::{Counted, Figures, Part, Profile, Seen},
        perf, table,
        threads::Threads,
    },
    worker::{Window, now},
};

/// Of so many acquires one is followed by spans.
const TRACE_EVERY: u32 = 16;
/// Their spans are taken so often: a server keeps only its last ones.
const FOLLOWED: u32 = 10;
/// The time that looking takes beside the parts, while the load goes on.
const LOOKS_MAX: Duration = Duration::from_secs(10);
/// Beside the parts: starting, warming up, looking, and ending.
const SPARE: Duration = Duration::from_secs(300);

/// Profiles every load, and writes the figures.
///
/// # Errors
/// When a server cannot be started or ends by itself, or a file cannot be written.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let sharklock = args.servers.sharklock()?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot make --out {}", args.out.display()))?;
    let mut all = Profile {
        version: version(&sharklock, "--version")?,
        cpus: thread::available_parallelism()?.get(),
        part_s: args.duration.as_secs_f64(),
        trace_every: TRACE_EVERY,
        loads: Vec::new(),
    };
    for load in &args.loads {
        eprintln!(
            "{}: {:?} each for counting, functions, system calls",
            load.label(),
            args.duration
        );
        let time_max = SPARE + 3 * args.duration;
        let profiled = tokio::time::timeout(time_max, Box::pin(profile(args, &sharklock, *load)));
        let figures = profiled.await.context("it takes too long")?;
        all.loads.push(figures.with_context(|| load.label())?);
    }
    let text = table::markdown(&all);
    let json = serde_json::to_string_pretty(&all)? + "\n";
    for (ending, text) in [("json", &json), ("md", &text)] {
        let path = args.out.join("profile").with_extension(ending);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{text}");
    Ok(())
}

async fn profile(args: &Args, sharklock: &Path, load: Load) -> anyhow::Result<Figures> {
    let (_dir, home) = home("profile-", &args.servers.dir, sharklock)?;
    let settings = home.dir.join("profile.toml");
    fs::write(&settings, format!("[trace]\nevery = {TRACE_EVERY}\n"))?;
    let settings = settings.to_str().context("the directory's name is not Unicode")?;
    let service = Sharklock::start_with(&home, &["--config", settings]).await?;
    let workers = service.workers(load.clients, None).await?;
    let mut idle = disk::sample_idle(home.dir.clone()).await?;
    let window = Window::starting(now(), args.warmup, 3 * args.duration + LOOKS_MAX);
    let running = drive::start(workers, load.kind, "profile", window);
    tokio::time::sleep(args.warmup).await;

    let look = || count(&service, window);
    let sampler = Sampler::start(&home.dir)?;
    let (from, servers) = (look().await?, service.process_ids());
    let spans = follow(&service, args.duration).await?;
    let (counted, loaded) = (look().await?, sampler.stop());
    let watched = [servers.as_slice(), &[process::id()]].concat();
    let (file, sampling) = (home.dir.join("perf.data"), look().await?);
    let sampled_well = perf::sample(&watched, args.duration, &file).await;
    let sampled = look().await?;
    let calls = perf::system_calls(&servers, args.duration).await;
    let traced = look().await?;
    let is_loaded = traced.at <= window.nanos(window.end());
    anyhow::ensure!(is_loaded, "looking took so long that the load had ended");

    let notes = running.ended().await;
    // While nothing is measured any more: it is work.
    let functions = match sampled_well {
        Ok(()) => perf::functions(&file).await,
        Err(why) => Err(why),
    };
    idle.extend(disk::sample_idle(home.dir.clone()).await?);
    let overlaps: u64 = notes.iter().map(|notes| notes.overlaps).sum();
    anyhow::ensure!(overlaps == 0, "{overlaps} grants of a lock that another worker held");
    let seen = Seen {
        quiet: Part::between(&from, &counted),
        sampled: (Part::between(&sampling, &sampled), functions.map_err(told)),
        traced: (Part::between(&sampled, &traced), calls.map_err(told)),
        budget: Budget::of(&spans)?,
        notes,
        f_us: [idle, loaded].map(|samples| measure::latencies(samples).p50_us),
    };
    Ok(Figures::new(load.label(), seen))
}

fn told(why: anyhow::Error) -> String {
    format!("{why:#}")
}

/// Takes the servers' spans, again and again for so long: each keeps only its last ones.
async fn follow(service: &Sharklock, lasts: Duration) -> anyhow::Result<BTreeSet<String>> {
    let mut spans = BTreeSet::new();
    for _ in 0..FOLLOWED {
        tokio::time::sleep(lasts / FOLLOWED).await;
        for admin in service.admins() {
            spans.extend(get(admin, "/debug/traces").await?.lines().map(str::to_owned));
        }
    }
    Ok(spans)
}

async fn count(service: &Sharklock, window: Window) -> anyhow::Result<Counted> {
    let ids = service.process_ids();
    Ok(Counted {
        at: window.nanos(now()),
        servers: Threads::of(&ids)?,
        load: Threads::of(&[process::id()])?,
        metrics: Metrics::of(service.admins()).await?,
        loopback: Loopback::now()?,
        written: written(&ids)?,
    })
}
