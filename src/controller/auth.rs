//! Passwords and tokens. A password is stored as argon2 hash, a token as SHA-256: neither can be
//! read from etcd. Each login mints a token of its own.

use std::time::Duration;

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::error::ApiError;
use crate::{
    model::{Revision, SCHEMA, Scope, Token, User, Username},
    store::{MAX_TXN_OPS, Store, Txn, keys},
};

/// Passwords that are hashed at once: each takes 19 MiB and a core.
const HASHED_AT_ONCE: usize = 2;

/// How long a login waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(10);

/// A hash that no password has: an unknown user's login takes as long as a known one's.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Hashes passwords, a few at a time.
pub(super) struct Passwords(Semaphore);

impl Default for Passwords {
    fn default() -> Self {
        Self(Semaphore::new(HASHED_AT_ONCE))
    }
}

impl Passwords {
    async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy = || ApiError::Unavailable("Too many logins at once; try again.".to_owned());
        let turn = tokio::time::timeout(TURN_LIMIT, self.0.acquire()).await;
        let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(ApiError::internal)
    }

    /// The form in which a password is stored.
    pub(super) async fn hash(&self, password: String) -> Result<String, ApiError> {
        let hashed = self
            .turn(move || {
                Argon2::default()
                    .hash_password(password.as_bytes())
                    .map(|h| h.to_string())
            })
            .await?;
        hashed.map_err(ApiError::internal)
    }

    /// Whether a password is the user's; false when there is no such user, after the same time.
    pub(super) async fn verify(
        &self,
        password: String,
        user: Option<&User>,
    ) -> Result<bool, ApiError> {
        let hash = user.map_or(NOBODY, |user| &user.password).to_owned();
        let right = self
            .turn(move || {
                Argon2::default()
                    .verify_password(password.as_bytes(), hash.as_str())
                    .is_ok()
            })
            .await?;
        Ok(right && user.is_some())
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    Ok(bytes)
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name under which a token is stored.
pub(super) fn token_hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Digits of a token's id.
const ID_DIGITS: usize = 12;

/// What a token is called where its text must not stand: the first digits of its hash. Every token
/// has one, those from before ids included, and it tells nothing of the text.
pub(super) fn token_id(hash: &str) -> &str {
    hash.get(..ID_DIGITS).unwrap_or(hash)
}

/// A token's id in a path; none when it can't be one.
pub(super) fn parse_token_id(text: &str) -> Option<&str> {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == ID_DIGITS && text.bytes().all(digit)).then_some(text)
}

/// What a login gets: good for everything, without an end.
pub(super) const fn login(user: Username, created: Timestamp) -> Token {
    Token {
        schema: SCHEMA,
        user,
        created,
        name: None,
        scope: Scope::All,
        apps: None,
        expires: None,
    }
}

/// The text of a new token, and the change that makes it valid.
pub(super) fn mint(token: &Token) -> Result<(String, Txn), ApiError> {
    let text = hex(&random::<20>()?);
    let txn = Txn::new().put(&keys::token(&token_hash(&text)), token);
    Ok((text, txn))
}

/// Who asks, proven by a token.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) user: User,
    pub(super) token: Token,
    /// The token's name in the store.
    pub(super) hash: String,
}

/// Whom a token proves; none when it is none, or was ended. One that has expired still proves who
/// it was for: that is for `Grant::permits` to say.
pub(super) async fn identify(store: &Store, token: &str) -> Result<Option<Identity>, ApiError> {
    if token.len() != 40 || !token.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let hash = token_hash(&token.to_ascii_lowercase());
    let Some(found) = store.get(&keys::token(&hash)).await? else {
        return Ok(None);
    };
    let token = found.value;
    let user = store.get(&keys::user(&token.user)).await?;
    // A user who was deleted and registered anew is somebody else.
    let user = user
        .map(|user| user.value)
        .filter(|user| user.created <= token.created);
    Ok(user.map(|user| Identity { user, token, hash }))
}

/// A user's tokens with their hashes, the oldest first.
pub(super) async fn tokens_of(
    store: &Store,
    user: &Username,
) -> Result<Vec<(String, Token)>, ApiError> {
    let prefix = keys::tokens();
    let listing = store.list_readable(&prefix).await?;
    let mut own: Vec<_> = listing
        .entries
        .into_iter()
        .filter(|(_, token)| token.value.user == *user)
        .filter_map(|(key, token)| {
            let hash = keys::last_part(&key, prefix.as_str())?.to_owned();
            Some((hash, token.value))
        })
        .collect();
    own.sort_by_key(|(_, token)| token.created);
    Ok(own)
}

/// Ends the tokens for which `which` holds, given their hashes; says how many.
pub(super) async fn end_tokens(
    store: &Store,
    which: impl Fn(&str, &Token) -> bool,
) -> Result<usize, ApiError> {
    let prefix = keys::tokens();
    let listing = store.list_readable(&prefix).await?;
    let hashes: Vec<&str> = listing
        .entries
        .iter()
        .filter_map(|(key, token)| {
            let hash = keys::last_part(key, prefix.as_str())?;
            which(hash, &token.value).then_some(hash)
        })
        .collect();
    for some in hashes.chunks(MAX_TXN_OPS) {
        let txn = some
            .iter()
            .fold(Txn::new(), |txn, hash| txn.delete(&keys::token(hash)));
        store.commit(txn).await?;
    }
    Ok(hashes.len())
}

/// Reads a user with the revision that changes of it compare.
pub(super) async fn user(
    store: &Store,
    name: &Username,
) -> Result<Option<(User, Revision)>, ApiError> {
    let found = store.get(&keys::user(name)).await?;
    Ok(found.map(|user| (user.value, user.mod_revision)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada(password: String) -> User {
        User {
            schema: SCHEMA,
            uuid: uuid::Uuid::nil(),
            username: "ada".parse().expect("name"),
            email: String::new(),
            first_name: String::new(),
            last_name: String::new(),
            password,
            is_superuser: false,
            created: Timestamp::UNIX_EPOCH,
            last_login: None,
        }
    }

    #[tokio::test]
    async fn passwords() {
        let passwords = Passwords::default();
        let user = ada(passwords.hash("secret".into()).await.expect("hash"));
        assert!(user.password.starts_with("$argon2id$"), "{}", user.password);
        for (password, user, want) in [
            ("secret", Some(&user), true),
            ("Secret", Some(&user), false),
            ("", Some(&user), false),
            ("secret", None, false),
        ] {
            let got = passwords
                .verify(password.into(), user)
                .await
                .expect("verify");
            assert_eq!(got, want, "{password}");
        }
        // The stand-in for unknown users must cost what a real one costs: it has to be a real hash.
        assert!(argon2::PasswordHash::new(NOBODY).is_ok());
    }
}
