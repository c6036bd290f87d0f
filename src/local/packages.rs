//! Debian packages that the provider needs on the machine.

use std::path::Path;

use anyhow::Context;

use super::command::{command, stream, succeeds};
use super::report::Note;

/// A package and a file that shows it is there.
const NEEDED: &[(&str, &str)] = &[
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("systemd-container", "/usr/bin/systemd-nspawn"),
    ("podman", "/usr/bin/podman"),
    ("uidmap", "/usr/bin/newuidmap"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/bin/ip"),
    ("util-linux", "/usr/bin/nsenter"),
    ("git", "/usr/bin/git"),
    ("openssh-client", "/usr/bin/ssh"),
    ("curl", "/usr/bin/curl"),
    ("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    (
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
];

/// Installs what is missing.
pub fn install_missing(note: &mut Note) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, file)| !Path::new(file).exists() && !on_path(file))
        .map(|(package, _)| *package)
        .collect();
    if !has_myhostname() {
        missing.push("libnss-myhostname");
    }
    if missing.is_empty() {
        note.set("nothing missing");
        return Ok(());
    }
    let fresh = ["apt-get", "update", "-qq"];
    if !succeeds(&["apt-get", "install", "-qq", "--simulate", missing[0]]) {
        stream(&mut command(&fresh)).context("apt-get update: is this a Debian with a network?")?;
    }
    let mut install = vec!["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    let mut quiet = command(&install);
    quiet
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none");
    if stream(&mut quiet).is_err() {
        stream(&mut command(&fresh))?;
        stream(quiet.stdin(std::process::Stdio::null()))
            .with_context(|| format!("install by hand: {}", missing.join(" ")))?;
    }
    note.set(format!("installed {}", missing.join(" ")));
    Ok(())
}

fn on_path(file: &str) -> bool {
    let name = Path::new(file).file_name().unwrap_or_default();
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
}

/// `*.localhost` resolves by nss-myhostname, or by systemd-resolved.
fn has_myhostname() -> bool {
    succeeds(&["getent", "hosts", "a.localhost"])
}
