//! Who may reach an app: what its owner writes into the config variable `DEIS_WHITELIST`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// The config variable that holds it.
pub const WHITELIST_VARIABLE: &str = "DEIS_WHITELIST";

/// Most entries of a whitelist: each request of the app is compared with them.
const MAX_ENTRIES: usize = 256;

/// Longest label, in bytes.
const MAX_LABEL: usize = 64;

/// The addresses that may reach an app; an empty one lets everybody in.
///
/// Read from `address:label,network:label,...` as in Deis v1. Labels are for people and may be left
/// out; an IPv6 address with a label stands in brackets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Whitelist(Vec<IpNet>);

/// Why a text is no whitelist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWhitelist {
    /// Nobody could reach the app.
    #[error(
        "{WHITELIST_VARIABLE} is empty, and would let nobody in; remove it with config:unset to let \
         everybody in"
    )]
    Empty,
    /// Too long.
    #[error(
        "{WHITELIST_VARIABLE} has {0} entries, and {MAX_ENTRIES} are allowed; write networks (10.1.0.0/16) \
         instead of single addresses"
    )]
    TooMany(usize),
    /// An entry without an address.
    #[error(
        "{WHITELIST_VARIABLE}: {0:?} is neither an address nor a network; write entries as \
         192.0.2.7:office or 10.1.0.0/16:vpn, separated by commas, and IPv6 with a label as \
         [2001:db8::/32]:home"
    )]
    Entry(String),
    /// A label that can't be one.
    #[error(
        "{WHITELIST_VARIABLE}: the label of {0:?} is too long or not printable; use up to {MAX_LABEL} \
         characters"
    )]
    Label(String),
}

impl Whitelist {
    /// Whether everybody may come in.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client of this address may come in.
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.is_open() || self.0.iter().any(|network| network.contains(&client))
    }
}

impl FromStr for Whitelist {
    type Err = InvalidWhitelist;

    fn from_str(text: &str) -> Result<Self, InvalidWhitelist> {
        if text.trim().is_empty() {
            return Err(InvalidWhitelist::Empty);
        }
        let count = text.split(',').count();
        if count > MAX_ENTRIES {
            return Err(InvalidWhitelist::TooMany(count));
        }
        let networks: Result<_, _> = text.split(',').map(|part| entry(part.trim())).collect();
        networks.map(Self)
    }
}

/// One entry, with or without a label.
fn entry(text: &str) -> Result<IpNet, InvalidWhitelist> {
    let wrong = || InvalidWhitelist::Entry(text.chars().take(80).collect());
    // An IPv6 address without brackets is full of colons: what reads as an address is one.
    if let Some(network) = network(text) {
        return Ok(network);
    }
    let (address, label) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(wrong)?;
            let label = match after {
                "" => "",
                _ => after.strip_prefix(':').ok_or_else(wrong)?,
            };
            (address, label)
        }
        // `2001:db8::/32:home` ends its address by itself.
        None => match text.split_once('/') {
            Some((address, rest)) => {
                let (length, label) = rest.split_once(':').ok_or_else(wrong)?;
                (&text[..=address.len() + length.len()], label)
            }
            None => text.split_once(':').ok_or_else(wrong)?,
        },
    };
    let network = network(address).ok_or_else(wrong)?;
    if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        return Err(InvalidWhitelist::Label(text.chars().take(80).collect()));
    }
    Ok(network)
}

/// An address or a network; its lowest address stands for it, and IPv4 is IPv4 in every notation.
fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().ok()?,
    };
    let mapped = |address: Ipv6Addr| address.to_ipv4_mapped();
    Some(
        match network {
            IpNet::V6(six) if six.prefix_len() >= 96 => match mapped(six.addr()) {
                Some(four) => IpNet::V4(Ipv4Net::new(four, six.prefix_len() - 96).ok()?),
                None => network,
            },
            _ => network,
        }
        .trunc(),
    )
}

impl fmt::Display for Whitelist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, network) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

impl TryFrom<Vec<String>> for Whitelist {
    type Error = InvalidWhitelist;

