//! The process that owns a cluster's nodes: it starts them, tells of their ends, does what commands
//! ask, and stops them all. It never starts one again by itself.

use std::{io, time::Duration};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    control::{Answer, Ask, Asked, Shown},
    layout::{Layout, NodeSpec},
    node::{self, End, Ending, Node, Process, Recipe},
};
use crate::{
    exit::{CONFIG, Failure, INTERNAL},
    probe::{self, Readiness},
    server::Stop,
};

/// After so long a node that is not ready is told of: three elections and a start fit in.
const SLOW_AFTER: Duration = Duration::from_secs(15);
/// A node that was told to end gets this long: its gateway's streams have 5 s, its stores finish
/// what they write.
const STOP_WITHIN: Duration = Duration::from_secs(35);
/// Requests and news that wait for the owner: more than commands that anybody would run at once.
const NEWS_MAX: usize = 64;

/// Something that the owner reacts to.
#[derive(Debug)]
enum News {
    /// A command wants something.
    Asked(Asked),
    /// A process is ready.
    Ready(u32),
    /// A process is not ready yet, and lacks this.
    Slow(u32, String),
    /// A process was told to end, and has had its time.
    Late(u32),
}

/// Why the owner does not wait any more.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// Every node was ready at the same time.
    AllReady,
    /// A signal asks for the end.
    Stopped,
}

/// The phase of the cluster's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not all nodes have been ready yet: one that ends is a start that failed.
    Starting,
    /// All have been ready: one that ends is news.
    Running,
    /// All are told to end.
    Stopping,
}

/// Writes a layout that has grown.
type Keep = Box<dyn Fn(&Layout) -> io::Result<()>>;

/// Invariant: a node whose process was not waited for is `Running`, and only such are signalled.
pub struct Owner {
    layout: Layout,
    recipe: Recipe,
    keep: Keep,
    nodes: Vec<Node>,
    news: mpsc::Sender<News>,
    inbox: mpsc::Receiver<News>,
    child: unix::Signal,
    stop: Stop,
    phase: Phase,
}

impl Owner {
    /// Of a cluster that does not run yet. `keep` writes a layout that has grown.
    pub fn new(
        layout: Layout,
        recipe: Recipe,
        keep: impl Fn(&Layout) -> io::Result<()> + 'static,
        stop: Stop,
    ) -> Result<Self, Failure> {
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        let child = unix::signal(SignalKind::child())
            .map_err(|why| Failure::new(INTERNAL, "cannot listen to signals").cause(why))?;
        let nodes = layout.specs().into_iter().map(Node::new).collect();
        let keep = Box::new(keep);
        Ok(Self { layout, recipe, keep, nodes, news, inbox, child, stop, phase: Phase::Starting })
    }

