//! The laws of what is written, looked at with each change of the store.

use super::{Book, CLOSING, HOST_GRACE, host_of, ip, machine, now};
use crate::{
    model::*,
    sim::sky::{Node, Role},
    store::{Change, keys},
};

impl Book {
    /// The store has changed.
    pub(super) fn stored(&mut self, writer: Option<Node>, revision: Revision, changes: &[Change]) {
        let mut before = Vec::new();
        for change in changes {
            let old = match &change.entry {
                Some(entry) => self.keys.insert(
                    change.key.clone(),
                    (entry.value.clone(), entry.mod_revision),
                ),
                None => self.keys.remove(&change.key),
            };
            before.push(old.map(|(value, _)| value));
        }
        for (change, old) in changes.iter().zip(before) {
            let key = change.key.as_str();
            let verb = if change.entry.is_some() { "put" } else { "del" };
            self.note(verb, &format!("{revision} {key}"));
            let new = change.entry.as_ref().map(|entry| entry.value.as_slice());
            if self.trace
                && let Some(text) = new.map(String::from_utf8_lossy)
            {
                println!("           {text}");
            }
            // What is sealed is sealed with a number that is used once.
            if !key.contains("/configs/") {
                self.mix(new.unwrap_or_default());
            }
            self.changed(writer, key, old.as_deref(), new);
        }
        self.floors_hold(&format!("revision {revision}"));
    }

    fn changed(&mut self, writer: Option<Node>, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let Some(path) = key.strip_prefix(keys::ROOT) else {
            return;
        };
        let parts: Vec<&str> = path.split('/').collect();
        let volatile = matches!(parts[..], ["machines" | "router" | "leader", ..]);
        if !volatile {
            self.last_write = now();
        }
        match parts[..] {
            ["schedule", machine, name] => self.assignment(writer, machine, name, old, new),
            ["services", app, process] => self.service(writer, app, process, old, new),
            ["apps", app] => self.app(app, old, new),
            ["apps", app, "rollout"] => self.rollout(app, new),
            ["apps", app, "releases", version] => {
                self.release(app, version, old.is_some(), new.is_some());
            }
            ["apps", app, "outcomes", version] if old.is_some() && new.is_some() => {
                self.accuse(format!("the outcome of {app} {version} is written twice"));
            }
            ["machines", id] => {
                if new.is_some() {
                    self.absent.remove(id);
                } else {
                    self.absent.insert(id.to_owned(), now());
                }
            }
            ["hosts", id] => self.host(id, old, new),
            ["router", "hosts", ip] => {
                let before = self.routers.get(ip).copied();
                let is_here = before.is_some_and(|(_, here, _)| here);
                if new.is_some() != is_here {
                    self.routers
                        .insert(ip.to_owned(), (now(), new.is_some(), before.is_some()));
                }
            }
            _ => {}
        }
    }

    /// A host is found lost only after its grace; from then on the floor is off.
    fn host(&mut self, id: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let record = new.and_then(|bytes| HostRecord::decode(bytes).ok());
        if record.is_some_and(|record| record.cordoned || record.drain.is_some()) {
            self.closed.entry(id.to_owned()).or_insert_with(now);
        } else {
            self.closed.remove(id);
        }
        let lost = |bytes: Option<&[u8]>| {
            let record = bytes.and_then(|b| HostRecord::decode(b).ok());
            record.is_some_and(|record| record.lost_since.is_some())
        };
        if lost(old) || !lost(new) {
            return;
        }
        self.gentle = false;
        self.note("lost", id);
        let away = self.absent.get(id).map(|since| now() - since);
        if away.is_none_or(|away| away < HOST_GRACE) {
            self.accuse(format!("host {id} is found lost after {away:?} s"));
        }
    }

    /// What was on a host that is away is taken from it after its grace only; from then on the floor is
    /// off. Its record may say so a moment later.
    fn moved(&mut self, machine: &str, name: &str) {
        self.gentle = false;
        let away = self.absent.get(machine).map(|since| now() - since);
        if away.is_none_or(|away| away < HOST_GRACE) {
            self.accuse(format!(
                "{name} is moved from {machine}, which is away for {away:?} s"
            ));
        }
    }

    fn by_the_leader(&mut self, writer: Option<Node>, what: &str) {
        let leader = self.read::<Leader>(keys::leader().as_str());
        let address = writer
            .filter(|writer| writer.role == Role::Controller)
            .map(|writer| ip(writer.host));
        if leader.as_ref().map(|leader| &leader.address) != address.as_ref() {
            let who = leader.map_or("nobody".to_owned(), |leader| leader.address);
            self.accuse(format!("{what} by {writer:?}, and {who} leads"));
        }
    }

