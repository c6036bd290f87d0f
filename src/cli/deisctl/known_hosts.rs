//! Which kinds of host key known_hosts has for a host. Pure.
//!
//! libssh2 settles on a kind of key before it looks into known_hosts, and then calls a host unknown
//! of which only another kind is known. So we ask for the known kinds first, as OpenSSH does.

use super::ssh::Address;

/// Kinds that libssh2 knows, the better first, by what known_hosts calls them.
const KINDS: [(&str, &str); 5] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256,ssh-rsa"),
];

/// libssh2's list of preferred host key kinds for the host; none when nothing is known of it.
#[must_use]
pub fn key_order(known_hosts: &str, host: &Address) -> Option<String> {
    let port = host.port.unwrap_or(22);
    let with_port = format!("[{}]:{port}", host.host);
    let kinds: Vec<&str> = known_hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (names, kind) = (words.next()?, words.next()?);
            // A hashed name may be anybody's: its kind comes to the front in vain at worst.
            let meant = names.starts_with("|1|")
                || names
                    .split(',')
                    .any(|name| name == host.host || name == with_port);
            meant.then_some(kind)
        })
        .collect();
    let (known, others): (Vec<_>, Vec<_>) =
        KINDS.iter().partition(|(kind, _)| kinds.contains(kind));
    if known.is_empty() {
        return None;
    }
    let order = known.iter().chain(&others).map(|(_, methods)| *methods);
    Some(order.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_come_first() {
        let file = "# comment\ndeis-01,10.0.0.1 ecdsa-sha2-nistp256 AAAA\n\
                    [10.0.0.2]:2222 ssh-rsa AAAA\n@revoked x y\n";
        let cases = [
            ("10.0.0.1", Some("ecdsa-sha2-nistp256,ssh-ed25519,")),
            (
                "10.0.0.2:2222",
                Some("rsa-sha2-512,rsa-sha2-256,ssh-rsa,ssh-ed25519,"),
            ),
            ("10.0.0.2", None),
            ("10.0.0.9", None),
        ];
        for (host, want) in cases {
            let order = key_order(file, &host.parse().expect("host"));
            match (order, want) {
                (None, None) => {}
                (Some(order), Some(want)) => assert!(order.starts_with(want), "{host}: {order}"),
                (got, want) => panic!("{host}: {got:?}, not {want:?}"),
            }
        }
    }
}
