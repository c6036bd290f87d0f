//! The certificates of port 443: for each handshake, the one that its client asks for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{info, warn};

use crate::{
    cert,
    model::Certificate,
    plan::{
        certs::CertTable,
        routes::{BadRecord, RecordChange, SavedRecord},
    },
    seal::{ClusterKey, cert_context},
};

type Table = CertTable<Arc<CertifiedKey>>;

/// What is served to whom: users' certificates by their names, the platform's to all others.
pub struct Certs {
    table: RwLock<Table>,
    /// The operator's, or the self-signed one; set once, when it is known.
    platform: OnceLock<Arc<CertifiedKey>>,
    key: ClusterKey,
}

impl fmt::Debug for Certs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (served, bad) = self.counts();
        write!(f, "Certs({served} served, {bad} left out)")
    }
}

impl Certs {
    /// None yet; private keys open with the cluster's key.
    #[must_use]
    pub fn new(key: ClusterKey) -> Self {
        Self {
            table: RwLock::default(),
            platform: OnceLock::new(),
            key,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the one for names that nobody has brought a certificate for.
    pub fn set_platform(&self, pair: CertifiedKey) {
        let _ = self.platform.set(Arc::new(pair));
    }

    /// Applies what the feed tells; `first` has everything that there is.
    pub fn update(&self, changes: &[RecordChange<'_>], first: bool) {
        // Handshakes go on meanwhile: keys are opened and parsed outside of the lock.
        let mut made: BTreeMap<&str, Result<Arc<CertifiedKey>, String>> = BTreeMap::new();
        for change in changes {
            if let Some(record) = change
                .value
                .and_then(|v| crate::model::Record::decode(v).ok())
            {
                made.insert(change.key, self.open(&record));
            }
        }
        let mut make = |record: &Certificate| {
            let key = crate::store::keys::cert(&record.name);
            let made = made.get(key.as_str());
            made.cloned().unwrap_or_else(|| self.open(record))
        };
        let mut table = self.write();
        let bad = if first {
            table.replace(changes, &mut make)
        } else {
            table.apply(changes.iter().copied(), &mut make)
        };
        let (served, left_out) = table.counts();
        drop(table);
        for BadRecord { key, why } in &bad {
            warn!(
                key,
                why, "certificate left out: its names get the platform's"
            );
        }
        info!(
            changes = changes.len(),
            served, left_out, "certificates changed"
        );
    }

    /// A record as rustls serves it.
    fn open(&self, record: &Certificate) -> Result<Arc<CertifiedKey>, String> {
        let context = cert_context(&record.name);
        let secret = self.key.open_text(&context, &record.key);
        let secret = secret.map_err(|error| error.to_string())?;
        let pair = cert::read_chain(&record.chain)
            .and_then(|chain| cert::pair(chain, cert::read_key(secret.expose())?));
        pair.map(Arc::new).map_err(|error| error.to_string())
    }

    /// How many users' certificates are served, and how many are left out.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.read().counts()
    }

    /// The records, with their keys sealed.
    #[must_use]
    pub fn export(&self) -> Vec<SavedRecord> {
        self.read().export()
    }
}

impl ResolvesServerCert for Certs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.read().lookup(&name).map(Arc::clone)
        });
        asked.or_else(|| self.platform.get().map(Arc::clone))
    }
}