    fn assignment(
        &mut self,
        writer: Option<Node>,
        machine: &str,
        name: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        self.by_the_leader(writer, &format!("{name} on {machine} is changed"));
        let decode = |bytes: Option<&[u8]>| bytes.and_then(|b| Assignment::decode(b).ok());
        let (old, new) = (decode(old), decode(new));
        let id: MachineId = machine.parse().expect("a machine id");
        if let Some(new) = &new
            && matches!(new.work, Work::Process { single: true, .. })
        {
            self.singles.insert(new.uuid);
            if old.is_none() {
                self.born_single.insert(new.uuid);
            }
        }
        if let Some(new) = new.as_ref().filter(|new| new.desired == Desired::Drain) {
            self.draining.entry(new.uuid).or_insert_with(now);
        }
        let here = self.keys.contains_key(keys::machine(&id).as_str());
        let state = self.read::<MachineState>(keys::state(&id).as_str());
        let said = state.and_then(|state| state.processes.get(name).map(|p| p.uuid));
        match (old, new) {
            (None, Some(new)) => {
                if !here {
                    self.accuse(format!(
                        "{name} is assigned to {machine}, which is not there"
                    ));
                }
                if let Some(since) = self.closed.get(machine)
                    && now() - since > CLOSING
                {
                    let seconds = now() - since;
                    self.accuse(format!(
                        "{name} is assigned to {machine}, which is closed for {seconds:.1} s"
                    ));
                }
                let suffix = format!("/{name}");
                let schedule = keys::schedule();
                let all = self.keys.range(schedule.as_str().to_owned()..);
                let twins = all
                    .take_while(|(key, _)| key.starts_with(schedule.as_str()))
                    .filter(|(key, _)| key.ends_with(&suffix));
                if name.parse::<ProcessName>().is_ok() && twins.count() > 1 {
                    self.accuse(format!("{name} is assigned twice"));
                }
                if !self
                    .assigned
                    .insert((machine.to_owned(), name.to_owned(), new.uuid))
                {
                    self.accuse(format!(
                        "{name} is assigned to {machine} again with its old uuid"
                    ));
                }
            }
            // What was stopped before its host went is no more than forgotten.
            (Some(old), None) if !here && (old.desired != Desired::Stop || said.is_some()) => {
                if let Ok(process) = name.parse::<ProcessName>() {
                    let app = self.read::<App>(keys::app(&process.app).as_str());
                    if app.is_some_and(|app| !app.single.contains(&process.kind)) {
                        self.left_before.insert(old.uuid);
                    }
                }
                self.moved(machine, name);
            }
            (Some(old), None) => {
                if old.desired != Desired::Stop {
                    self.accuse(format!(
                        "{name} is taken from {machine} without being stopped"
                    ));
                }
                let sight = self.units.get(&(host_of(&id), name.to_owned()));
                // What started a moment ago may not be in its host's report yet: then nobody knows, and its
                // agent stops it. One of a single type is reported before it starts.
                let is_known = said == Some(old.uuid) || self.singles.contains(&old.uuid);
                if is_known && sight.is_some_and(|sight| sight.up && sight.uuid == old.uuid) {
                    self.accuse(format!("{name} is forgotten while it runs on {machine}"));
                }
            }
            // Another text of a raw unit is another assignment.
            (Some(old), Some(new))
                if old.uuid != new.uuid && matches!(new.work, Work::Unit { .. }) =>
            {
                self.assigned
                    .insert((machine.to_owned(), name.to_owned(), new.uuid));
            }
            (Some(old), Some(new)) if old.uuid != new.uuid => {
                self.accuse(format!("{name} on {machine} gets another uuid"));
            }
            (Some(old), Some(new)) => {
                if old.desired != Desired::Run && new.desired == Desired::Run {
                    self.resumed.insert(new.uuid, now());
                }
                if old.desired == Desired::Stop && new.desired != Desired::Stop {
                    self.accuse(format!(
                        "{name} on {machine} is wanted again after its stop"
                    ));
                }
            }
            (None, None) => {}
        }
    }

