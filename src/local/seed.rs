//! What a host finds when it boots: its user-data, its identity, and how this machine reaches the
//! outside world.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use handlebars::{
    Context as Data, Handlebars, Helper, HelperResult, Output, RenderContext, RenderErrorReason,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::authority::{Authority, Certificate};
use super::command::run;
use super::net;
use super::rootfs::reaches_mirror;
use super::state::{Cluster, Host, Paths, write_atomically};

/// The template, in the checkout and in /opt/deis.
pub const USER_DATA: &str = "coreos/cloud-config/user-data.hbs";
/// Settings for builds, in a host and in its build containers.
const BUILD: &str = "etc/deis/build";
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The values of user-data.hbs.
#[derive(Debug, Clone, Serialize)]
pub struct UserData {
    /// Host name.
    pub name: String,
    /// Cluster name.
    pub cluster: String,
    /// Plain links are fine.
    pub local: bool,
    /// The host's address.
    pub address: String,
    /// etcd's client URLs, the host's own first.
    pub etcd: Vec<String>,
    /// Whether the host is a member of etcd.
    pub member: bool,
    /// `name=peer-url,...` of all members.
    pub initial_cluster: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Certificates of links between hosts; none in a local cluster.
    pub tls: Option<Tls>,
    /// What is in those files.
    pub certificates: Option<Certificates>,
    /// Labels.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// The content of /etc/deis/cluster.key.
    pub cluster_key: String,
    /// SSH keys of the operator.
    pub authorized_keys: Vec<String>,
    /// An image store that has the stack image, if there is one.
    pub image_store: Option<String>,
    /// Registries that speak plain HTTP.
    pub insecure_registries: Vec<String>,
}

/// Files of a host's mutual TLS.
#[derive(Debug, Clone, Serialize)]
pub struct Tls {
    /// Authority.
    pub ca: PathBuf,
    /// Certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Tls {
    /// Where they are on each host.
    fn on_host() -> Self {
        let file = |name: &str| Path::new("/etc/deis/tls").join(name);
        Self {
            ca: file("ca.pem"),
            cert: file("host.pem"),
            key: file("host.key"),
        }
    }
}

/// A host's certificates, as PEM.
#[derive(Debug, Clone, Serialize)]
pub struct Certificates {
    /// Authority.
    pub ca: String,
    /// Certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// A host's certificates, made if there are none: by the authority that made the operator's.
fn certificates(
    operator: &Certificate,
    cluster: &Cluster,
    host: &Host,
) -> anyhow::Result<Certificates> {
    let dir = operator
        .ca
        .parent()
        .context("the authority is in a directory")?;
    let authority = Authority::ensure(dir, &cluster.name)?;
    let files = authority.certificate(&host.name, Some(host.address))?;
    Ok(Certificates {
        ca: fs::read_to_string(files.ca)?,
        cert: fs::read_to_string(files.cert)?,
        key: fs::read_to_string(files.key)?,
    })
}

/// `{{json value}}`: the value as JSON, which YAML takes as it is.
fn json(
    helper: &Helper<'_>,
    _: &Handlebars<'_>,
    _: &Data,
    _: &mut RenderContext<'_, '_>,
    out: &mut dyn Output,
) -> HelperResult {
    let value = helper
        .param(0)
        .ok_or(RenderErrorReason::ParamNotFoundForIndex("json", 0))?;
    if value.is_value_missing() {
        return Err(RenderErrorReason::MissingVariable(value.relative_path().cloned()).into());
    }
    out.write(&value.value().to_string())?;
    Ok(())
}

/// Renders user-data.hbs; a name that the template has and the values don't is an error.
pub fn render(template: &str, values: &UserData) -> anyhow::Result<String> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(handlebars::no_escape);
    engine.register_helper("json", Box::new(json));
    engine
        .render_template(template, values)
        .context("user-data.hbs")
}

