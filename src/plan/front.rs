//! What an operator has set below `/deis/router/`: the keys of Deis v1, parsed.
//!
//! Each value stands for itself. One that makes no sense is said and its default used, and nothing
//! else is touched; only a whitelist that can't be read lets nobody in, for it was set to keep people
//! out. Settings of v1 that have no meaning here are known by name, with the reason.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::model::Whitelist;

/// A setting that isn't used as it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Its name below `/deis/router/`.
    pub name: String,
    /// What is wrong, and what is used instead.
    pub why: String,
}

/// How the controller is protected and waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerSettings {
    /// Who may reach it; none: everybody (unless whitelists are enforced).
    pub whitelist: Option<Whitelist>,
    /// A connection to it may take so long.
    pub connect: Duration,
    /// And silence in an answer so long.
    pub read: Duration,
}

/// What a router does besides following its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterSettings {
    /// Largest body of a request to an app; none: no limit.
    pub body_size: Option<u64>,
    /// Silence of an app may last so long, before its answer and within it.
    pub default_timeout: Duration,
    /// A connection to a builder may take so long.
    pub builder_connect: Duration,
    /// And may be silent, in both directions, for so long.
    pub builder_idle: Duration,
    /// The controller's own.
    pub controller: ControllerSettings,
    /// Without a whitelist nobody comes in.
    pub enforce_whitelist: bool,
    /// Plain HTTP is redirected.
    pub enforce_https: bool,
    /// `Strict-Transport-Security` of answers over HTTPS.
    pub hsts: Option<String>,
    /// Connections from [`Self::proxies`] begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The load balancers in front. Whether an operator has named them: [`Self::proxies_named`].
    pub proxies: Vec<IpNet>,
    /// Only then what they say in headers of who their client is counts.
    pub proxies_named: bool,
    /// The query's argument whose value chooses the process.
    pub affinity: Option<String>,
    /// TLS 1.2 is not spoken.
    pub only_tls13: bool,
    /// Each request is a line in the log.
    pub access_log: bool,
}

/// v1's bound for silence, which is above what clouds' load balancers have.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1300);
/// v1's limit of bodies.
const BODY_SIZE: u64 = 1 << 20;
/// An app's process takes a connection at once, or another one is asked.
pub const CONNECT: Duration = Duration::from_millis(300);

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            body_size: Some(BODY_SIZE),
            default_timeout: DEFAULT_TIMEOUT,
            builder_connect: Duration::from_secs(1),
            builder_idle: Duration::from_secs(1200),
            controller: ControllerSettings {
                whitelist: None,
                connect: CONNECT,
                read: Duration::from_secs(1200),
            },
            enforce_whitelist: false,
            enforce_https: false,
            hsts: None,
            proxy_protocol: false,
            proxies: vec!["10.0.0.0/8".parse().expect("invariant: a network")],
            proxies_named: false,
            affinity: None,
            only_tls13: false,
            access_log: true,
        }
    }
}

impl RouterSettings {
    /// Whether an address is that of a load balancer in front.
    #[must_use]
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Whether a client may reach the controller.
    #[must_use]
    pub fn controller_admits(&self, client: IpAddr) -> bool {
        match &self.controller.whitelist {
            Some(list) => !list.is_open() && list.allows(client),
            None => !self.enforce_whitelist,
        }
    }

    /// What is set below `/deis/router/`, by name, and what of it isn't used.
    #[must_use]
    pub fn of<'s>(settings: impl IntoIterator<Item = (&'s str, &'s str)>) -> (Self, Vec<Fault>) {
        let (mut parsed, mut faults) = (Draft::default(), Vec::new());
        for (name, text) in settings {
            if let Err(why) = parsed.take(name, text) {
                let name = name.to_owned();
                faults.push(Fault { name, why });
            }
        }
        faults.sort();
        (parsed.finish(), faults)
    }
}

/// Checks a value before it is set below `/deis/router/`.
///
/// # Errors
/// What the value has to be, or why it would change nothing.
pub fn check(name: &str, text: &str) -> Result<(), String> {
    Draft::default().take(name, text)
}

/// Settings while they are read: some depend on each other.
#[derive(Default)]
struct Draft {
    settings: RouterSettings,
    enforce_https: Option<bool>,
    hsts: Hsts,
}

