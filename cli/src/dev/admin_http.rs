//! The admin port: metrics for Prometheus, and what an orchestrator asks.

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus::{Registry, TextEncoder};
use sharklock_gateway::Readiness;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// `/metrics`, `/livez`, `/readyz`.
pub fn routes(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        // A process that can answer lives: one that must not go on aborts itself.
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
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

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    match readiness.is_ready() {
        true => (StatusCode::OK, "ok\n"),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: no store answers, or a range has no leader\n",
        ),
    }
}
