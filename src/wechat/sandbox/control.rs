//! The control API under `/sandbox`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Fault, Line, Sandbox, SandboxError};

type Controlled = Result<Response, SandboxError>;

/// The control API's routes, without their prefix.
pub(super) fn router() -> Router<Sandbox> {
    Router::new()
        .route("/accounts", get(list))
        .route("/accounts/{appid}", get(show).put(configure).delete(remove))
        .route("/accounts/{appid}/faults", put(set_faults))
        .route("/accounts/{appid}/mint", post(mint))
        .route("/accounts/{appid}/kill", post(kill))
        .route("/judge", get(judge))
        .route("/log", get(log).delete(clear_log))
        .route("/witness", get(witness).delete(clear_witness))
        .fallback(async || refused(StatusCode::NOT_FOUND, "there is no such call in the sandbox's control API"))
        .method_not_allowed_fallback(async || {
            refused(StatusCode::METHOD_NOT_ALLOWED, "this call of the control API takes another method")
        })
}

impl IntoResponse for SandboxError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::UnknownAccount(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
        };
        refused(status, &self.to_string())
    }
}

fn refused(status: StatusCode, sentence: &str) -> Response {
    (status, answered(&json!({"error": sentence}))).into_response()
}

fn answered(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Reads a JSON body, whatever its content type.
fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, SandboxError> {
    serde_json::from_slice(body).map_err(|error| SandboxError::Invalid(error.to_string()))
}

fn from_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, SandboxError> {
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|rejection| SandboxError::Invalid(rejection.body_text()))
}

async fn list(State(sandbox): State<Sandbox>) -> Response {
    answered(&json!({"appids": sandbox.appids()}))
}

async fn show(State(sandbox): State<Sandbox>, Path(appid): Path<String>) -> Controlled {
    let state = sandbox.state(&appid).ok_or(SandboxError::UnknownAccount(appid))?;
    Ok(answered(&json!(state)))
}

async fn configure(State(sandbox): State<Sandbox>, Path(appid): Path<String>, body: Bytes) -> Controlled {
    let patch: Value = if body.is_empty() { json!({}) } else { from_json(&body)? };
    sandbox.configure(&appid, &patch)?;
    show(State(sandbox), Path(appid)).await
}

async fn remove(State(sandbox): State<Sandbox>, Path(appid): Path<String>) -> Controlled {
    if sandbox.remove(&appid) { Ok(answered(&json!({}))) } else { Err(SandboxError::UnknownAccount(appid)) }
}

async fn set_faults(State(sandbox): State<Sandbox>, Path(appid): Path<String>, body: Bytes) -> Controlled {
    let faults: Vec<Fault> = from_json(&body)?;
    sandbox.set_faults(&appid, faults)?;
    show(State(sandbox), Path(appid)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnLine {
    line: Line,
}

async fn mint(State(sandbox): State<Sandbox>, Path(appid): Path<String>, body: Bytes) -> Controlled {
    let OnLine { line } = from_json(&body)?;
    Ok(answered(&json!(sandbox.mint_foreign(&appid, line)?)))
}

async fn kill(State(sandbox): State<Sandbox>, Path(appid): Path<String>, body: Bytes) -> Controlled {
    let OnLine { line } = from_json(&body)?;
    sandbox.kill(&appid, line)?;
    Ok(answered(&json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Judged {
    access_token: Option<String>,
    ticket: Option<String>,
}

async fn judge(State(sandbox): State<Sandbox>, uri: Uri) -> Controlled {
    let judged: Judged = from_query(&uri)?;
    let value = judged
        .access_token
        .or(judged.ticket)
        .ok_or_else(|| SandboxError::Invalid("judge needs ?access_token= or ?ticket=".to_owned()))?;
    Ok(answered(&json!(sandbox.judge(&value))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    after: u64,
    appid: Option<String>,
}

async fn log(State(sandbox): State<Sandbox>, uri: Uri) -> Controlled {
    let wanted: Wanted = from_query(&uri)?;
    Ok(answered(&json!({"entries": sandbox.log(wanted.after, wanted.appid.as_deref())})))
}

async fn clear_log(State(sandbox): State<Sandbox>) -> Response {
    sandbox.clear_log();
    answered(&json!({}))
}

async fn witness(State(sandbox): State<Sandbox>) -> Response {
    answered(&json!({"witnesses": sandbox.witnesses()}))
}

async fn clear_witness(State(sandbox): State<Sandbox>) -> Response {
    sandbox.clear_witnesses();
    answered(&json!({}))
}
