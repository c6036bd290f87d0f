//! `tokens/`: one's own tokens, for programs that act in one's name.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use jiff::Timestamp;

use super::created;
use crate::{
    api::{
        grant::Grant,
        valid::{self, Refusal},
        wire,
    },
    controller::{
        self, auth,
        error::ApiError,
        extract::{Body, By, Proven},
        page::Paging,
    },
    model::{Action, SCHEMA, Token},
    ops::audit,
    store::{Txn, keys},
};

type Ctl = State<controller::State>;

/// Named tokens of one user.
const MOST: usize = 100;

pub(super) async fn list(
    State(ctl): Ctl,
    Proven(who): Proven,
    paging: Paging,
) -> Result<Json<wire::Page<wire::Token>>, ApiError> {
    let own = auth::tokens_of(&ctl.store, &who.user.username).await?;
    let shapes = own
        .iter()
        .map(|(hash, token)| wire::Token::new(auth::token_id(hash), token, *hash == who.hash))
        .collect();
    Ok(Json(paging.cut(shapes)?))
}

pub(super) async fn create(
    State(ctl): Ctl,
    Proven(who): Proven,
    By(by): By,
    Body(fields): Body,
) -> Result<Response, ApiError> {
    let now = Timestamp::now();
    let wanted = valid::token(&fields, now)?;
    let token = Token {
        schema: SCHEMA,
        user: who.user.username.clone(),
        created: now,
        name: Some(wanted.name.clone()),
        scope: wanted.scope,
        apps: wanted.apps,
        expires: wanted.expires,
    };
    if !Grant::from(&who.token).covers(&Grant::from(&token)) {
        return Err(ApiError::ForbiddenBecause(
            "A token can't make one that may do more, or lives longer, than itself.".to_owned(),
        ));
    }
    let named: Vec<_> = auth::tokens_of(&ctl.store, &token.user)
        .await?
        .into_iter()
        .filter(|(_, token)| token.name.is_some())
        .collect();
    // Its name is how a token is revoked: it must say which. One that has expired gives it back.
    let lives = |token: &Token| token.expires.is_none_or(|end| end > now);
    let same = |token: &Token| token.name.as_ref() == Some(&wanted.name);
    if named.iter().any(|(_, other)| same(other) && lives(other)) {
        return Err(Refusal::not_unique("name").into());
    }
    let (spent, alive): (Vec<_>, Vec<_>) = named.iter().partition(|(_, token)| !lives(token));
    if alive.len() >= MOST {
        return Err(ApiError::Conflict(format!(
            "You have {MOST} tokens already; end one with 'deis tokens:revoke' first."
        )));
    }
    let (text, mut txn) = auth::mint(&token)?;
    // Who asks with an expired token is told so for as long as nobody makes another one.
    for (hash, _) in spent.iter().take(MOST) {
        txn = txn.delete(&keys::token(hash));
    }
    let hash = auth::token_hash(&text);
    let txn = txn.present(&keys::user(&token.user));
    let note = by.note(Action::TokenCreate, described(&token));
    audit::commit_platform(&ctl.store, txn, note).await?;
    Ok(created(wire::NewToken {
        token: text,
        about: wire::Token::new(auth::token_id(&hash), &token, false),
    }))
}

/// `ci: scope deploy, apps blog, until 2027-01-31T00:00:00Z`
fn described(token: &Token) -> String {
    let mut text = match &token.name {
        Some(name) => format!("{name}: scope {}", token.scope.word()),
        None => "a login".to_owned(),
    };
    if let Some(apps) = &token.apps {
        let names: Vec<&str> = apps.iter().map(AsRef::as_ref).collect();
        text = format!("{text}, apps {}", names.join(" "));
    }
    if let Some(end) = token.expires {
        text = format!("{text}, until {}", end.strftime("%Y-%m-%dT%H:%M:%SZ"));
    }
    text
}

pub(super) async fn revoke(
    State(ctl): Ctl,
    Proven(who): Proven,
    By(by): By,
    Path(which): Path<String>,
) -> Result<StatusCode, ApiError> {
    let own = auth::tokens_of(&ctl.store, &who.user.username).await?;
    // An id wins over a name that looks like one.
    let by_id = |hash: &str| {
        (which == "current" && hash == who.hash)
            || auth::parse_token_id(&which) == Some(auth::token_id(hash))
    };
    let by_name = |token: &Token| {
        token
            .name
            .as_ref()
            .is_some_and(|name| name.as_str() == which)
    };
    let found = own
        .iter()
        .find(|(hash, _)| by_id(hash))
        .or_else(|| own.iter().rev().find(|(_, token)| by_name(token)));
    let (hash, token) = found.ok_or(ApiError::NotFound)?;
    let txn = Txn::new().delete(&keys::token(hash));
    let note = by.note(Action::TokenRevoke, described(token));
    audit::commit_platform(&ctl.store, txn, note).await?;
    Ok(StatusCode::NO_CONTENT)
}
