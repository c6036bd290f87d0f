//! `deisctl submit`, `load`, `start`, `stop`, `unload`, `destroy`, `restart` and `cat` of units, as
//! fleetctl had them: records are changed, and then it is waited for what leader and agents make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    aim::UnitWord,
    failure::{Failure, Kind},
    fleet::Fleet,
    lifecycle::{Changes, RETRY, VOICE},
    substitute::Substitute,
};
use crate::{
    api::fleet::{is_global, word},
    model::{Desired, UnitFileName, UnitTarget},
    ops::units::{self, Done, UnitsError, Wish},
    plan::fleet::glob,
    store::{Store, Txn, keys},
};

/// The commands, with what they share.
#[derive(Debug)]
pub struct Units<'a, W> {
    /// etcd.
    pub store: &'a Store,
    /// Bound of each wait; none: nothing is waited for.
    pub patience: Option<Duration>,
    /// Where progress goes.
    pub out: W,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// So far it is to get.
    Is(UnitTarget),
    /// It is on no host any more.
    Gone,
}

impl<W: Write> Units<'_, W> {
    /// Puts units into etcd; nothing is done with them yet.
    ///
    /// # Errors
    /// When a file can't be read or is no unit, or another text of that name is there.
    pub async fn submit(&mut self, words: &[UnitWord], replace: bool) -> anyhow::Result<()> {
        let names = self.put(words, None, replace).await?;
        for name in names {
            let file = self.store.get(&keys::unit(&name)).await?;
            let target = file.map_or(UnitTarget::Inactive, |file| file.value.target);
            writeln!(self.out, "Unit {name} {}", word(target))?;
        }
        Ok(())
    }

    /// Gets units to hosts, without starting them (`Loaded`) or with (`Launched`); files and templates
    /// that are not in etcd yet are submitted.
    ///
    /// # Errors
    /// As for [`Self::submit`]; or when one isn't there in time.
    pub async fn bring(
        &mut self,
        words: &[UnitWord],
        target: UnitTarget,
        replace: bool,
    ) -> anyhow::Result<()> {
        let names = self.put(words, Some(target), replace).await?;
        let verb = if target == UnitTarget::Launched {
            "start"
        } else {
            "load"
        };
        self.follow(&names, Goal::Is(target), verb).await
    }

    /// Takes units back: `stop` leaves them loaded where they are, `unload` takes them from their hosts.
    ///
    /// # Errors
    /// When one isn't there, or isn't done in time.
    pub async fn take_back(
        &mut self,
        words: &[UnitWord],
        target: UnitTarget,
    ) -> anyhow::Result<()> {
        let names = self.known(words).await?;
        let files = Fleet::load(self.store).await?.units;
        let wishes = names.iter().filter_map(|name| {
            // What was never loaded isn't by being stopped.
            let target = (files.get(name)?.value.target > target).then_some(target);
            Some((
                name.clone(),
                Wish {
                    target,
                    ..Wish::default()
                },
            ))
        });
        let wishes = wishes.collect();
        units::apply(self.store, &wishes, &Txn::new())
            .await
            .map_err(refused)?;
        let verb = if target == UnitTarget::Loaded {
            "stop"
        } else {
            "unload"
        };
        let mut by_goal: BTreeMap<UnitTarget, BTreeSet<UnitFileName>> = BTreeMap::new();
        for name in names {
            let had = files.get(&name).map_or(target, |file| file.value.target);
            by_goal.entry(had.min(target)).or_default().insert(name);
        }
        for (goal, names) in by_goal {
            self.follow(&names, Goal::Is(goal), verb).await?;
        }
        Ok(())
    }

    /// Stops units and removes them from etcd.
    ///
    /// # Errors
    /// When one isn't there, or isn't gone in time.
    pub async fn destroy(&mut self, words: &[UnitWord]) -> anyhow::Result<()> {
        let names = self.known(words).await?;
        for name in &names {
            units::destroy(self.store, name, &Txn::new())
                .await
                .map_err(refused)?;
        }
        if self.patience.is_none() {
            for name in &names {
                writeln!(self.out, "Destroyed {name}")?;
            }
            return Ok(());
        }
        self.follow(&names, Goal::Gone, "destroy").await
    }

    /// Stops and starts units, one after the other.
    ///
    /// # Errors
    /// As for `stop` and `start`; the rest is left alone then.
    pub async fn restart(&mut self, words: &[UnitWord]) -> anyhow::Result<()> {
        for name in self.known(words).await? {
            let path = name.to_string();
            let one = [UnitWord::One { name, path }];
            self.take_back(&one, UnitTarget::Loaded).await?;
            self.bring(&one, UnitTarget::Launched, false).await?;
        }
        Ok(())
    }

    /// Prints units' texts, byte for byte.
    ///
    /// # Errors
    /// When one isn't there.
    pub async fn cat(&mut self, words: &[UnitWord]) -> anyhow::Result<()> {
        let files = Fleet::load(self.store).await?.units;
        for name in self.known(words).await? {
            if let Some(file) = files.get(&name) {
                self.out.write_all(file.value.text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// The units that are meant, of those that there are.
    ///
    /// # Errors
    /// When a word means none.
    pub async fn known(&self, words: &[UnitWord]) -> anyhow::Result<BTreeSet<UnitFileName>> {
        let fleet = Fleet::load(self.store).await?;
        let mut names = BTreeSet::new();
        for word in words {
            let before = names.len();
            let mut is_known = false;
            for name in fleet.units.keys().filter(|name| match word {
                UnitWord::One { name: one, .. } => *name == one,
                UnitWord::Pattern(pattern) => glob(pattern, name.as_str()),
            }) {
                is_known = true;
                names.insert(name.clone());
            }
            if !is_known && names.len() == before {
                return Err(
                    Failure::new(Kind::NotFound, format!("there is no unit {word}"))
                        .hint("`deisctl list-unit-files` shows those that there are")
                        .into(),
                );
            }
        }
        Ok(names)
    }

    /// Sees to it that the units are in etcd, with what is wanted of them.
    async fn put(
        &self,
        words: &[UnitWord],
        target: Option<UnitTarget>,
        replace: bool,
    ) -> anyhow::Result<BTreeSet<UnitFileName>> {
        let files = Fleet::load(self.store).await?.units;
        let mut wishes = BTreeMap::new();
        for word in words {
            let UnitWord::One { name, path } = word else {
                for name in self.known(std::slice::from_ref(word)).await? {
                    wishes.insert(
                        name,
                        Wish {
                            target,
                            ..Wish::default()
                        },
                    );
                }
                continue;
            };
            let of_template = || Some(files.get(&name.template()?)?.value.text.clone());
            let text = match read(Path::new(path))? {
                Some(text) => Some(text),
                // An instance is made from its template: the cluster's, else the one beside it.
                None if files.contains_key(name) => template_file(name, path)?,
                None => match of_template() {
                    Some(text) => Some(text),
                    None => template_file(name, path)?,
                },
            };
            if text.is_none() && !files.contains_key(name) {
                let what = match name.template() {
                    Some(template) => format!("neither {name} nor its template {template} is"),
                    None => format!("{name} is not"),
                };
                let message = format!("{what} in the cluster, and there is no such file");
                return Err(Failure::new(Kind::NotFound, message).into());
            }
            let wish = Wish {
                text,
                replace,
                target,
            };
            wishes.insert(name.clone(), wish);
        }
        let done = units::apply(self.store, &wishes, &Txn::new())
            .await
            .map_err(refused)?;
        for (name, done) in &done {
            tracing::debug!(%name, new = *done == Done::Created, "unit in etcd");
        }
        Ok(done.into_keys().collect())
    }

    /// Waits until all units have got so far, and says so of each.
    async fn follow(
        &mut self,
        names: &BTreeSet<UnitFileName>,
        goal: Goal,
        verb: &str,
    ) -> anyhow::Result<()> {
        let fleet = Fleet::load(self.store).await?;
        let is_everywhere = |name: &UnitFileName| {
            goal != Goal::Gone
                && fleet
                    .units
                    .get(name)
                    .is_some_and(|file| is_global(name, &file.value))
        };
        let (global, mut open): (BTreeSet<_>, BTreeSet<_>) =
            names.iter().cloned().partition(is_everywhere);
        for name in &global {
            writeln!(self.out, "Triggered global unit {name} {verb}")?;
        }
        let Some(patience) = self.patience else {
            for name in &open {
                writeln!(self.out, "Triggered unit {name} {verb}")?;
            }
            return Ok(());
        };
        let deadline = Instant::now() + patience;
        let changes = Changes::of(self.store);
        let mut substitute = Substitute::default();
        let mut spoke = Instant::now();
        while !open.is_empty() {
            let (waits, next_look) = match Fleet::load_with_reasons(self.store).await {
                Ok(fleet) => {
                    let waits = self.look(&fleet, &mut open, goal, &mut spoke)?;
                    if !open.is_empty() && substitute.is_needed(&fleet) {
                        writeln!(self.out, "no controller leads: placing the units from here")?;
                        substitute.begin(self.store.clone(), deadline);
                    }
                    (waits, VOICE)
                }
                Err(error) if error.is_transient() => (vec![format!("etcd: {error}")], RETRY),
                Err(error) => return Err(error.into()),
            };
            if open.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                substitute.end().await;
                return Err(timed_out(verb, patience, names.len(), &waits));
            }
            if spoke.elapsed() >= VOICE {
                writeln!(self.out, "still waiting:\n  {}", waits.join("\n  "))?;
                spoke = Instant::now();
            }
            let until = deadline.min(Instant::now() + next_look);
            // A change, or time to look and speak: both lead to another look.
            let wait = tokio::time::timeout_at(until, changes.seen.notified());
            substitute.beside(wait).await;
        }
        substitute.end().await;
        Ok(())
    }

    /// Says which units have got there; what the others wait for, in words.
    fn look(
        &mut self,
        fleet: &Fleet,
        open: &mut BTreeSet<UnitFileName>,
        goal: Goal,
        spoke: &mut Instant,
    ) -> io::Result<Vec<String>> {
        let mut waits = Vec::new();
        for name in open.clone() {
            match progress(fleet, &name, goal) {
                Ok(line) => {
                    writeln!(self.out, "{line}")?;
                    *spoke = Instant::now();
                    open.remove(&name);
                }
                Err(wait) => waits.push(format!("{name}: {wait}")),
            }
        }
        self.out.flush()?;
        Ok(waits)
    }
}

/// Whether a unit has got so far, in fleetctl's words; an error says what it waits for.
fn progress(fleet: &Fleet, name: &UnitFileName, goal: Goal) -> Result<String, String> {
    let view = fleet.view();
    let places = view.places(name);
    let place = places.first();
    let on = |id| fleet.machine_label(id, false);
    let reported = fleet
        .machines
        .keys()
        .find(|id| fleet.report(id, name.as_str()).is_some());
    let nowhere = || match (place, reported) {
        (Some((id, _)), _) if fleet.machines.contains_key(*id) => {
            Err(format!("stopping on {}", on(id)))
        }
        // On a host that is absent nothing more can be done than to say so to it.
        (Some((_, assignment)), _) if assignment.desired != Desired::Stop => {
            Err("still assigned".to_owned())
        }
        (_, Some(id)) => Err(format!("stopping on {}", on(id))),
        _ => Ok(()),
    };
    match goal {
        Goal::Gone => nowhere().map(|()| format!("Destroyed {name}")),
        Goal::Is(UnitTarget::Inactive) => nowhere().map(|()| format!("Unit {name} inactive")),
        Goal::Is(target) => {
            let Some((id, assignment)) = place else {
                return Err(fleet.why_nowhere(name.as_str()));
            };
            let (done, _) = view.current(name);
            let wanted = match target {
                UnitTarget::Launched => Desired::Run,
                UnitTarget::Loaded | UnitTarget::Inactive => Desired::Load,
            };
            if assignment.desired == wanted && done == target {
                return Ok(format!("Unit {name} {} on {}", word(target), on(id)));
            }
            let report = fleet.report(id, name.as_str());
            let why = report.and_then(|report| report.reason.clone());
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            Err(format!("assigned to {}{why}", on(id)))
        }
    }
}

/// The text of a unit's file; none when there is no such file.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("{} can't be read: {error}", path.display());
            Err(Failure::new(Kind::Usage, message).into())
        }
    }
}