    /// The way of commands' requests.
    pub fn requests(&self) -> mpsc::Sender<Asked> {
        let (sender, mut receiver) = mpsc::channel(1);
        let news = self.news.clone();
        tokio::spawn(async move {
            while let Some(asked) = receiver.recv().await {
                if news.send(News::Asked(asked)).await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    /// The nodes, for the banner.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts all nodes.
    pub fn start(&mut self) -> Result<(), Failure> {
        for at in 0..self.nodes.len() {
            self.start_node(at).map_err(|why| {
                Failure::new(INTERNAL, format!("cannot start {}", self.nodes[at].spec.name))
                    .cause(why)
            })?;
        }
        Ok(())
    }

    /// Reacts until all nodes are ready for the first time, or until the end.
    pub async fn run(&mut self) -> Result<WaitEnd, Failure> {
        loop {
            tokio::select! {
                _ = self.child.recv() => self.reap()?,
                _ = self.stop.next() => return Ok(WaitEnd::Stopped),
                Some(news) = self.inbox.recv() => self.hear(news),
            }
            let ready = |node: &Node| node.running().is_some_and(|running| running.was_ready);
            if self.phase == Phase::Starting && self.nodes.iter().all(ready) {
                self.phase = Phase::Running;
                return Ok(WaitEnd::AllReady);
            }
        }
    }

    /// Ends all nodes: those that use masters first. A signal meanwhile ends them at once, and gives
    /// its number.
    pub async fn finish(mut self) -> Option<u8> {
        self.inbox.close();
        self.phase = Phase::Stopping;
        for masters_alone in [false, true] {
            let meant = |spec: &NodeSpec| {
                let alone = spec.roles.master && !spec.roles.data && !spec.roles.gateway;
                alone == masters_alone
            };
            for node in self.nodes.iter_mut().filter(|node| meant(&node.spec)) {
                if let Some(running) = node.running_mut() {
                    running.terminate(Ending::Stop);
                }
            }
            let mut deadline = now() + STOP_WITHIN;
            while self.nodes.iter().any(|node| meant(&node.spec) && node.running().is_some()) {
                tokio::select! {
                    _ = self.child.recv() => drop(self.reap()),
                    number = self.stop.next() => {
                        self.kill_all();
                        return Some(128 + number);
                    }
                    () = sleep_until(deadline) => {
                        self.kill_all();
                        deadline += STOP_WITHIN;
                    }
                }
            }
        }
        None
    }

    fn kill_all(&mut self) {
        for running in self.nodes.iter_mut().filter_map(Node::running_mut) {
            running.ending = Some(Ending::Stop);
            running.signal(Signal::SIGKILL);
        }
    }

    fn start_node(&mut self, at: usize) -> io::Result<()> {
        let node = &mut self.nodes[at];
        let own = node.spec.arguments(&self.layout, &self.recipe.dir);
        let pid = node.start(&self.recipe, own)?;
        let (news, admin) = (self.news.clone(), node.spec.admin);
        let watch = tokio::spawn(async move {
            tokio::select! {
                () = probe::until_ready(admin) => {}
                () = sleep(SLOW_AFTER) => {
                    let lacks = match probe::readiness(admin).await {
                        Readiness::Lacks(lacks) => lacks,
                        Readiness::Ready | Readiness::Silent => "it does not answer".to_owned(),
                    };
                    let _ = news.send(News::Slow(pid, lacks)).await;
                    probe::until_ready(admin).await;
                }
            }
            let _ = news.send(News::Ready(pid)).await;
        });
        if let Some(running) = node.running_mut() {
            running.watch = Some(watch.abort_handle());
        }
        Ok(())
    }

    fn by_pid(&mut self, pid: u32) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.running().is_some_and(|r| r.pid() == pid))
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Asked((ask, answer)) => self.answer(ask, answer),
            News::Ready(pid) => {
                let Some(node) = self.by_pid(pid) else { return };
                if let Some(running) = node.running_mut() {
                    running.was_ready = true;
                }
                let told = format!("{} is ready (pid {pid})", node.spec.name);
                tell(&told);
                node.answer(Answer::Done(told));
            }
            News::Slow(pid, lacks) => {
                let Some(node) = self.by_pid(pid) else { return };
                let told = format!("{} is not ready yet: {lacks}", node.spec.name);
                tell(&told);
                node.answer(Answer::NotReady(told));
            }
            News::Late(pid) => {
                let Some(node) = self.by_pid(pid) else { return };
                tell(&format!("{} does not end: SIGKILL", node.spec.name));
                if let Some(running) = node.running() {
                    running.signal(Signal::SIGKILL);
                }
            }
        }
    }

    /// Takes note of the nodes that have ended. Before all were ready, an end that nobody asked
    /// for is the end of the start.
    fn reap(&mut self) -> Result<(), Failure> {
        for at in 0..self.nodes.len() {
            let Some(end) = self.nodes[at].poll() else { continue };
            let name = &self.nodes[at].spec.name;
            let log = node::log_of(&self.recipe.dir.join(name));
            let told = format!("{name} (pid {}) has ended: {}", end.pid, node::told(end.status));
            match end.asked {
                Some(Ending::Stop) => {
                    tell(&told);
                    self.nodes[at].answer(Answer::Done(told));
                }
                Some(Ending::Restart) => self.start_again(at),
                None => {
                    let words = node::last_words(&log);
                    let why = if words.is_empty() { String::new() } else { format!(": {words}") };
                    let whole = format!("{told}{why}; its log is {}", log.display());
                    self.nodes[at].answer(Answer::Refused(whole.clone()));
                    if self.phase == Phase::Starting {
                        return Err(start_failed(&end, whole));
                    }
                    tell(&whole);
                }
            }
        }
        Ok(())
    }

    fn start_again(&mut self, at: usize) {
        if let Err(why) = self.start_node(at) {
            let told = format!("cannot start {}: {why}", self.nodes[at].spec.name);
            tell(&told);
            self.nodes[at].answer(Answer::Refused(told));
        }
    }

    fn answer(&mut self, ask: Ask, answer: oneshot::Sender<Answer>) {
        let name = match &ask {
            Ask::Ps => return self.show(answer),
            Ask::Add => return self.add(answer),
            Ask::Kill(name) | Ask::Pause(name) | Ask::Resume(name) | Ask::Restart(name) => name,
        };
        let Some(at) = self.nodes.iter().position(|node| node.spec.is_called(name)) else {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.spec.name.as_str()).collect();
            let why = format!("no node is called {name:?}; there are {}", names.join(", "));
            return refuse(answer, why);
        };
        match ask {
            Ask::Restart(_) => self.restart(at, answer),
            Ask::Kill(_) => kill(&mut self.nodes[at], answer),
            Ask::Pause(_) => pause(&mut self.nodes[at], true, answer),
            Ask::Resume(_) => pause(&mut self.nodes[at], false, answer),
            Ask::Ps | Ask::Add => unreachable!("they name no node"),
        }
    }

    fn restart(&mut self, at: usize, answer: oneshot::Sender<Answer>) {
        let news = self.news.clone();
        let node = &mut self.nodes[at];
        if node.awaited.as_ref().is_some_and(|awaited| !awaited.is_closed()) {
            let why = format!("{} is being started or stopped already", node.spec.name);
            return refuse(answer, why);
        }
        node.awaited = Some(answer);
        match node.running_mut() {
            None => self.start_again(at),
            Some(running) => {
                running.terminate(Ending::Restart);
                let pid = running.pid();
                tokio::spawn(async move {
                    sleep(STOP_WITHIN).await;
                    let _ = news.send(News::Late(pid)).await;
                });
            }
        }
    }

