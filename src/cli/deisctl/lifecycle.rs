//! `deisctl install`, `start`, `stop`, `restart`, `uninstall` and `scale`: what is wanted of the
//! platform's units. The leader and the agents do the rest; this waits for them, and says for what.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io::Write,
    time::Duration,
};

use super::{
    failure::{Failure, Kind},
    fleet::Fleet,
    platform::{self, Instance, Part, Target},
    progress::{Goal, Progress, progress},
    substitute::Substitute,
    templates::Templates,
};
use crate::{
    model::{SCHEMA, UnitFile, UnitTarget},
    store::{CommitError, Store, StoreError, Txn, keys},
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// How often a change is tried again when something else changed the same units meanwhile.
const TRIES: usize = 5;
/// How long a wait stays silent at most.
pub(super) const VOICE: Duration = Duration::from_secs(10);
/// Pause before etcd is asked again after it failed.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The commands, with what they share.
#[derive(Debug)]
pub struct Lifecycle<'a, W> {
    /// etcd.
    pub store: &'a Store,
    /// Bound of each wait.
    pub timeout: Duration,
    /// Where progress goes.
    pub out: W,
}

impl<W: Write> Lifecycle<'_, W> {
    /// Puts the targets' units into etcd, loaded and not started; what is there stays as it is,
    /// except that a unit whose template has changed gets the new text.
    ///
    /// # Errors
    /// When the platform has no domain, there is no host, or etcd can't be reached.
    pub async fn install(
        &mut self,
        targets: &[Target],
        templates: &Templates,
    ) -> anyhow::Result<()> {
        self.require_domain().await?;
        let fleet = Fleet::load(self.store).await?;
        let hosts = fleet.hosts.keys().chain(fleet.machines.keys());
        let hosts: BTreeSet<_> = hosts.collect();
        let instances = platform::to_install(targets, hosts.len())
            .map_err(|error| Failure::new(Kind::Refused, error))?;
        self.put_units(&instances, templates, UnitTarget::Loaded)
            .await
    }

    /// Starts the targets' installed units and waits until they run and have registered.
    ///
    /// # Errors
    /// When a target isn't installed, or isn't up in time.
    pub async fn start(&mut self, targets: &[Target]) -> anyhow::Result<()> {
        let instances = self.installed(targets).await?;
        self.retarget(&instances, UnitTarget::Launched).await?;
        self.wait(&instances, Goal::Running).await
    }

    /// Stops the targets' units and waits until they are gone.
    ///
    /// # Errors
    /// When a target isn't installed, or isn't gone in time.
    pub async fn stop(&mut self, targets: &[Target]) -> anyhow::Result<()> {
        let instances = self.installed(targets).await?;
        self.retarget(&instances, UnitTarget::Inactive).await?;
        self.wait(&instances, Goal::Stopped).await
    }

    /// Restarts the targets' units, one after the other.
    ///
    /// # Errors
    /// When a target isn't installed, or one doesn't stop or start in time: the rest is left alone.
    pub async fn restart(&mut self, targets: &[Target]) -> anyhow::Result<()> {
        for instance in self.installed(targets).await? {
            let one = [Target::Instance(instance)];
            self.stop(&one).await?;
            self.start(&one).await?;
        }
        Ok(())
    }

    /// Stops the targets' units and removes them from etcd.
    ///
    /// # Errors
    /// As for [`Self::stop`].
    pub async fn uninstall(&mut self, targets: &[Target]) -> anyhow::Result<()> {
        let instances = self.installed(targets).await?;
        self.stop(targets).await?;
        let keys = instances
            .iter()
            .map(|instance| keys::unit(&instance.unit()));
        let txn = keys.fold(Txn::new(), |txn, key| txn.delete(&key));
        self.store.commit(txn).await?;
        for instance in instances {
            writeln!(self.out, "{instance}: uninstalled")?;
        }
        Ok(())
    }

    /// Makes it `count` instances of a part: installs and starts the missing ones, stops and
    /// removes those with the highest numbers.
    ///
    /// # Errors
    /// When the part doesn't scale so, or as for [`Self::start`] and [`Self::stop`].
    pub async fn scale(
        &mut self,
        part: Part,
        count: u8,
        templates: &Templates,
    ) -> anyhow::Result<()> {
        self.require_domain().await?;
        let fleet = Fleet::load(self.store).await?;
        let hosts = fleet.machines.len();
        if !part.scales() {
            let message = format!("there is one {part}, whatever the size of the fleet");
            return Err(Failure::new(Kind::Refused, message).into());
        }
        if count == 0 {
            let message = format!("a platform without any {part} is a stopped one");
            return Err(Failure::new(Kind::Refused, message)
                .hint(format!("`deisctl stop {part}` stops them"))
                .into());
        }
        if usize::from(count) > hosts {
            let message = format!("{count} of {part} need {count} hosts, and {hosts} are present");
            return Err(Failure::new(Kind::Refused, message)
                .hint("each host runs one of each part: add hosts first")
                .into());
        }
        let wanted: Vec<Instance> = (1..=count)
            .map(|number| Instance { part, number })
            .collect();
        let surplus: Vec<Target> = fleet
            .installed()
            .into_iter()
            .filter(|instance| instance.part == part && instance.number > count)
            .map(Target::Instance)
            .collect();
        self.put_units(&wanted, templates, UnitTarget::Launched)
            .await?;
        self.retarget(&wanted, UnitTarget::Launched).await?;
        self.wait(&wanted, Goal::Running).await?;
        if !surplus.is_empty() {
            self.uninstall(&surplus).await?;
        }
        Ok(())
    }

    async fn require_domain(&self) -> anyhow::Result<()> {
        if self.store.get(&keys::platform("domain")).await?.is_none() {
            return Err(Failure::new(
                Kind::Refused,
                "Missing platform domain, use: deisctl config platform set domain=<your-domain>",
            )
            .into());
        }
        Ok(())
    }

    /// The installed instances that the targets mean.
    async fn installed(&self, targets: &[Target]) -> anyhow::Result<Vec<Instance>> {
        let fleet = Fleet::load(self.store).await?;
        platform::installed(targets, &fleet.installed())
            .map_err(|error| Failure::new(Kind::NotFound, error).into())
    }

    /// Writes the instances' unit texts; new ones with `target`, the others keep theirs.
    async fn put_units(
        &mut self,
        instances: &[Instance],
        templates: &Templates,
        target: UnitTarget,
    ) -> anyhow::Result<()> {
        let mut texts = BTreeMap::new();
        for instance in instances {
            if let Entry::Vacant(text) = texts.entry(instance.part) {
                text.insert(templates.read(instance.part)?);
            }
        }
        for _ in 0..TRIES {
            let mut txn = Txn::new();
            let mut done = Vec::new();
            for instance in instances {
                let key = keys::unit(&instance.unit());
                let text = texts[&instance.part].clone();
                match self.store.get(&key).await? {
                    None => {
                        let unit = UnitFile {
                            schema: SCHEMA,
                            text,
                            target,
                        };
                        txn = txn.absent(&key).put(&key, &unit);
                        done.push(format!("{instance}: loaded"));
                    }
                    Some(found) if found.value.text != text => {
                        let unit = UnitFile {
                            text,
                            ..found.value
                        };
                        txn = txn.unchanged(&key, found.mod_revision).put(&key, &unit);
                        done.push(format!("{instance}: updated"));
                    }
                    Some(_) => done.push(format!("{instance}: loaded already")),
                }
            }
            if self.commit(txn).await? {
                for line in done {
                    writeln!(self.out, "{line}")?;
                }
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Sets what is wanted of the instances.
    async fn retarget(&mut self, instances: &[Instance], target: UnitTarget) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            let mut txn = Txn::new();
            for instance in instances {
                let key = keys::unit(&instance.unit());
                let found = self.store.get(&key).await?.ok_or_else(|| {
                    Failure::new(Kind::NotFound, format!("{instance} has been uninstalled"))
                })?;
                if found.value.target != target {
                    let unit = UnitFile {
                        target,
                        ..found.value
                    };
                    txn = txn.unchanged(&key, found.mod_revision).put(&key, &unit);
                }
            }
            if self.commit(txn).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Commits; false means that something changed meanwhile.
    async fn commit(&self, txn: Txn) -> Result<bool, StoreError> {
        if txn.is_empty() {
            return Ok(true);
        }
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    /// Waits until all instances have reached the goal, printing each step.
    async fn wait(&mut self, instances: &[Instance], goal: Goal) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let changes = Changes::of(self.store);
        let mut substitute = Substitute::default();
        let mut shown: BTreeMap<Instance, String> = BTreeMap::new();
        let mut spoke = Instant::now();
        loop {
            let (open, next_look) = match Fleet::load_with_reasons(self.store).await {
                Ok(fleet) => {
                    let open = self.look(&fleet, instances, goal, &mut shown, &mut spoke)?;
                    if open.is_empty() {
                        substitute.end().await;
                        return Ok(());
                    }
                    if substitute.is_needed(&fleet) {
                        writeln!(self.out, "no controller leads: placing the units from here")?;
                        substitute.begin(self.store.clone(), deadline);
                    }
                    (open, VOICE)
                }
                Err(error) if error.is_transient() => (vec![format!("etcd: {error}")], RETRY),
                Err(error) => return Err(error.into()),
            };
            if Instant::now() >= deadline {
                substitute.end().await;
                return Err(timed_out(goal, self.timeout, instances, &open));
            }
            if spoke.elapsed() >= VOICE {
                writeln!(self.out, "still waiting:\n  {}", open.join("\n  "))?;
                spoke = Instant::now();
            }
            let until = deadline.min(Instant::now() + next_look);
            // A change, or time to look and speak: both lead to another look.
            let wait = tokio::time::timeout_at(until, changes.seen.notified());
            substitute.beside(wait).await;
        }
    }

    /// Prints what is new since the last look; returns what is open, in words.
    fn look(
        &mut self,
        fleet: &Fleet,
        instances: &[Instance],
        goal: Goal,
        shown: &mut BTreeMap<Instance, String>,
        spoke: &mut Instant,
    ) -> anyhow::Result<Vec<String>> {
        let mut open = Vec::new();
        for instance in instances {
            let (text, done) = match progress(fleet, *instance, goal) {
                Progress::Done(text) => (text, true),
                Progress::Open(text) => (text, false),
            };
            let line = format!("{instance}: {text}");
            if shown.get(instance) != Some(&line) {
                writeln!(self.out, "{line}")?;
                *spoke = Instant::now();
                shown.insert(*instance, line.clone());
            }
            if !done {
                open.push(line);
            }
        }
        self.out.flush()?;
        Ok(open)
    }
}

fn contended() -> anyhow::Error {
    Failure::new(Kind::Conflict, "the units keep changing under our hands")
        .hint("is another deisctl at work? try again when it is done")
        .into()
}

fn timed_out(
    goal: Goal,
    timeout: Duration,
    instances: &[Instance],
    open: &[String],
) -> anyhow::Error {
    let (what, command) = match goal {
        Goal::Running => ("up", "journal"),
        Goal::Stopped => ("gone", "status"),
    };
    let message = format!(
        "{} of {} units are not {what} after {} s:\n  {}",
        open.len(),
        instances.len(),
        timeout.as_secs(),
        open.join("\n  ")
    );
    let unit = open.first().and_then(|line| line.split(": ").next());
    let unit = unit.unwrap_or("deis-agent.service");
    Failure::new(Kind::TimedOut, message)
        .hint(format!(
            "`deisctl {command} {unit}` may tell why; the command can be repeated"
        ))
        .into()
}

/// Tells that something changed that `Fleet::load` reads. Its tasks end with it.
pub(super) struct Changes {
    pub(super) seen: std::sync::Arc<Notify>,
    _feeds: JoinSet<()>,
}

impl Changes {
    pub(super) fn of(store: &Store) -> Self {
        let seen = std::sync::Arc::new(Notify::new());
        let mut feeds = JoinSet::new();
        for prefix in Fleet::prefixes() {
            let (mut feed, seen) = (store.follow(&prefix), seen.clone());
            feeds.spawn(async move {
                loop {
                    feed.next().await;
                    seen.notify_one();
                }
            });
        }
        Self {
            seen,
            _feeds: feeds,
        }
    }
}