struct Hsts {
    enabled: bool,
    max_age: u64,
    sub_domains: bool,
    preload: bool,
}

impl Default for Hsts {
    fn default() -> Self {
        Self {
            enabled: false,
            // 18 weeks, the least that browsers' preload list once took.
            max_age: 10_886_400,
            sub_domains: false,
            preload: false,
        }
    }
}

/// What a kind of value has to be.
const SWITCH: &str = "true or false";
const SIZE: &str = "a size like 512k, 10m or 1g, or 0 for no limit";
const SECONDS: &str = "a time from 1 s to a day: a number of seconds, or like 30s, 20m, 1h";
const MILLISECONDS: &str = "a time from 1 ms to a day: a number of milliseconds, or like 30s, 20m";
const NETWORKS: &str = "networks like 10.0.0.0/8, separated by commas";
const ARGUMENT: &str = "the name of an argument: letters, digits, _ and -";

impl Draft {
    fn take(&mut self, name: &str, text: &str) -> Result<(), String> {
        let text = text.trim();
        let settings = &mut self.settings;
        // Each row sets its field and nothing else, or says what the value has to be.
        let rule = match name {
            "bodySize" => put(&mut settings.body_size, size(text), SIZE),
            "defaultTimeout" => put(
                &mut settings.default_timeout,
                time(text, Duration::from_secs(1)),
                SECONDS,
            ),
            "builder/timeout/connect" => put(
                &mut settings.builder_connect,
                time(text, Duration::from_millis(1)),
                MILLISECONDS,
            ),
            "builder/timeout/tcp" => put(
                &mut settings.builder_idle,
                time(text, Duration::from_millis(1)),
                MILLISECONDS,
            ),
            "controller/timeout/connect" => put(
                &mut settings.controller.connect,
                time(text, Duration::from_secs(1)),
                SECONDS,
            ),
            "controller/timeout/read" => put(
                &mut settings.controller.read,
                time(text, Duration::from_secs(1)),
                SECONDS,
            ),
            "controller/whitelist" => {
                let list = text.parse::<Whitelist>();
                let failure = list.as_ref().err().map(ToString::to_string);
                // An open list in a `Some` stands for nobody.
                settings.controller.whitelist = Some(list.unwrap_or_default());
                return failure.map_or(Ok(()), |why| {
                    Err(format!("{why}. Until then nobody reaches the controller"))
                });
            }
            "enforceWhitelist" => put(&mut settings.enforce_whitelist, switch(text), SWITCH),
            "enforceHTTPS" => put(&mut self.enforce_https, switch(text).map(Some), SWITCH),
            "hsts/enabled" => put(&mut self.hsts.enabled, switch(text), SWITCH),
            "hsts/maxAge" => put(
                &mut self.hsts.max_age,
                text.parse().ok().filter(|age| *age <= 10 * 365 * 86_400),
                "a number of seconds, ten years at most",
            ),
            "hsts/includeSubDomains" => put(&mut self.hsts.sub_domains, switch(text), SWITCH),
            "hsts/preload" => put(&mut self.hsts.preload, switch(text), SWITCH),
            "proxyProtocol" => put(&mut settings.proxy_protocol, switch(text), SWITCH),
            "proxyRealIpCidr" => match networks(text) {
                Some(networks) => {
                    settings.proxies = networks;
                    settings.proxies_named = true;
                    Ok(())
                }
                None => Err(NETWORKS),
            },
            "affinityArg" => put(&mut settings.affinity, argument(text).map(Some), ARGUMENT),
            "sslProtocols" => return self.protocols(text),
            "gzip" if switch(text) == Some(false) => Ok(()),
            "accessLog" => put(&mut settings.access_log, switch(text), SWITCH),
            _ => {
                let why = meaningless(name).unwrap_or("no router knows a setting of that name");
                return Err(format!("ignored: {why}"));
            }
        };
        rule.map_err(|rule| format!("{text:?} is not used, the default is: it has to be {rule}"))
    }

