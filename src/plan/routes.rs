//! The route table: which processes answer to a host name.
//!
//! Built from etcd's records by atomic changes, never cleared and refilled. A record that can't be
//! read takes its own route away and is reported; it harms nobody else's.
//!
//! Pure. A backend's run-time half (`B`: counters, connections) is made by the caller, so that the
//! table itself can be tested with numbers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

pub use super::slots::Slot;
use super::slots::{put_slot, take_slot};
use crate::{
    model::{AppName, Domain, DomainName, PartPresence, ProcessName, Record, Revision, Route},
    store::keys,
};

/// One incarnation of an address: the same key written again is another backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The key that publishes it.
    pub key: String,
    /// etcd's revision at which it was published.
    pub revision: Revision,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Endpoint {
    /// The process that listens there; none when it is a part of the platform.
    #[must_use]
    pub fn process(&self) -> Option<ProcessName> {
        keys::parse_service(&self.key)
    }
}

/// What a key is, or that it is gone.
#[derive(Debug, Clone, Copy)]
pub struct RecordChange<'a> {
    /// The key.
    pub key: &'a str,
    /// The revision of the change.
    pub revision: Revision,
    /// The record; none when the key was deleted.
    pub value: Option<&'a [u8]>,
}

/// A record as it is kept on disk, for a start without etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    /// Its key.
    pub key: String,
    /// Its revision.
    pub revision: Revision,
    /// Its value.
    pub value: String,
}

/// A record that was left out of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is left out of the route table: {why}")]
pub struct BadRecord {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a set of changes did.
#[derive(Debug)]
pub struct Applied<B> {
    /// Backends of apps that take no new request from now on.
    pub withdrawn: Vec<B>,
    /// Backends of platform parts that are gone; no acknowledgement waits for those.
    pub parts_gone: Vec<B>,
    /// Records that were left out.
    pub bad: Vec<BadRecord>,
}

impl<B> Default for Applied<B> {
    fn default() -> Self {
        Self {
            withdrawn: Vec::new(),
            parts_gone: Vec::new(),
            bad: Vec::new(),
        }
    }
}

/// What the table knows of one app.
#[derive(Debug)]
pub struct AppRoute<B> {
    /// Its route record; none while only its processes are known.
    route: Option<(Revision, Known)>,
    /// Its processes that take requests, in the order of their keys.
    slots: Vec<Slot<B>>,
}

/// A route record.
#[derive(Debug)]
enum Known {
    Route(Route),
    /// One that can't be read, as it is. Who may come in is not known: nobody does.
    Unreadable(String),
}

impl<B> AppRoute<B> {
    /// Whether visitors get a maintenance page.
    #[must_use]
    pub fn in_maintenance(&self) -> bool {
        matches!(&self.route, Some((_, Known::Route(route))) if route.maintenance)
    }

    /// What visitors read then, if its owner has said it.
    #[must_use]
    pub fn page(&self) -> Option<&str> {
        match &self.route {
            Some((_, Known::Route(route))) => route.page.as_deref(),
            _ => None,
        }
    }

    /// Whether requests wait when it has no process.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(&self.route, Some((_, Known::Route(route))) if route.hold)
    }

    /// Whether a client of this address may come in; nobody may without a whitelist where those are
    /// enforced.
    #[must_use]
    pub fn admits(&self, client: IpAddr, enforced: bool) -> bool {
        match &self.route {
            None => !enforced,
            Some((_, Known::Route(route))) if route.whitelist.is_open() => !enforced,
            Some((_, Known::Route(route))) => route.whitelist.allows(client),
            Some((_, Known::Unreadable(_))) => false,
        }
    }

    /// Its processes that take requests.
    #[must_use]
    pub fn slots(&self) -> &[Slot<B>] {
        &self.slots
    }
}

/// Who answers to a host name.
#[derive(Debug)]
pub enum Target<'t, B> {
    /// An app.
    App(&'t AppName, &'t AppRoute<B>),
    /// The platform's API.
    Controller(&'t [Slot<B>]),
    /// Nobody.
    Unknown,
}

