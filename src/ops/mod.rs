//! What users do to apps, as library calls that controller and builder share: each reads, decides
//! purely, and commits one transaction that compares what it was based on.

pub mod app;
pub mod audit;
pub mod change;
pub mod follow;
pub mod gone;
pub mod hosts;
pub mod maintenance;
mod names;
pub mod needed;
pub mod policy;
pub mod release;
pub mod single;
pub mod units;

use crate::{
    model::{AppName, InvalidName, ProcessType, ReleaseNumber, RolloutKind, Username},
    seal::SealError,
    store::StoreError,
};

/// Why a user's wish can't be met.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// There is no such thing.
    #[error("{0} not found")]
    NotFound(String),
    /// An app of that name exists.
    #[error("the app {0} exists already")]
    Taken(AppName),
    /// Another change of the app is in progress.
    #[error("another change of {app} is in progress ({what}, by {by}); try again when it is done")]
    Busy {
        /// The app.
        app: AppName,
        /// What is going on.
        what: String,
        /// Who asked for that.
        by: Username,
    },
    /// Nothing has been pushed yet.
    #[error("No build associated with this release")]
    NoBuild,
    /// The Procfile has no such type.
    #[error("Container type {0} does not exist in application")]
    UnknownType(ProcessType),
    /// There is no release to go back to.
    #[error("there is no earlier release of {0} that succeeded")]
    NothingToRollBackTo(AppName),
    /// The app is being destroyed.
    #[error("the app {0} is being destroyed")]
    Destroying(AppName),
    /// The change is not allowed as it is.
    #[error("{0}")]
    Invalid(String),
    /// A name is wrong.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A config value can't be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Others changed the same thing again and again.
    #[error("{0} is being changed by others all the time; try again")]
    Contended(String),
    /// It took too long.
    #[error("{what} took longer than {limit_secs} s; it goes on without you, look at `deis ps`")]
    Timeout {
        /// What was waited for.
        what: String,
        /// The bound in seconds.
        limit_secs: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How often a transaction that met a conflict is decided anew.
const TRIES: usize = 20;

fn describe(kind: &RolloutKind, release: ReleaseNumber) -> String {
    match kind {
        RolloutKind::Release => format!("release {release}"),
        RolloutKind::Scale => "scaling".to_owned(),
        RolloutKind::Restart { .. } => "restart".to_owned(),
    }
}