/// The values for a host of a local cluster.
pub fn values(cluster: &Cluster, host: &Host) -> anyhow::Result<UserData> {
    let scheme = cluster.scheme();
    let own = format!("{scheme}://{}:2379", host.address);
    let mut etcd: Vec<String> = cluster.etcd.clone();
    etcd.sort_by_key(|url| *url != own);
    let members: Vec<String> = cluster
        .hosts
        .iter()
        .filter(|host| host.etcd_member)
        .map(|host| format!("{}={scheme}://{}:2380", host.name, host.address))
        .collect();
    let certificates = match &cluster.tls {
        Some(operator) => Some(certificates(operator, cluster, host)?),
        None => None,
    };
    let public = cluster.ssh_key.with_extension("pub");
    Ok(UserData {
        name: host.name.clone(),
        cluster: format!("local-{}", cluster.name),
        local: cluster.tls.is_none(),
        address: host.address.to_string(),
        etcd,
        member: host.etcd_member,
        initial_cluster: members.join(","),
        scheme: scheme.to_owned(),
        tls: cluster.tls.is_some().then(Tls::on_host),
        certificates,
        metadata: std::collections::BTreeMap::new(),
        cluster_key: fs::read_to_string(&cluster.cluster_key)?,
        authorized_keys: vec![fs::read_to_string(public)?.trim().to_owned()],
        image_store: Some("/opt/deis/images/store".to_owned()),
        insecure_registries: cluster
            .hosts
            .iter()
            .filter(|_| cluster.tls.is_none())
            .map(|host| format!("{}:5000", host.address))
            .collect(),
    })
}

/// The machine-id of a host: always the same for the same cluster and host name.
pub fn machine_id(cluster: &str, host: &str) -> String {
    let hash = Sha256::digest(format!("deis-local {cluster} {host}"));
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Makes the keys that outlive `down`, and the cluster key, if they aren't there.
pub fn ensure_keys(paths: &Paths, cluster: &Cluster) -> anyhow::Result<()> {
    let keys = paths.keys();
    fs::create_dir_all(&keys)?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700))?;
    ssh_keygen(&keys.join("builder/ssh_host_ed25519_key"), "deis-builder")?;
    let mut known = String::new();
    for host in &cluster.hosts {
        let key = keys.join(&host.name).join("ssh_host_ed25519_key");
        ssh_keygen(&key, &host.name)?;
        let public = fs::read_to_string(key.with_extension("pub"))?;
        let words: Vec<&str> = public.split_whitespace().take(2).collect();
        known.push_str(&format!(
            "{},{} {}\n",
            host.name,
            host.address,
            words.join(" ")
        ));
    }
    write_atomically(&cluster.known_hosts, known.as_bytes(), 0o644)?;
    ensure_shared_keys(cluster, &format!("deis-local-{}", paths.name))
}

/// The operator's SSH key and the cluster's AEAD key.
pub fn ensure_shared_keys(cluster: &Cluster, comment: &str) -> anyhow::Result<()> {
    ssh_keygen(&cluster.ssh_key, comment)?;
    if !cluster.cluster_key.exists() {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        write_atomically(&cluster.cluster_key, format!("{text}\n").as_bytes(), 0o600)?;
    }
    Ok(())
}

/// An ed25519 key, if there is none.
pub fn ssh_keygen(path: &Path, comment: &str) -> anyhow::Result<()> {
    if path.exists() && path.with_extension("pub").exists() {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().context("a key is in a directory")?)?;
    let file = path.display().to_string();
    run(&[
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        comment,
        "-f",
        &file,
    ])
    .map(|_| ())
}

/// Writes into a host's root what has to be there before it boots.
pub fn plant(
    paths: &Paths,
    cluster: &Cluster,
    host: &Host,
    root: &Path,
    mtu: u32,
) -> anyhow::Result<()> {
    let put = |path: &str, content: &str, mode: u32| {
        write_atomically(&root.join(path), content.as_bytes(), mode)
    };
    put("etc/machine-id", &format!("{}\n", host.machine_id), 0o444)?;
    put("etc/hostname", &format!("{}\n", host.name), 0o644)?;
    let mut names = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for other in &cluster.hosts {
        names.push_str(&format!("{} {}\n", other.address, other.name));
    }
    put("etc/hosts", &names, 0o644)?;
    put("etc/resolv.conf", &resolv_conf(), 0o644)?;
    put(
        "etc/systemd/network/10-host0.network",
        &format!(
            "[Match]\nName=host0\n[Link]\nMTUBytes={mtu}\n[Network]\nAddress={}/24\nGateway={}\n\
             LinkLocalAddressing=no\nIPv6AcceptRA=no\nIPForward=yes\nConfigureWithoutCarrier=no\n",
            host.address, cluster.gateway
        ),
        0o644,
    )?;
    for (from, to) in [(&host.name[..], "etc/ssh"), ("builder", "etc/deis/builder")] {
        for (file, mode) in [
            ("ssh_host_ed25519_key", 0o600),
            ("ssh_host_ed25519_key.pub", 0o644),
        ] {
            let key = fs::read_to_string(paths.keys().join(from).join(file))?;
            put(&format!("{to}/{file}"), &key, mode)?;
        }
    }
    let template = paths.opt().join(USER_DATA);
    let template =
        fs::read_to_string(&template).with_context(|| format!("read {}", template.display()))?;
    let user_data = render(&template, &values(cluster, host)?)?;
    put(
        "var/lib/cloud/seed/nocloud-net/user-data",
        &user_data,
        0o600,
    )?;
    let meta_data = format!(
        "instance-id: {}-{}\nlocal-hostname: {}\n",
        cluster.name, host.name, host.name
    );
    put(
        "var/lib/cloud/seed/nocloud-net/meta-data",
        &meta_data,
        0o644,
    )?;
    plant_build_settings(root)
}

