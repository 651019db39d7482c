//! The admin port: metrics for Prometheus, and what an orchestrator asks.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus::{Registry, TextEncoder};
use sharklock_transport::{AdminApi, LockApi, WrongPort};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use crate::{recent_log::RECENT, recent_spans::RecentSpans};

/// What a process tells `debug collect`, beside its log.
pub struct Debug {
    /// Its settings.
    pub config: String,
    /// The last spans.
    pub spans: Arc<RecentSpans>,
}

/// `/metrics`, `/livez`, `/readyz`; `/debug/config`, `/debug/log` and `/debug/traces` for `debug collect`;
/// and for clients that take it for a gateway's, `wrong`: which port it is, and where they are served.
pub fn routes(registry: Registry, health: Arc<Health>, debug: Debug, wrong: &str) -> Router {
    let Debug { config, spans } = debug;
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        // A process that can answer lives: one that must not go on aborts itself.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(health))
        .route("/debug/config", get(async || config))
        .route("/debug/log", get(async || RECENT.text()))
        .route("/debug/traces", get(async move || spans.text()))
        .route_service("/sharklock.v1.LockService/{method}", WrongPort::<LockApi>::new(wrong))
        .route_service("/sharklock.v1.AdminService/{method}", WrongPort::<AdminApi>::new(wrong))
}

/// Answers until `shutdown`, then finishes what was asked.
pub async fn serve(listener: TcpListener, routes: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned());
    if let Err(why) = served.await {
        tracing::error!(%why, "the admin port does not answer any more");
    }
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, [("content-type", prometheus::TEXT_FORMAT)], text),
        Err(why) => {
            let text = format!("{why}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], text)
        }
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    let missing = health.missing();
    let (status, said) = match missing.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let lines = [vec![said.to_owned()], missing, health.remarks()].concat();
    (status, lines.join("\n") + "\n")
}
