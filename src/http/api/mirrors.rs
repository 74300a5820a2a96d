//! Listing, making and removing mirrors. Passwords of targets and secrets of apps are taken in and never shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::shown;
use crate::domain::Invalid;
use crate::domain::account::AppId;
use crate::domain::key::Action;
use crate::domain::mirror::{Address, ConfiguredSecret, Layout, LayoutFields, MOST_MIRRORS, Mirror, NewMirror, Target};
use crate::http::Rooms;
use crate::http::body::{Parameters, Submitted};
use crate::http::caller::{AccountInPath, Caller, IdInPath, ReadAccounts, WriteAccounts};
use crate::http::problem::{Code, Problem};
use crate::http::routes::{Routes, Verb};
use crate::live::mirrors::MirrorStatus;
use crate::store::StoreError;
use crate::store::mirror::Creation;

pub(super) fn add_to(routes: Routes) -> Routes {
    routes
        .guarded(Verb::Get, "/v1/accounts/{appid}/mirrors", list)
        .guarded(Verb::Post, "/v1/accounts/{appid}/mirrors", create)
        .guarded(Verb::Delete, "/v1/accounts/{appid}/mirrors/{id}", remove)
}

/// A mirror with its health on this instance. What is not a field of its format is left out.
#[derive(Serialize)]
struct MirrorView {
    id: String,
    appid: String,
    format: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serializer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    created_at: Option<String>,
    health: HealthView,
}

#[derive(Serialize)]
struct HealthView {
    state: &'static str,
    last_written_at: Option<String>,
    last_checked_at: Option<String>,
    failing_since: Option<String>,
    last_error: Option<String>,
}

impl MirrorView {
    fn of(mirror: &Mirror, rooms: &Rooms) -> Self {
        let LayoutFields { format, prefix, app, serializer, token_type, key, value } = mirror.layout.fields();
        Self {
            id: mirror.id.clone(),
            appid: mirror.appid.to_string(),
            target: mirror.target.to_string(),
            created_at: shown(mirror.created_at),
            health: rooms.live.mirrors().status(&mirror.id).into(),
            format,
            prefix,
            app,
            serializer,
            token_type,
            key,
            value,
        }
    }
}

impl From<MirrorStatus> for HealthView {
    fn from(status: MirrorStatus) -> Self {
        Self {
            state: status.state.as_str(),
            last_written_at: status.last_written_at.and_then(shown),
            last_checked_at: status.last_checked_at.and_then(shown),
            failing_since: status.failing_since.and_then(shown),
            last_error: status.last_error,
        }
    }
}

/// An account has so few that there is one page.
#[derive(Serialize)]
struct Mirrors {
    items: Vec<MirrorView>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

async fn list(
    _caller: Caller<ReadAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
    Parameters(NoParameters {}): Parameters<NoParameters>,
) -> Result<Json<Mirrors>, Problem> {
    rooms.store.account(appid.as_str()).await?.ok_or_else(Problem::unknown_account)?;
    let mirrors = rooms.store.mirrors(&appid).await?.into_iter().filter_map(|row| row.inspect_err(report).ok());
    Ok(Json(Mirrors { items: mirrors.map(|mirror| MirrorView::of(&mirror, &rooms)).collect(), next: None }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    format: String,
    target: String,
    secret: Option<String>,
    prefix: Option<String>,
    app: Option<String>,
    serializer: Option<String>,
    token_type: Option<String>,
    key: Option<String>,
    value: Option<String>,
}

impl Order {
    fn check(self, appid: AppId, rooms: &Rooms) -> Result<NewMirror, Invalid> {
        let Self { format, target, secret, prefix, app, serializer, token_type, key, value } = self;
        let target = Target::parse(&target)?;
        let secret = secret.as_deref().map(ConfiguredSecret::parse).transpose()?;
        let fields = LayoutFields { format, prefix, app, serializer, token_type, key, value };
        let new = NewMirror::new(appid, target, Layout::parse(fields, secret)?)?;
        if matches!(new.target.address(), Address::File { .. }) && rooms.live.mirrors().directory().is_none() {
            return Err(Invalid::new(
                "target",
                "files are written when the setting WXTOKEN_MIRROR_DIR names a directory",
            ));
        }
        Ok(new)
    }
}

async fn create(
    caller: Caller<WriteAccounts>,
    AccountInPath(appid): AccountInPath,
    State(rooms): State<Arc<Rooms>>,
    Submitted(order): Submitted<Order>,
) -> Result<(StatusCode, Json<MirrorView>), Problem> {
    // A mirror hands tokens out, to a server of the caller's choice.
    caller.check_action(Action::TokenRead)?;
    let new = order.check(appid, &rooms)?;
    if rooms.live.mirrors_in_use().iter().any(|mirror| new.collides_with(mirror)) {
        let detail = "another mirror writes the same key at this place; remove it first, or choose another key, prefix or database";
        return Err(Problem::new(Code::MirrorExists, detail));
    }
    let asked = Instant::now();
    match rooms.store.create_mirror(&new, &caller.actor(), rooms.clock.now()).await? {
        Creation::Created(change) => {
            let view = change.mirror.as_ref().map(|mirror| MirrorView::of(mirror, &rooms));
            rooms.live.publish_mirrors([*change], asked);
            view.map(|view| (StatusCode::CREATED, Json(view))).ok_or_else(unknown)
        }
        Creation::NoAccount => Err(Problem::unknown_account()),
        Creation::TooMany => {
            let detail = format!("an account has at most {MOST_MIRRORS} mirrors; remove one that is not needed");
            Err(Problem::new(Code::TooManyMirrors, detail))
        }
    }
}

async fn remove(
    caller: Caller<WriteAccounts>,
    AccountInPath(appid): AccountInPath,
    IdInPath(id): IdInPath,
    State(rooms): State<Arc<Rooms>>,
) -> Result<StatusCode, Problem> {
    let asked = Instant::now();
    let removed = rooms.store.remove_mirror(&appid, &id, &caller.actor(), rooms.clock.now()).await?;
    rooms.live.publish_mirrors([removed.ok_or_else(unknown)?], asked);
    Ok(StatusCode::NO_CONTENT)
}

/// One bad row hides no other mirror.
fn report(error: &StoreError) {
    tracing::error!(error = error as &dyn std::error::Error, "a mirror cannot be read and is left out of the list");
}

fn unknown() -> Problem {
    Problem::new(Code::UnknownMirror, "the account has no mirror of this id; its list of mirrors has their ids")
}