    fn try_from(entries: Vec<String>) -> Result<Self, InvalidWhitelist> {
        entries
            .iter()
            .map(|text| network(text).ok_or_else(|| InvalidWhitelist::Entry(text.clone())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl From<Whitelist> for Vec<String> {
    fn from(list: Whitelist) -> Self {
        list.0.iter().map(IpNet::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Result<String, InvalidWhitelist> {
        text.parse::<Whitelist>().map(|list| list.to_string())
    }

    #[test]
    fn what_is_read() {
        for (text, want) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7:office", "192.0.2.7/32"),
            (
                " 10.0.1.2/16:the vpn , 192.0.2.7:a:b ",
                "10.0.0.0/16,192.0.2.7/32",
            ),
            ("0.0.0.0/0:all", "0.0.0.0/0"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::/32:home", "2001:db8::/32"),
            (
                "[2001:db8::1]:home,[2001:db8::/64]",
                "2001:db8::1/128,2001:db8::/64",
            ),
            // What reads as an address is one, not an address with a label.
            ("2001:db8::1:cafe", "2001:db8::1:cafe/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(list(text).as_deref(), Ok(want), "{text:?}");
        }
    }

    #[test]
    fn what_is_refused() {
        use InvalidWhitelist::{Empty, Entry, Label, TooMany};
        let entry = |text: &str| Entry(text.to_owned());
        for (text, want) in [
            ("", Empty),
            (" ", Empty),
            (",", entry("")),
            ("192.0.2.7,", entry("")),
            ("office", entry("office")),
            ("office:192.0.2.7", entry("office:192.0.2.7")),
            ("192.0.2.300:x", entry("192.0.2.300:x")),
            ("192.0.2.0/33:x", entry("192.0.2.0/33:x")),
            ("192.0.2.7;allow all", entry("192.0.2.7;allow all")),
            ("[192.0.2.7", entry("[192.0.2.7")),
            ("[192.0.2.7]x", entry("[192.0.2.7]x")),
            ("192.0.2.7:a\nb", Label("192.0.2.7:a\nb".to_owned())),
        ] {
            assert_eq!(list(text), Err(want), "{text:?}");
        }
        let many = vec!["10.0.0.1"; MAX_ENTRIES + 1].join(",");
        assert_eq!(list(&many), Err(TooMany(MAX_ENTRIES + 1)));
    }

    #[test]
    fn who_comes_in() {
        let list: Whitelist = "192.0.2.7:a,10.1.0.0/16:b,2001:db8::/32"
            .parse()
            .expect("list");
        for (client, want) in [
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("::ffff:10.1.2.3", true),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            let client: IpAddr = client.parse().expect("address");
            assert_eq!(list.allows(client), want, "{client}");
        }
        assert!(Whitelist::default().allows(Ipv6Addr::LOCALHOST.into()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_kept(text in ".{0,60}") {
            if let Ok(list) = text.parse::<Whitelist>() {
                prop_assert!(!list.is_open());
                let stored = serde_json::to_string(&list).expect("stored");
                let read: Whitelist = serde_json::from_str(&stored).expect("read");
                prop_assert_eq!(read, list);
            }
        }

        #[test]
        fn an_address_lets_itself_in_and_a_neighbour_out(bits in any::<u128>(), label in "[a-z:/ ]{0,9}", flip in 0u32..128) {
            let six = Ipv6Addr::from_bits(bits);
            let other = Ipv6Addr::from_bits(bits ^ (1 << flip));
            prop_assume!(other.to_ipv4_mapped().is_some() == six.to_ipv4_mapped().is_some());
            let list: Whitelist = format!("[{six}]:{label}").parse().expect("list");
            prop_assert!(list.allows(six.into()));
            prop_assert!(!list.allows(other.into()));
        }

        #[test]
        fn a_network_holds_what_begins_alike(bits in any::<u32>(), length in 0u8..=32, other in any::<u32>()) {
            let (four, client) = (std::net::Ipv4Addr::from_bits(bits), std::net::Ipv4Addr::from_bits(other));
            let list: Whitelist = format!("{four}/{length}:x").parse().expect("list");
            let alike = length == 0 || (bits ^ other) >> (32 - u32::from(length)) == 0;
            prop_assert_eq!(list.allows(client.into()), alike);
        }
    }
}
