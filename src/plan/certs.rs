//! Which certificate answers to a host name.
//!
//! Built from etcd's records as the route table is: by atomic changes, and a record that can't be used
//! takes its own names away and is reported; it harms nobody else's.
//!
//! Pure. What is served (`C`) is made by the caller, so that the table can be tested with numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::routes::{BadRecord, RecordChange, SavedRecord};
use crate::{
    model::{Certificate, DomainName, Record, Revision},
    store::keys,
};

/// The certificates by name.
#[derive(Debug)]
pub struct CertTable<C> {
    records: BTreeMap<DomainName, Entry<C>>,
    /// For each name the record that is served for it.
    chosen: HashMap<DomainName, DomainName>,
    bad: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Entry<C> {
    revision: Revision,
    raw: String,
    names: BTreeSet<DomainName>,
    served: C,
}

impl<C> Default for CertTable<C> {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            chosen: HashMap::new(),
            bad: BTreeMap::new(),
        }
    }
}

impl<C> CertTable<C> {
    /// Applies changes; `make` turns a record into what is served, or says why it can't. Gives back
    /// the records that are left out. Applying the same change twice is the same as once.
    pub fn apply<'c>(
        &mut self,
        changes: impl IntoIterator<Item = RecordChange<'c>>,
        make: &mut dyn FnMut(&Certificate) -> Result<C, String>,
    ) -> Vec<BadRecord> {
        let mut bad = Vec::new();
        for change in changes {
            let Some(name) = keys::last_part(change.key, keys::certs().as_str()) else {
                continue;
            };
            self.bad.remove(change.key);
            if let Err(why) = self.apply_one(name, change, make) {
                // What can't be read is as good as absent: its old value is history.
                self.records.remove(name);
                let key = change.key.to_owned();
                self.bad.insert(key.clone(), why.clone());
                bad.push(BadRecord { key, why });
            }
        }
        self.choose();
        bad
    }

    /// Replaces everything by these records: what is the same stays as it is.
    pub fn replace(
        &mut self,
        records: &[RecordChange<'_>],
        make: &mut dyn FnMut(&Certificate) -> Result<C, String>,
    ) -> Vec<BadRecord> {
        let present: BTreeSet<&str> = records.iter().map(|record| record.key).collect();
        self.bad.retain(|key, _| present.contains(key.as_str()));
        self.records
            .retain(|name, _| present.contains(keys::cert(name).as_str()));
        self.apply(records.iter().copied(), make)
    }

    fn apply_one(
        &mut self,
        name: &str,
        change: RecordChange<'_>,
        make: &mut dyn FnMut(&Certificate) -> Result<C, String>,
    ) -> Result<(), String> {
        let Some(value) = change.value else {
            self.records.remove(name);
            return Ok(());
        };
        let same = |entry: &Entry<C>| entry.revision == change.revision;
        if self.records.get(name).is_some_and(same) {
            return Ok(());
        }
        let record =
            Certificate::decode(value).map_err(|error| format!("{error}: {}", error.source))?;
        if record.name.as_str() != name {
            return Err(format!("it says that it is {}", record.name));
        }
        let entry = Entry {
            revision: change.revision,
            raw: String::from_utf8_lossy(value).into_owned(),
            served: make(&record)?,
            names: record.names,
        };
        self.records.insert(record.name, entry);
        Ok(())
    }

    /// For each name: the record that is called so, else the one that came first, so that nobody
    /// takes a name that is served already. All routers choose alike.
    fn choose(&mut self) {
        let mut offers: Vec<(&DomainName, bool, Revision, &DomainName)> = Vec::new();
        for (record, entry) in &self.records {
            for name in &entry.names {
                offers.push((name, name != record, entry.revision, record));
            }
        }
        offers.sort_unstable();
        self.chosen.clear();
        for (name, _, _, record) in offers {
            if !self.chosen.contains_key(name) {
                self.chosen.insert(name.clone(), record.clone());
            }
        }
    }

    /// What is served for a host, in lower case: by its own name, else by a wildcard.
    #[must_use]
    pub fn lookup(&self, host: &str) -> Option<&C> {
        let chosen = self.chosen.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.chosen.get(format!("*.{parent}").as_str())
        })?;
        self.records.get(chosen).map(|entry| &entry.served)
    }

    /// How many are served, and how many are left out.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.records.len(), self.bad.len())
    }

    /// The records that it is made of, keys sealed as they came: applied to an empty table, they give
    /// this one again.
    #[must_use]
    pub fn export(&self) -> Vec<SavedRecord> {
        let record = |(name, entry): (&DomainName, &Entry<C>)| SavedRecord {
            key: keys::cert(name).to_string(),
            revision: entry.revision,
            value: entry.raw.clone(),
        };
        self.records.iter().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{SCHEMA, SealedValue};

    fn record(name: &str, names: &[&str], served: u32) -> (String, String) {
        let name: DomainName = name.parse().expect("name");
        let record = Certificate {
            schema: SCHEMA,
            names: names.iter().map(|n| n.parse().expect("name")).collect(),
            owner: "ada".parse().expect("user"),
            chain: served.to_string(),
            key: SealedValue("sealed".into()),
            expires: jiff::Timestamp::UNIX_EPOCH,
            created: jiff::Timestamp::UNIX_EPOCH,
            auto: false,
            name: name.clone(),
        };
        let value = String::from_utf8(record.encode()).expect("text");
        (keys::cert(&name).to_string(), value)
    }

    fn put((key, value): &(String, String), revision: Revision) -> RecordChange<'_> {
        let value = Some(value.as_bytes());
        RecordChange {
            key,
            revision,
            value,
        }
    }

    fn delete((key, _): &(String, String), revision: Revision) -> RecordChange<'_> {
        let value = None;
        RecordChange {
            key,
            revision,
            value,
        }
    }

    /// What is served is the number in the chain.
    fn number(record: &Certificate) -> Result<u32, String> {
        record.chain.parse().map_err(|_| "no number".to_owned())
    }

    #[test]
    fn exact_names_come_before_wildcards_and_own_names_before_others() {
        let many = record("a.x", &["a.x", "b.x", "*.c.x", "www.d.x"], 1);
        let own = record("b.x", &["b.x"], 2);
        let late = record("z.x", &["z.x", "www.d.x"], 3);
        let exact = record("one.c.x", &["one.c.x"], 4);
        let mut table = CertTable::default();
        let bad = table.apply(
            [put(&late, 8), put(&many, 5), put(&own, 6), put(&exact, 7)],
            &mut number,
        );
        assert!(bad.is_empty(), "{bad:?}");
        for (host, want) in [
            ("a.x", Some(1)),
            ("b.x", Some(2)),
            ("two.c.x", Some(1)),
            ("one.c.x", Some(4)),
            ("a.two.c.x", None),
            ("c.x", None),
            ("www.d.x", Some(1)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(table.lookup(host).copied(), want, "{host}");
        }
        // One that goes leaves its names to the next.
        table.apply([delete(&own, 9), delete(&many, 10)], &mut number);
        for (host, want) in [("b.x", None), ("www.d.x", Some(3)), ("one.c.x", Some(4))] {
            assert_eq!(table.lookup(host).copied(), want, "{host}");
        }
    }

    #[test]
    fn a_bad_record_harms_only_itself() {
        let good = record("good.x", &["good.x"], 1);
        let lies = (
            record("lies.x", &[], 0).0,
            record("good.x", &["lies.x"], 2).1,
        );
        let broken = ("/deis/certs/broken.x".to_owned(), "no JSON".to_owned());
        let strange = ("/deis/certs/a/b".to_owned(), good.1.clone());
        let mut turned = record("turned.x", &["turned.x"], 3);
        let mut table = CertTable::default();
        let all = [
            put(&lies, 1),
            put(&good, 2),
            put(&broken, 3),
            put(&strange, 4),
            put(&turned, 5),
        ];
        let bad = table.apply(all, &mut number);
        let keys: Vec<&str> = bad.iter().map(|bad| bad.key.as_str()).collect();
        assert_eq!(keys, [&lies.0, &broken.0, &strange.0]);
        assert_eq!((table.lookup("good.x"), table.counts()), (Some(&1), (2, 3)));
        // One that turns bad is served no longer, and its old self is not brought back.
        turned.1 = "no JSON".to_owned();
        table.apply([put(&turned, 6)], &mut number);
        assert_eq!((table.lookup("turned.x"), table.counts()), (None, (1, 4)));
        // A resync forgets what is gone.
        let made = std::cell::Cell::new(0);
        let bad = table.replace(&[put(&good, 2), put(&broken, 3)], &mut |record| {
            made.set(made.get() + 1);
            number(record)
        });
        assert_eq!((bad.len(), made.get(), table.counts()), (1, 0, (1, 1)));
    }

    proptest! {
        /// What a table exports makes the same table again, and its history doesn't matter.
        #[test]
        fn history_leaves_no_trace(steps in prop::collection::vec(
            (0usize..5, prop::collection::vec(0usize..5, 0..4), any::<bool>()), 0..20)) {
            let name = |at: usize| ["a.x", "*.x", "b.a.x", "*.a.x", "x.x"][at];
            let mut table = CertTable::default();
            let mut last: BTreeMap<usize, (Revision, (String, String))> = BTreeMap::new();
            for (revision, (at, names, is_put)) in (1..).zip(&steps) {
                let names: Vec<&str> = names.iter().map(|at| name(*at)).collect();
                let this = record(name(*at), &names, u32::try_from(revision).expect("small"));
                if *is_put {
                    table.apply([put(&this, revision)], &mut number);
                    last.insert(*at, (revision, this));
                } else {
                    table.apply([delete(&this, revision)], &mut number);
                    last.remove(at);
                }
            }
            let mut fresh = CertTable::default();
            fresh.apply(last.values().map(|(revision, this)| put(this, *revision)), &mut number);
            let mut again = CertTable::default();
            let saved = table.export();
            again.apply(saved.iter().map(|record| RecordChange {
                key: &record.key,
                revision: record.revision,
                value: Some(record.value.as_bytes()),
            }), &mut number);
            for host in ["a.x", "b.x", "b.a.x", "c.a.x", "x.x", "x", "d.b.a.x"] {
                prop_assert_eq!(table.lookup(host), fresh.lookup(host), "{}", host);
                prop_assert_eq!(again.lookup(host), fresh.lookup(host), "{}", host);
            }
            prop_assert_eq!(again.export(), saved);
        }
    }
}
