//! What operators do to units: submit, load, start, stop, destroy. Whoever asks, the command line or
//! the API, changes records by these; the leader and the agents do the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::Excluded,
};

use crate::{
    api::fleet::{Relabel, View},
    model::{
        Assignment, HostRecord, InvalidName, Machine, MachineId, MachineState, SCHEMA, UnitFile,
        UnitFileName, UnitTarget,
        unit_text::{self, InvalidUnit},
    },
    plan::fleet::{InvalidXFleet, XFleet},
    store::{CommitError, Prefix, Store, StoreError, Txn, Versioned, keys},
};

/// How often a change is decided anew when others change the same units.
const TRIES: usize = 10;
/// Units that are changed at once: each is compared and written, and etcd bounds both.
const AT_ONCE: usize = 100;
/// Texts that are written at once, in bytes: etcd's requests are bounded, too.
const TEXTS_AT_ONCE: usize = 512 << 10;

/// Why a unit is not changed.
#[derive(Debug, thiserror::Error)]
pub enum UnitsError {
    /// It is no unit name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Its text is no unit file.
    #[error("{unit} is no unit that can be run here: {why}")]
    Text {
        /// The unit.
        unit: UnitFileName,
        /// Why not.
        why: InvalidUnit,
    },
    /// Its options for the fleet.
    #[error("{unit}: {why}")]
    Options {
        /// The unit.
        unit: UnitFileName,
        /// What is wrong.
        why: InvalidXFleet,
    },
    /// It is a template.
    #[error("{0} is a template: load or start its instances, like {instance}", instance = .0.as_str().replacen('@', "@1", 1))]
    Template(UnitFileName),
    /// Another text of that name is there.
    #[error("{0} is there already with another text")]
    Differs(UnitFileName),
    /// It isn't there, and no text was given.
    #[error("there is no unit {0}")]
    Unknown(UnitFileName),
    /// A host that never joined.
    #[error("no machine {0} has ever joined")]
    UnknownMachine(MachineId),
    /// Others changed the same again and again.
    #[error("others change {0} all the time; try again")]
    Contended(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Its text; none: the one that is there.
    pub text: Option<String>,
    /// Whether another text that is there is replaced.
    pub replace: bool,
    /// What is to become of it; none: nothing new.
    pub target: Option<UnitTarget>,
}

/// What was made of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The unit is new.
    Created,
    /// It has another text now.
    Replaced,
    /// Something else is wanted of it now.
    Changed,
    /// It was so already.
    Nothing,
}

/// Whether a text can be run as a unit of that name.
///
/// # Errors
/// When it can't, why.
pub fn check(name: &UnitFileName, text: &str) -> Result<(), UnitsError> {
    let of_text = |why| UnitsError::Text {
        unit: name.clone(),
        why,
    };
    unit_text::check_name(name).map_err(of_text)?;
    unit_text::parse(text).map_err(of_text)?;
    XFleet::check(name, text).map_err(|why| UnitsError::Options {
        unit: name.clone(),
        why,
    })?;
    Ok(())
}

/// Does what is wished of each unit, and `with` in the first transaction. Units that come first are
/// changed even if a later one can't be.
///
/// # Errors
/// When one can't be done.
pub async fn apply(
    store: &Store,
    wishes: &BTreeMap<UnitFileName, Wish>,
    with: &Txn,
) -> Result<BTreeMap<UnitFileName, Done>, UnitsError> {
    let mut done = BTreeMap::new();
    let wishes: Vec<(&UnitFileName, &Wish)> = wishes.iter().collect();
    let (mut rest, mut with) = (&wishes[..], with.clone());
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |(_, wish): &&(_, &Wish)| {
            bytes += wish
                .text
                .as_ref()
                .map_or(unit_text::MAX_UNIT_BYTES, String::len);
            bytes <= TEXTS_AT_ONCE
        };
        let fit = rest.iter().take(AT_ONCE).take_while(fits).count().max(1);
        let (now, later) = rest.split_at(fit);
        done.extend(apply_at_once(store, now, std::mem::take(&mut with)).await?);
        rest = later;
    }
    Ok(done)
}

