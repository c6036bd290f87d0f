//! Requests about accounts, tokens and keys.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    super::ssh_key::{self, PublicKey},
    Fields, MAX_TEXT, Refusal, at_most, optional, required, username_in,
};
use crate::model::{AppName, KeyName, Scope, TokenName, Username};

/// A new user.
pub struct Registration {
    /// Login name.
    pub username: Username,
    /// Password in clear, never stored.
    pub password: String,
    /// Mail address, maybe empty.
    pub email: String,
    /// First name, maybe empty.
    pub first_name: String,
    /// Last name, maybe empty.
    pub last_name: String,
}

/// `POST auth/register/`
///
/// # Errors
/// When a field is missing or not allowed.
pub fn registration(fields: &Fields) -> Result<Registration, Refusal> {
    let text = |name: &str| -> Result<String, Refusal> {
        at_most(name, optional(fields, name)?.unwrap_or_default(), MAX_TEXT).map(str::to_owned)
    };
    let username = username_in(fields, "username")?;
    let password = new_password(fields, "password")?;
    let email = text("email")?;
    if !email.is_empty() && !email.contains('@') {
        return Err(Refusal::field("email", "Enter a valid email address."));
    }
    Ok(Registration {
        username,
        password,
        email,
        first_name: text("first_name")?,
        last_name: text("last_name")?,
    })
}

/// A password to be set.
///
/// # Errors
/// When it is missing or too long to be hashed with bounded work.
pub fn new_password(fields: &Fields, name: &str) -> Result<String, Refusal> {
    at_most(name, required(fields, name)?, MAX_TEXT).map(str::to_owned)
}

/// `POST auth/login/`: name and password as given, for there is only one answer to wrong ones.
///
/// # Errors
/// When a field is missing.
pub fn credentials(fields: &Fields) -> Result<(String, String), Refusal> {
    let username = required(fields, "username")?.to_owned();
    let password = required(fields, "password")?;
    Ok((
        username,
        at_most("password", password, MAX_TEXT)?.to_owned(),
    ))
}

/// A password that proves who asks; none when it isn't given.
///
/// # Errors
/// When it is no text.
pub fn old_password(fields: &Fields) -> Result<Option<&str>, Refusal> {
    Ok(optional(fields, "password")?.filter(|password| !password.is_empty()))
}

/// Another user, where the request may name one.
///
/// # Errors
/// When the name is none.
pub fn other_user(fields: &Fields) -> Result<Option<Username>, Refusal> {
    match optional(fields, "username")? {
        None | Some("") => Ok(None),
        Some(_) => username_in(fields, "username").map(Some),
    }
}

/// A user that the request must name, in `username`.
///
/// # Errors
/// When it doesn't.
pub fn user(fields: &Fields) -> Result<Username, Refusal> {
    username_in(fields, "username")
}

/// A token to be minted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What to call it.
    pub name: TokenName,
    /// What it may be used for.
    pub scope: Scope,
    /// The only apps that it is for.
    pub apps: Option<BTreeSet<AppName>>,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// Most apps that a token may be limited to.
const MAX_TOKEN_APPS: usize = 100;

/// Longest life of a token that has an end, in days.
const MAX_TOKEN_DAYS: u64 = 3660;

/// `POST tokens/`
///
/// # Errors
/// When a field is missing or not allowed, or the end is in the past.
pub fn token(fields: &Fields, now: Timestamp) -> Result<NewToken, Refusal> {
    let name = required(fields, "name")?;
    let name = name
        .parse()
        .map_err(|e| Refusal::field("name", format!("{e}")))?;
    if fields.get("name").is_some_and(|name| name == "current") {
        return Err(Refusal::field("name", "current is a reserved name."));
    }
    // Nobody shall get a token for everything because he forgot to say for what.
    let scope = Scope::parse(required(fields, "scope")?)
        .ok_or_else(|| Refusal::field("scope", "Must be all, deploy or read."))?;
    let apps = match fields.get("apps") {
        None | Some(Value::Null) => None,
        Some(Value::Array(names)) => Some(token_apps(names)?),
        Some(_) => return Err(Refusal::field("apps", "Expected a list of apps.")),
    };
    let expires = optional(fields, "expires")?
        .map(|text| expiry(text, now))
        .transpose()?;
    Ok(NewToken {
        name,
        scope,
        apps,
        expires,
    })
}

fn token_apps(names: &[Value]) -> Result<BTreeSet<AppName>, Refusal> {
    if names.is_empty() || names.len() > MAX_TOKEN_APPS {
        let why = format!("Name 1 to {MAX_TOKEN_APPS} apps, or leave the field out for all.");
        return Err(Refusal::field("apps", why));
    }
    names
        .iter()
        .map(|name| {
            let text = name.as_str().unwrap_or_default();
            text.parse()
                .map_err(|_| Refusal::field("apps", format!("{name} is no app's name.")))
        })
        .collect()
}

/// When something ends that was given as `90d`, `12h`, `30m` or a time (RFC 3339).
///
/// # Errors
/// When it is neither, in the past, or too far away.
pub fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
    let refuse = |why: &str| Refusal::field("expires", why);
    let most = SignedDuration::from_secs((MAX_TOKEN_DAYS * 86_400).cast_signed());
    let end = match text.parse::<Timestamp>() {
        Ok(end) => end,
        Err(_) => {
            let wrong = || refuse("Write it as 90d, 12h or 30m, or as 2027-01-31T00:00:00Z.");
            let unit = match text.as_bytes().last() {
                Some(b'd') => 86_400,
                Some(b'h') => 3600,
                Some(b'm') => 60,
                _ => return Err(wrong()),
            };
            let digits = &text[..text.len() - 1];
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(wrong());
            }
            // More digits than a number holds are too many in any unit.
            let seconds = digits.parse::<i64>().ok().and_then(|n| n.checked_mul(unit));
            let life = seconds.map_or(SignedDuration::MAX, SignedDuration::from_secs);
            now.saturating_add(life.min(most + most))
                .map_err(|_| wrong())?
        }
    };
    if end <= now {
        return Err(refuse("That is not in the future."));
    }
    if now.duration_until(end) > most {
        return Err(refuse(&format!("At most {MAX_TOKEN_DAYS}d.")));
    }
    Ok(end)
}

/// `POST keys/`
///
/// # Errors
/// When the name or the key is none.
pub fn key(fields: &Fields) -> Result<(KeyName, PublicKey), Refusal> {
    let id = required(fields, "id")?
        .trim()
        .parse()
        .map_err(|e| Refusal::field("id", format!("{e}")))?;
    let public = at_most("public", required(fields, "public")?, 16 << 10)?;
    let key = ssh_key::parse(public).map_err(|e| Refusal::field("public", e.to_string()))?;
    Ok((id, key))
}
