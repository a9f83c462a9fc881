//! What is answered under which path.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use serde_json::{Value, json};

use super::{View, Views, topology};

const PAGE: &str = include_str!("page.html");
/// The page may run its own script and talk to this server, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// The longest body of a request, in bytes; none is read.
const BODY_LIMIT: usize = 1024;

pub(super) fn router(views: Views) -> Router {
    let view = |pick: fn(&Views) -> &View| {
        get(move |State(views): State<Views>| async move { Json(pick(&views)()).into_response() })
    };
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/topology", get(show_topology))
        .route("/pools", view(|views| &views.pools))
        .route("/sessions", get(sessions))
        .route("/routes", view(|views| &views.routes))
        .route("/failovers", view(|views| &views.failovers))
        .route("/reload", post(reload))
        .fallback(async || (StatusCode::NOT_FOUND, "no such path\n"))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(views)
}

async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE)).into_response()
}

async fn metrics(State(views): State<Views>) -> Response {
    match views.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

async fn ready(State(views): State<Views>) -> Response {
    let topology = Arc::clone(&views.topology.borrow());
    let primary = topology.primary().is_some();
    let replicas = topology.members.iter().filter(|member| member.serves_reads).count();
    let status = if primary || replicas > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "primary": primary, "replicas": replicas }))).into_response()
}

async fn sessions(State(views): State<Views>) -> Json<Value> {
    Json((views.sessions)().await)
}

async fn show_topology(State(views): State<Views>) -> Json<Value> {
    let topology = Arc::clone(&views.topology.borrow());
    Json(topology::show(&topology))
}

/// Reloads, unless a web page of somebody else's asks for it through its reader's browser.
async fn reload(State(views): State<Views>, headers: HeaderMap) -> Response {
    if from_elsewhere(&headers) {
        return (StatusCode::FORBIDDEN, "not from another site\n").into_response();
    }
    match tokio::task::spawn_blocking(move || (views.reload)()).await {
        Ok(Ok(text)) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Ok(Err(why)) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response(),
        Err(_panicked) => (StatusCode::INTERNAL_SERVER_ERROR, "the reload failed\n").into_response(),
    }
}

/// Whether a browser says that another site's page sends this: browsers put `Origin` on every POST.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.parse::<http::Uri>().ok())
        .and_then(|origin| origin.authority().map(ToString::to_string));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    authority.is_none() || authority.as_deref() != host
}