/// The machine's name servers; those on its own loopback would be out of a host's reach.
fn resolv_conf() -> String {
    for path in ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("nameserver 127."))
            .filter(|line| !line.starts_with("nameserver ::1"))
            .collect();
        if lines.iter().any(|line| line.starts_with("nameserver ")) {
            return lines.join("\n") + "\n";
        }
    }
    "# this machine's name server is on its loopback only\n".to_owned()
}

/// Hands in how this machine reaches package registries: pip's and apt's settings and its
/// certificates. Builds mount /etc/deis/build read-only at the same path; no image holds it.
fn plant_build_settings(root: &Path) -> anyhow::Result<()> {
    let bundle = format!("/{BUILD}/ca-certificates.crt");
    let dir = root.join(BUILD);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let put =
        |name: &str, content: &str| write_atomically(&dir.join(name), content.as_bytes(), 0o644);
    let bundle_of_machine = std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| CA_BUNDLE.to_owned());
    let certificates =
        fs::read_to_string(&bundle_of_machine).or_else(|_| fs::read_to_string(CA_BUNDLE));
    put(
        "ca-certificates.crt",
        &certificates.context("this machine's CA certificates")?,
    )?;
    let remap = |text: &str| {
        text.replace(&bundle_of_machine, &bundle)
            .replace(CA_BUNDLE, &bundle)
    };

    let mut pip = String::new();
    for file in [
        "/etc/pip.conf",
        "/etc/xdg/pip/pip.conf",
        "~/.config/pip/pip.conf",
        "~/.pip/pip.conf",
    ] {
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        if let Ok(text) = fs::read_to_string(file.replacen('~', &home, 1)) {
            pip.push_str(&remap(&text));
            pip.push('\n');
        }
    }
    put("pip.conf", &pip)?;

    let mut env = format!("PIP_CONFIG_FILE=/{BUILD}/pip.conf\nSSL_CERT_FILE={bundle}\n");
    for (name, value) in std::env::vars() {
        if name != "SSL_CERT_FILE" && is_build_setting(&name) {
            let value = remap(&value);
            // A path of this machine means nothing in a container.
            if !value.contains('\n') && (!value.starts_with('/') || value.starts_with(&bundle)) {
                env.push_str(&format!("{name}={value}\n"));
            }
        }
    }
    put("env", &env)?;

    let apt = run(&["apt-config", "dump"]).unwrap_or_default();
    let mut conf: String = apt
        .lines()
        .filter(|line| reaches_mirror(line))
        .map(|line| remap(line) + "\n")
        .collect();
    conf.push_str(&format!("Acquire::https::CaInfo \"{bundle}\";\n"));
    put("apt/90deis-machine.conf", &conf)
}

fn is_build_setting(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "PIP_CERT",
        "UV_INDEX_URL",
    ]
    .contains(&upper.as_str())
        || [
            "PIP_INDEX_URL",
            "PIP_EXTRA_INDEX_URL",
            "PIP_TRUSTED_HOST",
            "PIP_DEFAULT_TIMEOUT",
            "PIP_RETRIES",
        ]
        .contains(&upper.as_str())
        || upper == "NPM_CONFIG_REGISTRY"
        || upper.ends_with("_CA_BUNDLE")
        || upper.ends_with("_CA_CERTS")
        || upper.ends_with("_CAINFO")
}

/// Fails unless the text is a cloud-config that cloud-init would take.
pub fn check(user_data: &str) -> anyhow::Result<()> {
    if !user_data.starts_with("#cloud-config\n") {
        bail!("user-data must start with #cloud-config");
    }
    let _: serde_yaml::Value = serde_yaml::from_str(user_data).context("user-data is no YAML")?;
    Ok(())
}