    fn protocols(&mut self, text: &str) -> Result<(), String> {
        let names: Vec<&str> = text.split_ascii_whitespace().collect();
        let has = |name| names.contains(&name);
        if !has("TLSv1.2") && !has("TLSv1.3") {
            return Err(format!(
                "{text:?} is not used, the default is: it has to name TLSv1.2 or TLSv1.3"
            ));
        }
        self.settings.only_tls13 = !has("TLSv1.2");
        let others: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !["TLSv1.2", "TLSv1.3"].contains(name))
            .collect();
        match others.as_slice() {
            [] if has("TLSv1.3") => Ok(()),
            [] => Err("TLSv1.3 is spoken nevertheless".to_owned()),
            others => Err(format!("{} is not spoken", others.join(" "))),
        }
    }

    fn finish(self) -> RouterSettings {
        let Hsts {
            enabled,
            max_age,
            sub_domains,
            preload,
        } = self.hsts;
        let hsts = enabled.then(|| {
            let sub_domains = if sub_domains {
                "; includeSubDomains"
            } else {
                ""
            };
            let preload = if preload { "; preload" } else { "" };
            format!("max-age={max_age}{sub_domains}{preload}")
        });
        RouterSettings {
            // Browsers take the header over HTTPS only: they have to be led there.
            enforce_https: self.enforce_https.unwrap_or(enabled),
            hsts,
            ..self.settings
        }
    }
}

fn put<T>(field: &mut T, value: Option<T>, rule: &'static str) -> Result<(), &'static str> {
    *field = value.ok_or(rule)?;
    Ok(())
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "on" => Some(true),
        "false" | "off" => Some(false),
        _ => None,
    }
}

/// As nginx has it: a number with `k`, `m` or `g`; 0 is no limit.
fn size(text: &str) -> Option<Option<u64>> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) if lower.ends_with('k') => (digits, 1 << 10),
        Some(digits) if lower.ends_with('m') => (digits, 1 << 20),
        Some(digits) => (digits, 1 << 30),
        None => (lower.as_str(), 1),
    };
    let bytes = number(digits)?.checked_mul(unit)?;
    Some((bytes > 0).then_some(bytes))
}

/// A number of `unit`s, or one with `ms`, `s`, `m`, `h` or `d`.
fn time(text: &str, unit: Duration) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit());
    let (digits, suffix) = text.split_at(split.unwrap_or(text.len()));
    let unit = match suffix {
        "" => unit,
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        "d" => Duration::from_secs(86_400),
        _ => return None,
    };
    let time = unit.checked_mul(u32::try_from(number(digits)?).ok()?)?;
    (unit.min(Duration::from_secs(1))..=Duration::from_secs(86_400))
        .contains(&time)
        .then_some(time)
}

/// Digits and nothing else, which `parse` would not insist on.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |text: &str| {
        let text = text.trim();
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .ok()
    };
    text.split(',').map(network).collect()
}

fn argument(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let good = (1..=64).contains(&text.len()) && text.chars().all(plain);
    good.then(|| text.to_owned())
}

/// Settings of v1 that change nothing, and why. A page in docs says the same (`docs/router.md`).
#[must_use]
pub fn meaningless(name: &str) -> Option<&'static str> {
    Some(match name {
        "gzip" | "gzipCompLevel" | "gzipDisable" | "gzipHttpVersion" | "gzipMinLength"
        | "gzipProxied" | "gzipTypes" | "gzipVary" => {
            "answers pass as the app made them; compressing secrets beside a visitor's text tells them"
        }
        "controller/timeout/send" => "a controller that stops reading is noticed after a minute",
        "enableNginxStatus" | "trafficStatusZoneSize" => "figures are at port 9090, /metrics",
        "errorLogLevel" => "RUST_LOG in the unit's environment says what is logged",
        "firewall/enabled" | "firewall/errorCode" => "there is no naxsi here",
        "maxWorkerConnections" => {
            "each worker takes 16384 connections, and there is nothing to tune"
        }
        "workerProcesses" => "there is one worker per processor, at most eight",
        "serverNameHashMaxSize" | "serverNameHashBucketSize" => {
            "the table of names grows by itself"
        }
        "serverTokens" => "routers don't say what they are, apps do if they like",
        "sslCert" | "sslKey" => {
            "keys don't lie in etcd in clear: put tls.crt and tls.key into /etc/deis/router of the hosts"
        }
        "sslDhparam" => "only elliptic curves are used",
        "sslCiphers" => "the ciphers are those of TLS 1.3, and the forward secret AEADs of 1.2",
        "sslSessionCache" | "sslSessionTickets" | "sslSessionTimeout" => {
            "sessions are resumed from each router's memory"
        }
        "sslBufferSize" => "records are as large as what there is to send",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