    fn service(
        &mut self,
        writer: Option<Node>,
        app: &str,
        process: &str,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) {
        let host = |bytes: Option<&[u8]>| -> Option<usize> {
            let text = std::str::from_utf8(bytes?).ok()?;
            let (ip, _) = text.rsplit_once(':')?;
            ip.rsplit_once('.')?.1.parse().ok()
        };
        if let Some(host) = host(new) {
            let by = Node {
                host,
                role: Role::Agent,
            };
            if writer != Some(by) {
                self.accuse(format!(
                    "{process} is published on host {host} by {writer:?}"
                ));
            }
            let key = keys::assignment(&machine(host), process);
            let assignment = self.read::<Assignment>(key.as_str());
            let uuid = assignment
                .filter(|assignment| assignment.desired == Desired::Run)
                .map(|assignment| assignment.uuid);
            let there = self.units.get(&(host, process.to_owned()));
            let there = there.map(|sight| sight.uuid);
            if uuid.is_none() {
                self.accuse(format!(
                    "{process} is published on host {host}, and is not to run"
                ));
            } else if there.is_some() && there != uuid {
                self.accuse(format!(
                    "{process} is published on host {host} as {uuid:?}, and {there:?} runs there"
                ));
            }
        } else if let Some(host) = host(old) {
            let by_agent = writer.is_some_and(|w| w.role == Role::Agent && w.host == host);
            let here = self
                .keys
                .contains_key(keys::machine(&machine(host)).as_str());
            let app_is_gone = app
                .parse()
                .is_ok_and(|app| !self.keys.contains_key(keys::app(&app).as_str()));
            if !by_agent && here && !app_is_gone {
                self.accuse(format!(
                    "{process} is withdrawn by {writer:?} while its host {host} is there"
                ));
            }
        }
    }

    fn app(&mut self, app: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        let decode = |bytes: Option<&[u8]>| bytes.and_then(|b| App::decode(b).ok());
        let (old, new) = (decode(old), decode(new));
        let Ok(name) = app.parse::<AppName>() else {
            return;
        };
        let Some(new) = new else {
            self.floors.remove(&name);
            self.tempers.retain(|(app, _), _| *app != name);
            return;
        };
        if old.as_ref().is_some_and(|old| new.latest < old.latest) {
            self.accuse(format!("{app}'s release numbers go back"));
        }
        let outcome = self.read::<Outcome>(keys::outcome(&name, new.active).as_str());
        if outcome.is_none_or(|outcome| outcome.result != OutcomeResult::Succeeded) {
            self.accuse(format!(
                "{app} {} is active and has not succeeded",
                new.active
            ));
        }
        let active = (name.clone(), new.active);
        if self.commands.contains(&active) && !self.commanded.contains(&active) {
            self.accuse(format!(
                "{app} {} is active, and its command has not ended well",
                new.active
            ));
        }
        if new.destroying {
            self.floors.remove(&name);
            return;
        }
        let ended = old.is_some_and(|old| old.last_rollout != new.last_rollout);
        if ended {
            let went_well = new
                .last_rollout
                .is_some_and(|end| end.result == OutcomeResult::Succeeded);
            let floor = self.floors.entry(name.clone()).or_default();
            if went_well {
                *floor = new.structure;
            } else {
                lower(floor, &new.structure);
            }
        }
        // One of a single type goes before the next one comes; and what the fence has stopped because
        // etcd was away is missing for a while, also when its type is no longer single.
        let Some(mut floor) = self.floors.remove(&name) else {
            return;
        };
        floor.retain(|kind, wanted| {
            let of = (name.clone(), kind.clone());
            if self.serving(&name, kind) >= *wanted as usize {
                self.fenced.remove(&of);
            }
            !new.single.contains(kind) && !self.fenced.contains(&of)
        });
        self.floors.insert(name, floor);
    }

    fn rollout(&mut self, app: &str, new: Option<&[u8]>) {
        let (Ok(name), Some(rollout)) = (
            app.parse::<AppName>(),
            new.and_then(|b| Rollout::decode(b).ok()),
        ) else {
            return;
        };
        if rollout.command.is_some() {
            self.commands.insert((name.clone(), rollout.release));
        }
        if let Some(floor) = self.floors.get_mut(&name) {
            lower(floor, &rollout.structure);
            lower(floor, &rollout.previous_structure);
        }
    }

    fn release(&mut self, app: &str, version: &str, was: bool, is: bool) {
        let Ok(name) = app.parse::<AppName>() else {
            return;
        };
        let owned = self.keys.contains_key(keys::app(&name).as_str());
        if was && is {
            self.accuse(format!("{app} {version} is written twice"));
        }
        if !is && owned {
            self.accuse(format!("{app} {version} is deleted"));
        }
        let number = |text: &str| text.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
        let before = number(version).map(|n| ReleaseNumber(n - 1));
        if let Some(before) = before.filter(|before| is && before.0 > 0)
            && !self
                .keys
                .contains_key(keys::release(&name, before).as_str())
        {
            self.accuse(format!("{app} has {version} and not {before}"));
        }
    }
}

/// Lowers a floor to what is wanted from now on.
fn lower(floor: &mut Structure, wanted: &Structure) {
    for (kind, count) in floor.iter_mut() {
        *count = (*count).min(wanted.get(kind).copied().unwrap_or(0));
    }
}