/// The text of an instance's template that lies beside where the instance's file would be.
fn template_file(name: &UnitFileName, path: &str) -> anyhow::Result<Option<String>> {
    match name.template() {
        Some(template) => read(&Path::new(path).with_file_name(template.as_str())),
        None => Ok(None),
    }
}

/// A refusal for scripts and people.
fn refused(error: UnitsError) -> anyhow::Error {
    let (kind, hint) = match &error {
        UnitsError::Differs(_) => (
            Kind::Conflict,
            "`deisctl cat` shows it; --replace stops it and takes the new text",
        ),
        UnitsError::Unknown(_) | UnitsError::UnknownMachine(_) => (
            Kind::NotFound,
            "`deisctl list-unit-files` shows the units that there are",
        ),
        UnitsError::Contended(_) => (Kind::Conflict, "is another deisctl at work?"),
        UnitsError::Store(_) => return error.into(),
        UnitsError::Name(_)
        | UnitsError::Text { .. }
        | UnitsError::Options { .. }
        | UnitsError::Template(_) => (Kind::Refused, ""),
    };
    let failure = Failure::new(kind, &error);
    if hint.is_empty() {
        failure
    } else {
        failure.hint(hint)
    }
    .into()
}

fn timed_out(verb: &str, patience: Duration, all: usize, waits: &[String]) -> anyhow::Error {
    let message = format!(
        "{} of {all} units did not {verb} within {} s:\n  {}",
        waits.len(),
        patience.as_secs(),
        waits.join("\n  ")
    );
    Failure::new(Kind::TimedOut, message)
        .hint("`deisctl explain UNIT` and `deisctl status UNIT` may tell why; the command can be repeated")
        .into()
}
