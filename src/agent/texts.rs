//! The files of raw units that start together: read together, in a few reads instead of one each.

use std::collections::HashMap;

use tokio::sync::OnceCell;

use crate::{
    model::{UnitFile, UnitFileName},
    store::{Store, StoreError, keys},
};

/// The unit files of starts that begin in the same moment.
#[derive(Debug, Default)]
pub struct Texts {
    names: Vec<UnitFileName>,
    read: OnceCell<Result<Files, StoreError>>,
}

/// One unit's file that can't be read is no other's business.
type Files = HashMap<UnitFileName, Result<UnitFile, StoreError>>;

impl Texts {
    /// The files of these; nothing is read before one is asked for.
    pub fn of(names: Vec<UnitFileName>) -> Self {
        Self {
            names,
            read: OnceCell::new(),
        }
    }

    /// One of them; none when it is not in etcd.
    ///
    /// # Errors
    /// When etcd can't be reached or the record can't be read.
    pub async fn get(
        &self,
        store: &Store,
        name: &UnitFileName,
    ) -> Result<Option<UnitFile>, StoreError> {
        let read = self.read.get_or_init(|| self.read_all(store)).await;
        match read {
            Ok(files) => files.get(name).cloned().transpose(),
            Err(error) => Err(error.clone()),
        }
    }

    async fn read_all(&self, store: &Store) -> Result<Files, StoreError> {
        let wanted: Vec<_> = self.names.iter().map(keys::unit).collect();
        let found = store.get_many(&wanted).await?;
        let file = |(name, file): (&UnitFileName, Option<Result<_, StoreError>>)| {
            let file: Result<crate::store::Versioned<UnitFile>, _> = file?;
            Some((name.clone(), file.map(|file| file.value)))
        };
        Ok(self.names.iter().zip(found).filter_map(file).collect())
    }
}