async fn apply_at_once(
    store: &Store,
    wishes: &[(&UnitFileName, &Wish)],
    with: Txn,
) -> Result<BTreeMap<UnitFileName, Done>, UnitsError> {
    let all: Vec<_> = wishes.iter().map(|(name, _)| keys::unit(name)).collect();
    for attempt in 0..TRIES {
        let (mut txn, mut done) = (Txn::new(), BTreeMap::new());
        let mut there = BTreeSet::new();
        for ((name, wish), found) in wishes.iter().zip(store.get_many(&all).await?) {
            let key = keys::unit(name);
            let found = found.transpose()?;
            if found.is_some() {
                there.insert(key.as_str().to_owned());
            }
            let (next, what) = decide(name, wish, found.as_ref().map(|found| &found.value))?;
            done.insert((*name).clone(), what);
            if let Some(next) = next {
                txn = match found {
                    Some(found) => txn.unchanged(&key, found.mod_revision),
                    None => txn.absent(&key),
                };
                txn = txn.put(&key, &next);
            }
        }
        if txn.is_empty() {
            return Ok(done);
        }
        // Between new names there mostly is nothing, and all of them are compared as one gap; when that
        // was wrong, each for itself.
        let is_gap = |from: &str, to: &str| {
            let is_unit = |key: &str| key.starts_with(keys::units().as_str());
            let mut between = there.range::<str, _>((Excluded(from), Excluded(to)));
            attempt == 0 && is_unit(from) && is_unit(to) && between.next().is_none()
        };
        let txn = txn.and(with.clone()).compacted(is_gap);
        match store.commit(txn).await {
            Ok(_) => return Ok(done),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    let names: Vec<&str> = wishes.iter().map(|(name, _)| name.as_str()).collect();
    Err(UnitsError::Contended(names.join(", ")))
}

/// What a unit's record has to be for a wish; none when it is right.
fn decide(
    name: &UnitFileName,
    wish: &Wish,
    found: Option<&UnitFile>,
) -> Result<(Option<UnitFile>, Done), UnitsError> {
    let target = wish.target.or(found.map(|found| found.target));
    let target = target.unwrap_or(UnitTarget::Inactive);
    if name.is_template() && target != UnitTarget::Inactive {
        return Err(UnitsError::Template(name.clone()));
    }
    let (text, done) = match (&wish.text, found) {
        (None, None) => return Err(UnitsError::Unknown(name.clone())),
        (None, Some(found)) => (&found.text, Done::Changed),
        (Some(text), None) => (text, Done::Created),
        (Some(text), Some(found)) if *text == found.text => (text, Done::Changed),
        (Some(text), Some(_)) if wish.replace => (text, Done::Replaced),
        (Some(_), Some(_)) => return Err(UnitsError::Differs(name.clone())),
    };
    if done != Done::Changed {
        check(name, text)?;
    }
    let next = UnitFile {
        schema: SCHEMA,
        text: text.clone(),
        target,
    };
    if found == Some(&next) {
        return Ok((None, Done::Nothing));
    }
    Ok((Some(next), done))
}

/// Removes a unit; whether it was there. Its host stops it.
///
/// # Errors
/// When the store fails.
pub async fn destroy(store: &Store, name: &UnitFileName, with: &Txn) -> Result<bool, UnitsError> {
    let key = keys::unit(name);
    let txn = Txn::new().present(&key).delete(&key).and(with.clone());
    match store.commit(txn).await {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict) => Ok(false),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}

/// Changes hosts' labels, all or none.
///
/// # Errors
/// When a host never joined, or the store fails.
pub async fn relabel(store: &Store, changes: &[Relabel], with: &Txn) -> Result<(), UnitsError> {
    for _ in 0..TRIES {
        let mut records: BTreeMap<&MachineId, (Versioned<HostRecord>, bool)> = BTreeMap::new();
        for Relabel {
            machine,
            key,
            value,
        } in changes
        {
            if !records.contains_key(machine) {
                let found = store.get(&keys::host(machine)).await?;
                let found = found.ok_or_else(|| UnitsError::UnknownMachine(machine.clone()))?;
                records.insert(machine, (found, false));
            }
            if let Some((record, changed)) = records.get_mut(machine) {
                let labels = &mut record.value.labels;
                let before = match value {
                    Some(value) => labels.insert(key.clone(), value.clone()),
                    None => labels.remove(key),
                };
                *changed |= before != *value;
            }
        }
        let mut txn = Txn::new();
        for (machine, (record, _)) in records.iter().filter(|(_, (_, changed))| *changed) {
            let key = keys::host(machine);
            txn = txn
                .unchanged(&key, record.mod_revision)
                .put(&key, &record.value);
        }
        if txn.is_empty() {
            return Ok(());
        }
        match store.commit(txn.and(with.clone())).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
    Err(UnitsError::Contended("the hosts' records".to_owned()))
}

/// All that is known of units and hosts, each kind of record at a revision of its own. Records that
/// can't be read are left out.
#[derive(Debug, Default)]
pub struct Snapshot {
    units: BTreeMap<UnitFileName, Versioned<UnitFile>>,
    assignments: BTreeMap<(String, MachineId), Assignment>,
    states: BTreeMap<MachineId, MachineState>,
    /// Hosts that are there.
    pub machines: BTreeMap<MachineId, Machine>,
    /// What is durable about hosts.
    pub hosts: BTreeMap<MachineId, HostRecord>,
}

impl Snapshot {
    /// Reads it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut snapshot = Self {
            states: by_machine(store, &keys::states()).await?,
            machines: by_machine(store, &keys::machines()).await?,
            hosts: by_machine(store, &keys::hosts()).await?,
            ..Self::default()
        };
        let prefix = keys::units();
        for (key, file) in store.list_readable(&prefix).await?.entries {
            if let Some(Ok(name)) = keys::last_part(&key, prefix.as_str()).map(str::parse) {
                snapshot.units.insert(name, file);
            }
        }
        for (key, assignment) in store.list_readable(&keys::schedule()).await?.entries {
            if let Some((machine, name)) = keys::parse_assignment(&key) {
                let at = (name.to_owned(), machine);
                snapshot.assignments.insert(at, assignment.value);
            }
        }
        Ok(snapshot)
    }

    /// What it says of units.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        View {
            units: &self.units,
            assignments: &self.assignments,
            states: &self.states,
        }
    }
}

