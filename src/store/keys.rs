//! The key layout: one function per row. Nobody else spells a key.

use std::{fmt, marker::PhantomData};

use uuid::Uuid;

use crate::model::*;

/// Everything of ours lies below this prefix.
pub const ROOT: &str = "/deis/";

/// A key whose value is a `T`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key<T>(String, PhantomData<fn() -> T>);

impl<T> Key<T> {
    fn new(text: String) -> Self {
        Self(text, PhantomData)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T> fmt::Display for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All keys that begin so hold a `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix<T>(String, PhantomData<fn() -> T>);

impl<T> Prefix<T> {
    fn new(text: String) -> Self {
        Self(text, PhantomData)
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $record:ty = $format:literal;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name($($arg: $type),*) -> Key<$record> {
            Key::new(format!($format))
        }
    )*};
}

macro_rules! prefixes {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $record:ty = $format:literal;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name($($arg: $type),*) -> Prefix<$record> {
            Prefix::new(format!($format))
        }
    )*};
}

keys! {
    /// Platform setting, plain text (`domain`, `version`).
    platform(name: &str) -> String = "/deis/platform/{name}";
    /// Setting of the platform or a part (`logs`, `router`), plain text, for operators.
    setting(target: &str, name: &str) -> String = "/deis/{target}/{name}";
    /// A user.
    user(name: &Username) -> User = "/deis/users/{name}";
    /// A token, by the SHA-256 of its text in hexadecimal digits.
    token(hash: &str) -> Token = "/deis/tokens/{hash}";
    /// An SSH key, by its MD5 fingerprint: unique over all users.
    ssh_key(fingerprint: &Fingerprint) -> SshKey = "/deis/keys/{fingerprint}";
    /// An app.
    app(app: &AppName) -> App = "/deis/apps/{app}";
    /// A build.
    build(app: &AppName, id: Uuid) -> Build = "/deis/apps/{app}/builds/{id}";
    /// A config.
    config(app: &AppName, id: Uuid) -> Config = "/deis/apps/{app}/configs/{id}";
    /// A release.
    release(app: &AppName, version: ReleaseNumber) -> Release = "/deis/apps/{app}/releases/{version}";
    /// How a release's rollout ended.
    outcome(app: &AppName, version: ReleaseNumber) -> Outcome = "/deis/apps/{app}/outcomes/{version}";
    /// The one change in progress.
    rollout(app: &AppName) -> Rollout = "/deis/apps/{app}/rollout";
    /// The push in progress.
    push_lock(app: &AppName) -> PushLock = "/deis/apps/{app}/push";
    /// A push that was told of by a hook.
    push(app: &AppName, id: Uuid) -> Push = "/deis/apps/{app}/pushes/{id}";
    /// The commit that was deployed last.
    git_head(app: &AppName) -> GitHead = "/deis/apps/{app}/git";
    /// What somebody did to the app; ids grow with time.
    app_audit(app: &AppName, id: &str) -> Audit = "/deis/apps/{app}/audit/{id}";
    /// What somebody did to the platform.
    audit(id: &str) -> Audit = "/deis/audit/{id}";
    /// The private host key of all builders' sshd, sealed.
    builder_host_key() -> SealedValue = "/deis/builder/sshHostKey";
    /// Its public half, as in known_hosts: type and base64.
    builder_host_public_key() -> String = "/deis/builder/sshHostPublicKey";
    /// What routers know of the app.
    route(app: &AppName) -> Route = "/deis/routes/{app}";
    /// A custom domain.
    domain(domain: &DomainName) -> Domain = "/deis/domains/{domain}";
    /// A certificate.
    cert(name: &DomainName) -> Certificate = "/deis/certs/{name}";
    /// The platform's account with a certificate authority.
    acme_account() -> AcmeAccount = "/deis/acme/account";
    /// What routers answer the authority that asks for this token.
    acme_challenge(token: &ChallengeToken) -> AcmeChallenge = "/deis/acme/challenges/{token}";
    /// A domain's orders that failed.
    acme_order(domain: &DomainName) -> AcmeOrder = "/deis/acme/orders/{domain}";
    /// A host's durable record.
    host(id: &MachineId) -> HostRecord = "/deis/hosts/{id}";
    /// A host's presence.
    machine(id: &MachineId) -> Machine = "/deis/machines/{id}";
    /// An assignment; `name` is a process's or a unit's.
    assignment(machine: &MachineId, name: &str) -> Assignment = "/deis/schedule/{machine}/{name}";
    /// A host's report.
    state(machine: &MachineId) -> MachineState = "/deis/state/{machine}";
    /// Address of a published process, plain `ip:port`.
    service(app: &AppName, process: &ProcessName) -> String = "/deis/services/{app}/{process}";
    /// A router's presence.
    router(ip: &str) -> RouterPresence = "/deis/router/hosts/{ip}";
    /// Presence of a platform part other than the router.
    part(part: &str, ip: &str) -> PartPresence = "/deis/{part}/hosts/{ip}";
    /// The elected leader.
    leader() -> Leader = "/deis/leader";
    /// A unit file of the platform or an operator.
    unit(name: &UnitFileName) -> UnitFile = "/deis/units/{name}";
}

prefixes! {
    /// All platform settings.
    platform_settings() -> String = "/deis/platform/";
    /// All settings of the platform or a part; a part's hosts register below it, too.
    settings(target: &str) -> String = "/deis/{target}/";
    /// All users.
    users() -> User = "/deis/users/";
    /// All tokens.
    tokens() -> Token = "/deis/tokens/";
    /// All SSH keys.
    ssh_keys() -> SshKey = "/deis/keys/";
    /// Everything below all apps, and the apps themselves (records of several types).
    apps_tree() -> App = "/deis/apps/";
    /// Everything below one app (records of several types).
    app_tree(app: &AppName) -> App = "/deis/apps/{app}/";
    /// An app's builds.
    builds(app: &AppName) -> Build = "/deis/apps/{app}/builds/";
    /// An app's configs.
    configs(app: &AppName) -> Config = "/deis/apps/{app}/configs/";
    /// An app's releases.
    releases(app: &AppName) -> Release = "/deis/apps/{app}/releases/";
    /// What was done to an app, the oldest first.
    app_audits(app: &AppName) -> Audit = "/deis/apps/{app}/audit/";
    /// What was done to the platform, the oldest first.
    audits() -> Audit = "/deis/audit/";
    /// The tokens whose hash begins so.
    tokens_like(id: &str) -> Token = "/deis/tokens/{id}";
    /// An app's outcomes.
    outcomes(app: &AppName) -> Outcome = "/deis/apps/{app}/outcomes/";
    /// An app's pushes that were told of by hooks.
    pushes(app: &AppName) -> Push = "/deis/apps/{app}/pushes/";
    /// All routes.
    routes() -> Route = "/deis/routes/";
    /// All custom domains.
    domains() -> Domain = "/deis/domains/";
    /// All certificates.
    certs() -> Certificate = "/deis/certs/";
    /// All that routers answer certificate authorities.
    acme_challenges() -> AcmeChallenge = "/deis/acme/challenges/";
    /// All domains' orders that failed.
    acme_orders() -> AcmeOrder = "/deis/acme/orders/";
    /// All hosts' durable records.
    hosts() -> HostRecord = "/deis/hosts/";
    /// All hosts that are present.
    machines() -> Machine = "/deis/machines/";
    /// All assignments.
    schedule() -> Assignment = "/deis/schedule/";
    /// A host's assignments: the agent's one watch.
    schedule_of(machine: &MachineId) -> Assignment = "/deis/schedule/{machine}/";
    /// All hosts' reports.
    states() -> MachineState = "/deis/state/";
    /// All published addresses.
    services() -> String = "/deis/services/";
    /// An app's published addresses.
    services_of(app: &AppName) -> String = "/deis/services/{app}/";
    /// All routers.
    routers() -> RouterPresence = "/deis/router/hosts/";
    /// All hosts of a platform part: `controller`, `builder`, `registry`, `logs`.
    parts(part: &str) -> PartPresence = "/deis/{part}/hosts/";
    /// All unit files.
    units() -> UnitFile = "/deis/units/";
}

/// The part of a key after the prefix.
#[must_use]
pub fn last_part<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(prefix).filter(|rest| !rest.is_empty())
}

/// The machine and name in an assignment's key.
#[must_use]
pub fn parse_assignment(key: &str) -> Option<(MachineId, &str)> {
    let (machine, name) = split_assignment(key)?;
    Some((machine.parse().ok()?, name))
}

/// The same, not parsed: to compare and to look up.
#[must_use]
pub fn split_assignment(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix("/deis/schedule/")?.split_once('/')
}

/// The app and process in a service's key.
#[must_use]
pub fn parse_service(key: &str) -> Option<ProcessName> {
    let (app, process) = key.strip_prefix("/deis/services/")?.split_once('/')?;
    let process: ProcessName = process.parse().ok()?;
    (process.app.as_str() == app).then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let app: AppName = "blog".parse().expect("name");
        let machine: MachineId = "0123456789abcdef0123456789abcdef".parse().expect("id");
        let process: ProcessName = "blog_v7.web.1".parse().expect("process");
        assert_eq!(
            release(&app, ReleaseNumber(7)).as_str(),
            "/deis/apps/blog/releases/v7"
        );
        let key = assignment(&machine, "blog_v7.web.1");
        assert_eq!(
            parse_assignment(key.as_str()),
            Some((machine, "blog_v7.web.1"))
        );
        let key = service(&app, &process);
        assert_eq!(key.as_str(), "/deis/services/blog/blog_v7.web.1");
        assert_eq!(parse_service(key.as_str()), Some(process));
        assert_eq!(parse_service("/deis/services/other/blog_v7.web.1"), None);
    }
}