/// The address plan of `count` hosts.
pub fn hosts(cluster: &str, count: u8) -> Vec<Host> {
    // A member more than needed costs writes: three, and five from five hosts on.
    let members = match count {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    (1..=count)
        .map(|number| {
            let name = format!("deis-{number:02}");
            Host {
                machine_id: machine_id(cluster, &name),
                address: net::address(number),
                leader_pid: None,
                nspawn_pid: None,
                etcd_member: number <= members,
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> UserData {
        UserData {
            name: "deis-01".to_owned(),
            cluster: "local-test".to_owned(),
            local: true,
            address: "10.21.8.101".to_owned(),
            etcd: vec!["http://10.21.8.101:2379".to_owned()],
            member: true,
            initial_cluster: "deis-01=http://10.21.8.101:2380".to_owned(),
            scheme: "http".to_owned(),
            tls: None,
            certificates: None,
            metadata: std::collections::BTreeMap::new(),
            cluster_key: "a2V5\n".to_owned(),
            authorized_keys: vec!["ssh-ed25519 AAAA \"quoted\" key".to_owned()],
            image_store: None,
            insecure_registries: vec!["10.21.8.101:5000".to_owned()],
        }
    }

    fn file<'a>(data: &'a serde_yaml::Value, path: &str) -> Option<&'a str> {
        data["write_files"]
            .as_sequence()?
            .iter()
            .find(|file| file["path"].as_str() == Some(path))?["content"]
            .as_str()
    }

    #[test]
    fn user_data_is_yaml_with_the_hosts_settings() {
        let template = include_str!("../../coreos/cloud-config/user-data.hbs");
        let text = render(template, &sample()).expect("renders");
        check(&text).expect("valid");
        let data: serde_yaml::Value = serde_yaml::from_str(&text).expect("yaml");
        let settings: serde_yaml::Value =
            serde_yaml::from_str(file(&data, "/etc/deis/host.yaml").expect("host.yaml"))
                .expect("yaml");
        assert_eq!(settings["local"].as_bool(), Some(true));
        assert_eq!(
            settings["etcd"][0].as_str(),
            Some("http://10.21.8.101:2379")
        );
        assert_eq!(file(&data, "/etc/deis/cluster.key"), Some("a2V5\n"));
        assert_eq!(
            data["users"][0]["ssh_authorized_keys"][0].as_str(),
            Some("ssh-ed25519 AAAA \"quoted\" key")
        );
        let env = file(&data, "/etc/deis/etcd.env").expect("etcd.env");
        assert!(
            env.contains("ETCD_LISTEN_CLIENT_URLS=http://10.21.8.101:2379,http://127.0.0.1:2379\n"),
            "{env}"
        );
    }

    #[test]
    fn a_host_beyond_the_members_has_no_etcd_and_tls_reaches_etcd() {
        let template = include_str!("../../coreos/cloud-config/user-data.hbs");
        let mut values = sample();
        values.member = false;
        assert!(
            !render(template, &values)
                .expect("renders")
                .contains("ETCD_NAME")
        );
        values.member = true;
        values.scheme = "https".to_owned();
        values.tls = Some(Tls::on_host());
        values.certificates = Some(Certificates {
            ca: "A\nB\n".into(),
            cert: "C\n".into(),
            key: "D\n".into(),
        });
        let text = render(template, &values).expect("renders");
        let data: serde_yaml::Value = serde_yaml::from_str(&text).expect("yaml");
        let env = file(&data, "/etc/deis/etcd.env").expect("etcd.env");
        assert!(env.contains("ETCD_PEER_CLIENT_CERT_AUTH=true"), "{env}");
        assert!(!env.contains("127.0.0.1"), "{env}");
        let settings = file(&data, "/etc/deis/host.yaml").expect("host.yaml");
        assert!(
            settings.contains("tls: {\"ca\":\"/etc/deis/tls/ca.pem\""),
            "{settings}"
        );
        assert_eq!(file(&data, "/etc/deis/tls/ca.pem"), Some("A\nB\n"));
        assert_eq!(file(&data, "/etc/deis/tls/host.key"), Some("D\n"));
    }

    #[test]
    fn machine_ids_are_stable_and_differ() {
        assert_eq!(machine_id("a", "deis-01"), machine_id("a", "deis-01"));
        assert_ne!(machine_id("a", "deis-01"), machine_id("b", "deis-01"));
        assert_eq!(machine_id("a", "deis-01").len(), 32);
    }

    #[test]
    fn three_members_up_to_four_hosts_and_five_from_there() {
        let members = |count| {
            hosts("x", count)
                .iter()
                .filter(|host| host.etcd_member)
                .count()
        };
        assert_eq!(
            [members(1), members(3), members(4), members(5), members(7)],
            [1, 3, 3, 5, 5]
        );
    }
}