/// Which host names lead where.
#[derive(Debug)]
pub struct RouteTable<B> {
    platform_domain: Option<(Revision, DomainName)>,
    apps: HashMap<AppName, AppRoute<B>>,
    domains: HashMap<DomainName, (Revision, AppName, String)>,
    controllers: Vec<Slot<B>>,
    builders: BTreeMap<String, (Revision, SocketAddr, String)>,
}

impl<B> Default for RouteTable<B> {
    fn default() -> Self {
        Self {
            platform_domain: None,
            apps: HashMap::new(),
            domains: HashMap::new(),
            controllers: Vec::new(),
            builders: BTreeMap::new(),
        }
    }
}

/// The first label that leads to the controller, under any domain.
const CONTROLLER_LABEL: &str = "deis";

/// Whether a host, as [`parse_host`](super::host::parse_host) gives it, is the controller's.
#[must_use]
pub fn is_controller(host: &str) -> bool {
    matches!(host.split_once('.'), Some((CONTROLLER_LABEL, _)))
}

fn platform_domain_key() -> keys::Key<String> {
    keys::platform("domain")
}

/// The kinds of key that the table is made of.
enum Kind<'k> {
    PlatformDomain,
    Service(AppName),
    Route(AppName),
    Domain(DomainName),
    Controller,
    Builder,
    /// Below one of our prefixes, but nothing that we know.
    Strange(&'k str),
    Foreign,
}

fn kind_of(key: &str) -> Kind<'_> {
    if key == platform_domain_key().as_str() {
        return Kind::PlatformDomain;
    }
    if key == keys::withdrawn().as_str() {
        return Kind::Foreign;
    }
    if key.starts_with(keys::services().as_str()) {
        return match keys::parse_service(key) {
            Some(process) => Kind::Service(process.app),
            None => Kind::Strange("its name is no process of that app"),
        };
    }
    if let Some(app) = keys::last_part(key, keys::routes().as_str()) {
        return app
            .parse()
            .map_or(Kind::Strange("its name is no app"), Kind::Route);
    }
    if let Some(domain) = keys::last_part(key, keys::domains().as_str()) {
        return domain
            .parse()
            .map_or(Kind::Strange("its name is no domain"), Kind::Domain);
    }
    if key.starts_with(keys::parts("controller").as_str()) {
        return Kind::Controller;
    }
    if key.starts_with(keys::parts("builder").as_str()) {
        return Kind::Builder;
    }
    Kind::Foreign
}

