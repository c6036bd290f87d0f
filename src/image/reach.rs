//! Which registries may be reached: images are named by users, and no name of theirs may lead the
//! platform to itself or into its operators' network.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Why a URL is not asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// An address that is not public.
    #[error(
        "{0} is not on the public internet; an operator can allow it: deisctl config registry set \
         internal={0} (or insecure={0} when it has no TLS)"
    )]
    Private(String),
    /// In clear.
    #[error(
        "{0} would be asked in clear; an operator can allow it: deisctl config registry set insecure={0}"
    )]
    Plain(String),
    /// Neither HTTP nor HTTPS, or with a password in it.
    #[error("a registry leads to a URL that is none of HTTPS")]
    Url,
}

/// Registries that operators vouch for, by `host:port`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Spoken to in clear.
    insecure: BTreeSet<(String, u16)>,
    /// At addresses that are not public.
    internal: BTreeSet<(String, u16)>,
}

fn hosts(text: &str, default: u16) -> BTreeSet<(String, u16)> {
    let entries = text.split([',', ' ']).map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .filter_map(|entry| {
            // As a URL: whatever form an address is written in, it is compared as the same.
            let url = Url::parse(&format!("http://{entry}/")).ok()?;
            let port = match entry.ends_with(":80") {
                true => 80,
                false => url.port().unwrap_or(default),
            };
            Some((url.host_str()?.to_owned(), port))
        })
        .collect()
}

impl Listed {
    /// From the settings `insecure` and `internal`: hosts with or without a port, by commas.
    #[must_use]
    pub fn parse(insecure: &str, internal: &str) -> Self {
        Self {
            insecure: hosts(insecure, 80),
            internal: hosts(internal, 443),
        }
    }

    /// The root of a registry named in an image.
    ///
    /// # Errors
    /// When it is no host.
    pub fn root(&self, registry: &str) -> Result<Url, Unreachable> {
        let parse = |scheme: &str| Url::parse(&format!("{scheme}://{registry}/v2/"));
        let plain = parse("http").map_err(|_| Unreachable::Url)?;
        if self.has(&self.insecure, &plain) {
            return Ok(plain);
        }
        parse("https").map_err(|_| Unreachable::Url)
    }

    fn has(&self, list: &BTreeSet<(String, u16)>, url: &Url) -> bool {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return false;
        };
        list.contains(&(host.to_owned(), port))
    }

    /// Whether a URL may be asked, and if its host may have any address.
    ///
    /// # Errors
    /// When it may not be asked at all.
    pub fn permit(&self, url: &Url) -> Result<AnyAddress, Unreachable> {
        let name = || {
            let host = url.host_str().unwrap_or_default();
            match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            }
        };
        if !url.username().is_empty() || url.password().is_some() || url.host().is_none() {
            return Err(Unreachable::Url);
        }
        match url.scheme() {
            "http" if self.has(&self.insecure, url) => return Ok(AnyAddress(true)),
            "http" => return Err(Unreachable::Plain(name())),
            "https" if self.has(&self.internal, url) => return Ok(AnyAddress(true)),
            "https" => {}
            _ => return Err(Unreachable::Url),
        }
        // Names are looked at when they are resolved; addresses would not be.
        let literal = url.host_str().unwrap_or_default();
        let literal = literal.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(ip) if !is_public(ip) => Err(Unreachable::Private(name())),
            _ => Ok(AnyAddress(false)),
        }
    }
}

/// Whether the host of a URL may have an address that is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnyAddress(pub bool);

/// Whether an address is one of the public internet: everything else may be the platform's own
/// (etcd, agents, other apps) or its operators'.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    );
    !special
}

/// Only global unicast (2000::/3), without those that carry an IPv4 address or lead nowhere.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    let transition = first == 0x2002 || (first == 0x2001 && second < 0x0200);
    let documentation = (first == 0x2001 && second == 0x0db8) || first == 0x3fff;
    (first & 0xe000) == 0x2000 && !transition && !documentation
}

/// Resolves names to public addresses only: what is checked is what is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        type Answer = Result<Addrs, Box<dyn std::error::Error + Send + Sync>>;
        let name = name.as_str().to_owned();
        let look: Pin<Box<dyn Future<Output = Answer> + Send>> = Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|at| is_public(at.ip())).collect();
            if public.is_empty() {
                return Err(Unreachable::Private(name).into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        });
        look
    }
}

impl PublicOnly {
    pub(super) fn shared() -> Arc<Self> {
        Arc::new(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, public) in [
            ("1.1.1.1", true),
            ("100.63.0.1", true),
            ("172.15.0.1", true),
            ("172.32.0.1", true),
            ("0.0.0.0", false),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:1.1.1.1", false),
            ("64:ff9b::7f00:1", false),
            ("2002:7f00:1::", false),
            ("2001:0:1::", false),
            ("2001:db8::1", false),
        ] {
            let ip = text.parse().expect("an address");
            assert_eq!(is_public(ip), public, "{text}");
        }
    }

    #[test]
    fn urls() {
        let listed = Listed::parse(
            "10.0.0.9:5000, plain.example",
            "inner.example,10.0.0.8:8443",
        );
        let plain = |host: &str| Err(Unreachable::Plain(host.to_owned()));
        let private = |host: &str| Err(Unreachable::Private(host.to_owned()));
        let (any, public) = (Ok(AnyAddress(true)), Ok(AnyAddress(false)));
        for (url, want) in [
            ("https://registry.example/v2/", public.clone()),
            ("https://1.1.1.1/", public.clone()),
            ("http://10.0.0.9:5000/v2/", any.clone()),
            ("http://plain.example/", any.clone()),
            ("https://inner.example/", any.clone()),
            ("https://10.0.0.8:8443/", any),
            // The same host at another port is another service.
            ("http://10.0.0.9:2379/", plain("10.0.0.9:2379")),
            ("https://10.0.0.9:5000/", private("10.0.0.9:5000")),
            ("https://10.0.0.8/", private("10.0.0.8")),
            ("https://inner.example:2379/", public),
            ("http://registry.example/", plain("registry.example")),
            ("https://127.0.0.1:2379/", private("127.0.0.1:2379")),
            ("https://[::1]:2379/", private("[::1]:2379")),
            (
                "https://[::ffff:169.254.169.254]/",
                private("[::ffff:a9fe:a9fe]"),
            ),
            // Other ways to write 127.0.0.1.
            ("https://0x7f.1/", private("127.0.0.1")),
            ("https://2130706433/", private("127.0.0.1")),
            ("https://user:word@registry.example/", Err(Unreachable::Url)),
            ("ftp://registry.example/", Err(Unreachable::Url)),
            ("file:///etc/passwd", Err(Unreachable::Url)),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(listed.permit(&url), want, "{url}");
        }
        let root = |registry: &str| listed.root(registry).map(String::from);
        assert_eq!(root("10.0.0.9:5000"), Ok("http://10.0.0.9:5000/v2/".into()));
        assert_eq!(root("plain.example"), Ok("http://plain.example/v2/".into()));
        assert_eq!(root("quay.io"), Ok("https://quay.io/v2/".into()));
    }

    #[tokio::test]
    async fn names_that_lead_home_are_not_resolved() {
        let name: Name = "localhost".parse().expect("a name");
        let found = PublicOnly.resolve(name).await;
        let error = found.err().expect("refused");
        assert!(
            error.to_string().contains("not on the public internet"),
            "{error}"
        );
    }
}
