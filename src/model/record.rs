//! What etcd holds, record by record. Values are JSON with one schema version each; unknown fields
//! are ignored, so that an older reader survives a newer writer.

mod acme;
mod app;
mod audit;
mod fleet;
mod rollout;
mod user;

use serde::{Serialize, de::DeserializeOwned};

pub use self::{acme::*, app::*, audit::*, fleet::*, rollout::*, user::*};

/// The schema version that this program writes into every record.
pub const SCHEMA: u16 = 1;

/// A value that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the record is no valid {what}")]
pub struct DecodeError {
    /// Type of record expected.
    pub what: &'static str,
    /// What the parser says.
    #[source]
    pub source: serde_json::Error,
}

/// Something that etcd holds under a key.
pub trait Record: Sized {
    /// The stored form.
    fn encode(&self) -> Vec<u8>;
    /// Reads the stored form.
    ///
    /// # Errors
    /// When the bytes are not such a record.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Marks a serde type as a JSON record.
macro_rules! json_record {
    ($($name:ty),* $(,)?) => {$(
        impl Record for $name {
            fn encode(&self) -> Vec<u8> {
                to_json(self)
            }
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                from_json(bytes)
            }
        }
    )*};
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: records have text keys and always serialize")
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError {
        what: std::any::type_name::<T>(),
        source,
    })
}

json_record!(
    AcmeAccount,
    AcmeChallenge,
    AcmeOrder,
    App,
    Build,
    Config,
    Release,
    Outcome,
    Rollout,
    Route,
    Domain,
    Certificate,
    HostRecord,
    Machine,
    Assignment,
    MachineState,
    RouterPresence,
    PartPresence,
    Leader,
    User,
    Token,
    SshKey,
    UnitFile,
    Push,
    PushLock,
    GitHead,
    SealedValue,
    Audit,
);

/// Plain text, for values that people and scripts read as they are (settings, addresses).
impl Record for String {
    fn encode(&self) -> Vec<u8> {
        self.clone().into_bytes()
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::from_utf8_lossy(bytes).into_owned())
    }
}

const fn schema() -> u16 {
    SCHEMA
}
