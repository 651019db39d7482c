//! Starts the session.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    client::Inner,
    clock::Clock,
    handle::{COMMANDS_MAX, Returns, SessionHandle},
};

pub(crate) fn start(_client: &Arc<Inner>) -> Arc<SessionHandle> {
    let (commands, _session) = mpsc::channel(COMMANDS_MAX);
    let returns = Arc::new(Returns::default());
    Arc::new(SessionHandle { commands, returns, clock: Arc::new(Clock::start()) })
}