    fn add(&mut self, answer: oneshot::Sender<Answer>) {
        let mut grown = self.layout.clone();
        let Some(spec) = grown.add() else {
            let why = format!("a cluster of `dev` has {} nodes at most", self.layout.nodes);
            return refuse(answer, why);
        };
        let refused = super::ports_are_free([&spec].into_iter()).err().map(|why| why.told());
        let refused = refused.or_else(|| {
            (self.keep)(&grown).err().map(|why| format!("cannot note the new node: {why}"))
        });
        if let Some(why) = refused {
            return refuse(answer, why);
        }
        self.layout = grown;
        self.nodes.push(Node { awaited: Some(answer), ..Node::new(spec) });
        self.start_again(self.nodes.len() - 1);
    }

    fn show(&self, answer: oneshot::Sender<Answer>) {
        let asked: Vec<_> = self.nodes.iter().map(|node| (shown(node), probed(node))).collect();
        tokio::spawn(async move {
            let mut nodes = Vec::new();
            for (mut shown, probed) in asked {
                if let Some((admin, was_ready)) = probed {
                    let readiness = probe::readiness(admin).await;
                    (shown.state, shown.detail) = match readiness {
                        Readiness::Ready => ("ready".to_owned(), String::new()),
                        Readiness::Lacks(lacks) if was_ready => ("not ready".to_owned(), lacks),
                        Readiness::Lacks(lacks) => ("starting".to_owned(), lacks),
                        Readiness::Silent if was_ready => {
                            ("not ready".to_owned(), "it does not answer".to_owned())
                        }
                        Readiness::Silent => ("starting".to_owned(), String::new()),
                    };
                }
                nodes.push(shown);
            }
            let _ = answer.send(Answer::Nodes(nodes));
        });
    }
}

fn refuse(answer: oneshot::Sender<Answer>, why: String) {
    // A command that does not wait any more needs no answer.
    let _ = answer.send(Answer::Refused(why));
}

fn does_not_run(node: &Node) -> String {
    let name = &node.spec.name;
    format!("{name} does not run; `sharklock dev restart {name}` starts it")
}

/// It is answered when the process is gone.
fn kill(node: &mut Node, answer: oneshot::Sender<Answer>) {
    node.answer(Answer::Refused(format!("{} was killed meanwhile", node.spec.name)));
    match node.running_mut() {
        None => refuse(answer, does_not_run(node)),
        Some(running) => {
            running.ending = Some(Ending::Stop);
            running.signal(Signal::SIGKILL);
            node.awaited = Some(answer);
        }
    }
}

/// Pauses, or lets go on.
fn pause(node: &mut Node, pause: bool, answer: oneshot::Sender<Answer>) {
    let name = node.spec.name.clone();
    let refused = match node.running_mut() {
        None => does_not_run(node),
        Some(running) if running.paused == pause => {
            format!("{name} is {}", if pause { "paused already" } else { "not paused" })
        }
        Some(running) => {
            running.paused = pause;
            running.signal(if pause { Signal::SIGSTOP } else { Signal::SIGCONT });
            let done = if pause { "is paused" } else { "goes on" };
            let _ = answer.send(Answer::Done(format!("{name} {done} (pid {})", running.pid())));
            return;
        }
    };
    refuse(answer, refused);
}

/// The knowledge of a node without asking it.
fn shown(node: &Node) -> Shown {
    let spec = &node.spec;
    let at = |used: bool, at: std::net::SocketAddr| used.then(|| at.to_string());
    let (state, detail) = match &node.process {
        Process::Unborn => ("starting", String::new()),
        Process::Running(running) if running.paused => ("paused", String::new()),
        Process::Running(_) => ("starting", String::new()),
        Process::Ended(status) => ("ended", node::told(*status)),
    };
    Shown {
        node: spec.name.clone(),
        roles: spec.roles.names().into_iter().map(str::to_owned).collect(),
        gateway: at(spec.roles.gateway, spec.gateway),
        data: at(spec.roles.data, spec.data),
        master: at(spec.roles.master, spec.master),
        admin: at(true, spec.admin),
        pid: node.running().map(node::Running::pid),
        state: state.to_owned(),
        detail,
    }
}

/// The address to ask for more, and whether the node was ready once.
fn probed(node: &Node) -> Option<(std::net::SocketAddr, bool)> {
    let running = node.running().filter(|running| !running.paused)?;
    Some((node.spec.admin, running.was_ready))
}

/// A node ended before the cluster was there. Its own words say why.
fn start_failed(end: &End, told: String) -> Failure {
    let code = match end.status.code() {
        Some(code) if code == i32::from(CONFIG) => CONFIG,
        _ => INTERNAL,
    };
    Failure::new(code, told)
}

/// Progress, for people.
fn tell(what: &str) {
    eprintln!("sharklock: {}", crate::render::printable(what));
}

fn now() -> Instant {
    Instant::now()
}