impl<B> RouteTable<B> {
    /// Applies changes; `make` gives each new backend its run-time half.
    ///
    /// Applying the same change twice is the same as once.
    pub fn apply<'c>(
        &mut self,
        changes: impl IntoIterator<Item = RecordChange<'c>>,
        make: &mut dyn FnMut(&Endpoint) -> B,
    ) -> Applied<B> {
        let mut applied = Applied::default();
        for change in changes {
            if let Err(why) = self.apply_one(change, make, &mut applied) {
                // A record that can't be read is as good as absent: its old value is history.
                let gone = RecordChange {
                    value: None,
                    ..change
                };
                let _ = self.apply_one(gone, make, &mut applied);
                applied.bad.push(BadRecord {
                    key: change.key.to_owned(),
                    why,
                });
            }
        }
        applied
    }

    /// Replaces all that lies below a prefix by these records, as one atomic difference: what is
    /// the same stays the same incarnation.
    pub fn replace<'c>(
        &mut self,
        prefix: &str,
        records: &[RecordChange<'c>],
        make: &mut dyn FnMut(&Endpoint) -> B,
    ) -> Applied<B> {
        let present: BTreeSet<&str> = records.iter().map(|r| r.key).collect();
        let absent: Vec<String> = self
            .keys()
            .filter(|key| key.starts_with(prefix) && !present.contains(key.as_str()))
            .collect();
        let deletions = absent.iter().map(|key| RecordChange {
            key,
            revision: 0,
            value: None,
        });
        self.apply(records.iter().copied().chain(deletions), make)
    }

    fn apply_one(
        &mut self,
        change: RecordChange<'_>,
        make: &mut dyn FnMut(&Endpoint) -> B,
        applied: &mut Applied<B>,
    ) -> Result<(), String> {
        let RecordChange {
            key,
            revision,
            value,
        } = change;
        match kind_of(key) {
            Kind::Foreign => {}
            Kind::Strange(why) => {
                if value.is_some() {
                    return Err(why.to_owned());
                }
            }
            Kind::PlatformDomain => {
                self.platform_domain = match value {
                    None => None,
                    Some(value) => {
                        let domain = text(value)?.trim().parse().map_err(words)?;
                        Some((revision, domain))
                    }
                };
            }
            Kind::Service(app) => match value {
                None => {
                    if let Some(route) = self.apps.get_mut(&app) {
                        applied.withdrawn.extend(take_slot(&mut route.slots, key));
                        self.forget_if_empty(&app);
                    }
                }
                Some(value) => {
                    let endpoint = Endpoint {
                        key: key.to_owned(),
                        revision,
                        address: address(text(value)?)?,
                    };
                    let route = self.known(app);
                    applied
                        .withdrawn
                        .extend(put_slot(&mut route.slots, endpoint, make));
                }
            },
            Kind::Route(app) => match value {
                None => {
                    if let Some(known) = self.apps.get_mut(&app) {
                        known.route = None;
                        self.forget_if_empty(&app);
                    }
                }
                Some(value) => {
                    let known = Route::decode(value).map(Known::Route).unwrap_or_else(|e| {
                        let key = key.to_owned();
                        applied.bad.push(BadRecord { key, why: chain(e) });
                        Known::Unreadable(String::from_utf8_lossy(value).into_owned())
                    });
                    self.known(app).route = Some((revision, known));
                }
            },
            Kind::Domain(domain) => match value {
                None => {
                    self.domains.remove(&domain);
                }
                Some(value) => {
                    let record = Domain::decode(value).map_err(chain)?;
                    if record.domain != domain {
                        return Err(format!("it says that it is {}", record.domain));
                    }
                    let raw = text(value)?.to_owned();
                    self.domains.insert(domain, (revision, record.app, raw));
                }
            },
            Kind::Controller => match value {
                None => applied
                    .parts_gone
                    .extend(take_slot(&mut self.controllers, key)),
                Some(value) => {
                    let endpoint = Endpoint {
                        key: key.to_owned(),
                        revision,
                        address: part_address(value)?,
                    };
                    applied
                        .parts_gone
                        .extend(put_slot(&mut self.controllers, endpoint, make));
                }
            },
            Kind::Builder => match value {
                None => {
                    self.builders.remove(key);
                }
                Some(value) => {
                    let raw = text(value)?.to_owned();
                    self.builders
                        .insert(key.to_owned(), (revision, part_address(value)?, raw));
                }
            },
        }
        Ok(())
    }

    fn known(&mut self, app: AppName) -> &mut AppRoute<B> {
        self.apps.entry(app).or_insert_with(|| AppRoute {
            route: None,
            slots: Vec::new(),
        })
    }

    fn forget_if_empty(&mut self, app: &AppName) {
        if self
            .apps
            .get(app)
            .is_some_and(|a| a.route.is_none() && a.slots.is_empty())
        {
            self.apps.remove(app);
        }
    }

    /// Who answers to a host, as [`parse_host`] gives it.
    ///
    /// In this order: `deis.<anything>` is the controller; `<app>.<platform domain>` is that app,
    /// so that nobody takes it by adding it as a domain; custom domains, exact before `*.`;
    /// `<app>.<any domain>`.
    #[must_use]
    pub fn lookup(&self, host: &str) -> Target<'_, B> {
        let Some((label, parent)) = host.split_once('.') else {
            return self.custom(host).unwrap_or(Target::Unknown);
        };
        if label == CONTROLLER_LABEL {
            return Target::Controller(&self.controllers);
        }
        let by_label = || {
            self.apps
                .get_key_value(label)
                .map(|(name, app)| Target::App(name, app))
        };
        let ours = self
            .platform_domain
            .as_ref()
            .is_some_and(|(_, domain)| domain.as_str() == parent);
        if ours && let Some(target) = by_label() {
            return target;
        }
        self.custom(host)
            .or_else(by_label)
            .unwrap_or(Target::Unknown)
    }

    fn custom(&self, host: &str) -> Option<Target<'_, B>> {
        if self.domains.is_empty() {
            return None;
        }
        let (_, app, _) = self.domains.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.domains.get(format!("*.{parent}").as_str())
        })?;
        self.apps
            .get_key_value(app.as_str())
            .map(|(name, app)| Target::App(name, app))
    }

    /// The platform's domain.
    #[must_use]
    pub fn platform_domain(&self) -> Option<&DomainName> {
        self.platform_domain.as_ref().map(|(_, domain)| domain)
    }

    /// Where builders take connections, in the order in which to try them.
    pub fn builders(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.builders.values().map(|(_, address, _)| *address)
    }

    /// Every backend.
    pub fn backends(&self) -> impl Iterator<Item = &B> + '_ {
        self.apps
            .values()
            .flat_map(|app| &app.slots)
            .chain(&self.controllers)
            .map(|slot| &slot.backend)
    }

    /// Whether it knows an app.
    #[must_use]
    pub fn has_app(&self, app: &AppName) -> bool {
        self.apps.contains_key(app)
    }

    /// How many apps it knows.
    #[must_use]
    pub fn app_count(&self) -> usize {
        self.apps.len()
    }

    fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.export().into_iter().map(|record| record.key)
    }

    /// The records that the table is made of: applied to an empty table, they give this one again.
    #[must_use]
    pub fn export(&self) -> Vec<SavedRecord> {
        let record = |key: String, revision, value: String| SavedRecord {
            key,
            revision,
            value,
        };
        let mut records = Vec::new();
        if let Some((revision, domain)) = &self.platform_domain {
            let key = platform_domain_key().as_str().to_owned();
            records.push(record(key, *revision, domain.to_string()));
        }
        for (name, app) in &self.apps {
            if let Some((revision, route)) = &app.route {
                let value = match route {
                    Known::Route(route) => String::from_utf8_lossy(&route.encode()).into_owned(),
                    Known::Unreadable(raw) => raw.clone(),
                };
                let key = keys::route(name).as_str().to_owned();
                records.push(record(key, *revision, value));
            }
            for slot in &app.slots {
                let Endpoint {
                    key,
                    revision,
                    address,
                } = &slot.endpoint;
                records.push(record(key.clone(), *revision, address.to_string()));
            }
        }
        for (domain, (revision, _, raw)) in &self.domains {
            let key = keys::domain(domain).as_str().to_owned();
            records.push(record(key, *revision, raw.clone()));
        }
        for Slot { endpoint, .. } in &self.controllers {
            let part = PartPresence {
                schema: crate::model::SCHEMA,
                id: uuid::Uuid::nil(),
                address: endpoint.address.to_string(),
            };
            let value = String::from_utf8_lossy(&part.encode()).into_owned();
            records.push(record(endpoint.key.clone(), endpoint.revision, value));
        }
        for (key, (revision, _, raw)) in &self.builders {
            records.push(record(key.clone(), *revision, raw.clone()));
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        records
    }
}

fn text(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|_| "it is not UTF-8".to_owned())
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn chain(error: crate::model::DecodeError) -> String {
    format!("{error}: {}", error.source)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(address),
        _ => Err(format!("{text:?} is no ip:port")),
    }
}

fn part_address(value: &[u8]) -> Result<SocketAddr, String> {
    address(&PartPresence::decode(value).map_err(chain)?.address)
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
