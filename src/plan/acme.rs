//! Which custom domains need a certificate of the platform's own ordering, and when.
//!
//! A domain that somebody has brought a certificate for is left alone. Renewal is due when a third of
//! the certificate's time is left, as authorities advise. One order per domain: one that fails harms no
//! other, and is tried again after a pause that doubles.
//!
//! Pure: time is an argument.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    cert::covers,
    model::{AcmeOrder, Certificate, Domain, DomainName, SCHEMA},
    store::Versioned,
};

/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`]. Let's Encrypt allows five failed
/// validations per name and hour.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_mins(15);
/// The longest pause between two tries.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(24);
/// What is written of an authority's reason, in bytes.
const REASON_MAX: usize = 500;

/// What the decision is based on.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Custom domains.
    pub domains: BTreeMap<DomainName, Versioned<Domain>>,
    /// All certificates.
    pub certs: BTreeMap<DomainName, Versioned<Certificate>>,
    /// Orders that failed.
    pub orders: BTreeMap<DomainName, Versioned<AcmeOrder>>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Domains to order a certificate for, those without any first.
    pub order: Vec<DomainName>,
    /// Certificates whose domain is gone, or belongs to somebody else now.
    pub drop_certs: Vec<DomainName>,
    /// Notes on failures that are of no use any more.
    pub drop_orders: Vec<DomainName>,
    /// When to look again, should nothing change before.
    pub next: Option<Timestamp>,
}

/// Where a domain stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Somebody brought a certificate that covers it.
    Brought {
        /// The certificate.
        by: DomainName,
    },
    /// The platform's order is served.
    Served {
        /// Until when it is valid.
        expires: Timestamp,
        /// From when on it is renewed.
        renewal: Timestamp,
    },
    /// An order is under way, or about to be.
    Ordered,
    /// The last order failed.
    Failed {
        /// Why.
        error: String,
        /// When it is tried again.
        next: Timestamp,
    },
    /// Only DNS could prove a wildcard (RFC 8555, 8.4), which the platform doesn't manage.
    Wildcard,
}

/// When a certificate is to be renewed: when a third of its time is left.
fn renewal(cert: &Certificate) -> Timestamp {
    let life = cert.expires.duration_since(cert.created);
    cert.expires
        .saturating_sub(life / 3)
        .unwrap_or(cert.expires)
}

/// Where a domain stands.
#[must_use]
pub fn standing(domain: &DomainName, view: &View, now: Timestamp) -> Standing {
    let brought = view.certs.values().find(|cert| {
        let cert = &cert.value;
        !cert.auto && (cert.name == *domain || (cert.expires > now && covers(&cert.names, domain)))
    });
    if let Some(cert) = brought {
        let by = cert.value.name.clone();
        return Standing::Brought { by };
    }
    if domain.as_str().starts_with('*') {
        return Standing::Wildcard;
    }
    let owner = view.domains.get(domain).map(|there| &there.value.owner);
    let own = view.certs.get(domain).map(|cert| &cert.value);
    let own = own.filter(|cert| owner == Some(&cert.owner));
    let failed = view.orders.get(domain).map(|order| &order.value);
    match (own, failed) {
        (Some(cert), _) if renewal(cert) > now => Standing::Served {
            expires: cert.expires,
            renewal: renewal(cert),
        },
        (_, Some(order)) if order.next > now => Standing::Failed {
            error: order.error.clone(),
            next: order.next,
        },
        _ => Standing::Ordered,
    }
}

/// What is to be done now.
#[must_use]
pub fn due(view: &View, now: Timestamp) -> Due {
    let mut due = Due::default();
    let mut wake = |at: Timestamp| due.next = Some(due.next.map_or(at, |next| next.min(at)));
    let mut order: Vec<(bool, DomainName)> = Vec::new();
    for domain in view.domains.keys() {
        match standing(domain, view, now) {
            Standing::Ordered => order.push((view.certs.contains_key(domain), domain.clone())),
            Standing::Served { renewal, .. } => wake(renewal),
            Standing::Failed { next, .. } => wake(next),
            Standing::Brought { .. } | Standing::Wildcard => {}
        }
    }
    order.sort();
    due.order = order.into_iter().map(|(_, domain)| domain).collect();
    let stale = |(name, cert): (&DomainName, &Versioned<Certificate>)| {
        let owner = view.domains.get(name).map(|domain| &domain.value.owner);
        (cert.value.auto && owner != Some(&cert.value.owner)).then(|| name.clone())
    };
    due.drop_certs = view.certs.iter().filter_map(stale).collect();
    let gone = |name: &&DomainName| !view.domains.contains_key(*name);
    due.drop_orders = view.orders.keys().filter(gone).cloned().collect();
    due
}

/// The note on an order that has just failed.
#[must_use]
pub fn failure(before: Option<&AcmeOrder>, error: &str, now: Timestamp) -> AcmeOrder {
    let failures = before.map_or(0, |order| order.failures).saturating_add(1);
    let pause = FIRST_PAUSE
        .saturating_mul(1 << (failures - 1).min(16))
        .min(LONGEST_PAUSE);
    let mut error = error.to_owned();
    if error.len() > REASON_MAX {
        error.truncate(error.floor_char_boundary(REASON_MAX));
        error.push('…');
    }
    AcmeOrder {
        schema: SCHEMA,
        failures,
        error,
        failed: now,
        next: now.saturating_add(pause).unwrap_or(Timestamp::MAX),
    }
}

/// How long until a moment, for timers.
#[must_use]
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SealedValue;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    fn name(text: &str) -> DomainName {
        text.parse().expect("name")
    }

    fn versioned<T>(value: T) -> Versioned<T> {
        Versioned {
            value,
            create_revision: 1,
            mod_revision: 1,
        }
    }

    impl View {
        fn domain(mut self, domain: &str, owner: &str) -> Self {
            let record = Domain {
                schema: SCHEMA,
                domain: name(domain),
                app: "blog".parse().expect("app"),
                owner: owner.parse().expect("user"),
                created: at(0),
            };
            self.domains.insert(name(domain), versioned(record));
            self
        }

        fn cert(mut self, cert: &str, owner: &str, auto: bool, expires: i64) -> Self {
            let record = Certificate {
                schema: SCHEMA,
                name: name(cert),
                names: [name(cert)].into(),
                owner: owner.parse().expect("user"),
                chain: String::new(),
                key: SealedValue(String::new()),
                expires: at(expires),
                created: at(0),
                auto,
            };
            self.certs.insert(name(cert), versioned(record));
            self
        }

        fn failed(mut self, domain: &str, next: i64) -> Self {
            let record = AcmeOrder {
                next: at(next),
                ..failure(None, "no", at(0))
            };
            self.orders.insert(name(domain), versioned(record));
            self
        }
    }

    #[test]
    fn what_is_due() {
        let view = View::default;
        let order = |names: &[&str]| Due {
            order: names.iter().map(|n| name(n)).collect(),
            ..Due::default()
        };
        let later = |hour| Due {
            next: Some(at(hour)),
            ..Due::default()
        };
        let cases = [
            ("nothing", view(), Due::default()),
            (
                "a new domain",
                view().domain("a.org", "ada"),
                order(&["a.org"]),
            ),
            (
                "a wildcard",
                view().domain("*.a.org", "ada"),
                Due::default(),
            ),
            (
                "served: looked at when a third of 90 hours is left",
                view().domain("a.org", "ada").cert("a.org", "ada", true, 90),
                later(60),
            ),
            (
                "renewal, after those that have none",
                view()
                    .domain("a.org", "ada")
                    .cert("a.org", "ada", true, 12)
                    .domain("b.org", "ada"),
                order(&["b.org", "a.org"]),
            ),
            (
                "brought",
                view()
                    .domain("a.org", "ada")
                    .cert("a.org", "ada", false, 90),
                Due::default(),
            ),
            (
                "brought as a wildcard",
                view()
                    .domain("www.a.org", "ada")
                    .cert("*.a.org", "ada", false, 90),
                Due::default(),
            ),
            (
                "brought as a wildcard, and expired",
                view()
                    .domain("www.a.org", "ada")
                    .cert("*.a.org", "ada", false, 5),
                order(&["www.a.org"]),
            ),
            (
                "brought under its own name: expired, and still its owner's affair",
                view().domain("a.org", "ada").cert("a.org", "ada", false, 5),
                Due::default(),
            ),
            (
                "a pause after a failure",
                view().domain("a.org", "ada").failed("a.org", 20),
                later(20),
            ),
            (
                "the pause is over",
                view().domain("a.org", "ada").failed("a.org", 10),
                order(&["a.org"]),
            ),
            (
                "the domain went to somebody else",
                view().domain("a.org", "eve").cert("a.org", "ada", true, 90),
                Due {
                    order: vec![name("a.org")],
                    drop_certs: vec![name("a.org")],
                    ..Due::default()
                },
            ),
            (
                "the domain is gone; what was brought stays",
                view()
                    .cert("a.org", "ada", true, 90)
                    .cert("b.org", "ada", false, 90)
                    .failed("c.org", 20),
                Due {
                    drop_certs: vec![name("a.org")],
                    drop_orders: vec![name("c.org")],
                    ..Due::default()
                },
            ),
        ];
        for (what, view, want) in cases {
            assert_eq!(due(&view, at(10)), want, "{what}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_day() {
        let (mut order, mut pauses) = (None, Vec::new());
        for _ in 0..40 {
            let next = failure(order.as_ref(), "no", at(0));
            pauses.push(next.next.duration_since(at(0)).as_mins());
            order = Some(next);
        }
        assert_eq!(pauses[..4], [15, 30, 60, 120]);
        assert!(pauses.iter().all(|pause| *pause <= 24 * 60));
        assert_eq!(pauses[39], 24 * 60);
        let long = failure(None, &"é".repeat(REASON_MAX), at(0));
        assert!(long.error.len() <= REASON_MAX + '…'.len_utf8());
    }
}