async fn by_machine<T: crate::model::Record>(
    store: &Store,
    prefix: &Prefix<T>,
) -> Result<BTreeMap<MachineId, T>, StoreError> {
    let listing = store.list_readable(prefix).await?;
    let parsed = listing.entries.into_iter().filter_map(|(key, entry)| {
        let machine = keys::last_part(&key, prefix.as_str())?.parse().ok()?;
        Some((machine, entry.value))
    });
    Ok(parsed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Service]\nExecStart=/bin/true\n";

    fn name(text: &str) -> UnitFileName {
        text.parse().expect("name")
    }

    async fn one(store: &Store, unit: &str, wish: Wish) -> Result<Done, UnitsError> {
        let wishes = [(name(unit), wish)].into();
        apply(store, &wishes, &Txn::new())
            .await
            .map(|done| done[&name(unit)])
    }

    fn wish(text: Option<&str>, target: Option<UnitTarget>) -> Wish {
        Wish {
            text: text.map(str::to_owned),
            replace: false,
            target,
        }
    }

    #[tokio::test]
    async fn a_text_never_changes_unless_it_is_replaced() {
        let store = Store::memory();
        let launched = Some(UnitTarget::Launched);
        let did = one(&store, "a.service", wish(Some(TEXT), launched)).await;
        assert_eq!(did.expect("done"), Done::Created);
        let did = one(&store, "a.service", wish(Some(TEXT), None)).await;
        assert_eq!(did.expect("done"), Done::Nothing);
        let did = one(&store, "a.service", wish(None, Some(UnitTarget::Loaded))).await;
        assert_eq!(did.expect("done"), Done::Changed);
        let other = "[Service]\nExecStart=/bin/false\n";
        let refused = one(&store, "a.service", wish(Some(other), launched)).await;
        assert!(
            matches!(refused, Err(UnitsError::Differs(_))),
            "{refused:?}"
        );
        let replace = Wish {
            replace: true,
            ..wish(Some(other), None)
        };
        assert_eq!(
            one(&store, "a.service", replace).await.expect("done"),
            Done::Replaced
        );
        let file = store
            .get(&keys::unit(&name("a.service")))
            .await
            .expect("read")
            .expect("there");
        assert_eq!(
            (file.value.text.as_str(), file.value.target),
            (other, UnitTarget::Loaded)
        );
    }

    #[tokio::test]
    async fn what_can_not_run_is_refused_and_changes_nothing() {
        let store = Store::memory();
        let launched = Some(UnitTarget::Launched);
        for (unit, wish, want) in [
            ("a.service", wish(None, launched), "no unit a.service"),
            ("a.service", wish(Some("ExecStart=1"), launched), "line 1"),
            (
                "a.service",
                wish(Some("[Service]\nA=1\n[X-Fleet]\nGlobl=1\n"), None),
                "line 4",
            ),
            ("a@.service", wish(Some(TEXT), launched), "like a@1.service"),
            (
                "blog_v1.web.1.service",
                wish(Some(TEXT), None),
                "process of an app",
            ),
        ] {
            let error = one(&store, unit, wish).await.expect_err(want).to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(
            store
                .list(&keys::units())
                .await
                .expect("list")
                .entries
                .is_empty()
        );
        assert!(
            !destroy(&store, &name("a.service"), &Txn::new())
                .await
                .expect("done")
        );
    }

    #[tokio::test]
    async fn hundreds_are_submitted_in_few_transactions() {
        let store = Store::memory();
        let wishes: BTreeMap<_, _> = (0..100)
            .map(|n| (name(&format!("u{n}.service")), wish(Some(TEXT), None)))
            .collect();
        let before = store.list(&keys::units()).await.expect("list").revision;
        let done = apply(&store, &wishes, &Txn::new()).await.expect("done");
        assert!(done.values().all(|done| *done == Done::Created) && done.len() == 100);
        let after = store.list(&keys::units()).await.expect("list").revision;
        assert_eq!(after - before, 1, "one transaction");
        // One that is there between new ones: those are compared for themselves.
        let mixed: BTreeMap<_, _> = ["u5.service", "u50a.service", "u51a.service", "u6a.service"]
            .into_iter()
            .map(|unit| (name(unit), wish(Some(TEXT), None)))
            .collect();
        let done = apply(&store, &mixed, &Txn::new()).await.expect("done");
        let created = done.values().filter(|done| **done == Done::Created).count();
        assert_eq!((created, done[&name("u5.service")]), (3, Done::Nothing));
    }
}
