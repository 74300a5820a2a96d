//! The first admin key: the operator's own, or one made at the first start.

use secrecy::{ExposeSecret, SecretString};

use super::StartError;
use crate::domain::key::{AccountScope, Actions, KeyText, Role};
use crate::domain::path_rules::PathRules;
use crate::domain::timestamp::Timestamp;
use crate::seal::random_bytes;
use crate::store::audit::Actor;
use crate::store::key::NewKey;
use crate::store::{FailureKind, Store};

/// Sees to it that there is an admin key: the operator's own, or else `new`. Returns that if the database has it, because it is kept nowhere else.
pub(super) async fn provide(
    store: &Store,
    given: Option<&SecretString>,
    new: &KeyText,
    now: Timestamp,
) -> Result<Option<KeyText>, StartError> {
    if let Some(given) = given {
        adopt(store, &KeyText::parse(given.expose_secret())?, now).await?;
        return Ok(None);
    }
    if store.has_admin_key(now).await? {
        return Ok(store.knows_key(new).await?.then(|| new.clone()));
    }
    store.create_key(new, &everything("first admin key"), &program(), now).await?;
    Ok(Some(new.clone()))
}

/// A new random key.
pub(super) fn make(role: Role) -> Result<KeyText, StartError> {
    let mut random = [0; 128];
    random_bytes(&mut random).and_then(|()| KeyText::generate(role, random)).ok_or(StartError::NoRandomness)
}

async fn adopt(store: &Store, key: &KeyText, now: Timestamp) -> Result<(), StartError> {
    if store.knows_key(key).await? {
        return Ok(());
    }
    match store.create_key(key, &everything("WXTOKEN_ADMIN_KEY"), &program(), now).await {
        // Another instance that starts now was first.
        Err(error) if error.kind() == Some(FailureKind::Duplicate) => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

fn everything(name: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        role: Role::Admin,
        accounts: AccountScope::All,
        actions: Actions::of_role(Role::Admin),
        expires_at: Timestamp::NEVER,
        sdk: None,
        paths: PathRules::default(),
    }
}

/// The program itself, for the audit.
pub(super) fn program() -> Actor {
    Actor { name: "wxtoken".to_owned(), request_id: None }
}
