//! How config values reach a container without passing through anything that interprets them.
//!
//! Two ways, because none fits all values:
//! - podman's `--env-file`: one `NAME=value` per line, raw. It can't hold a line break, and Go's line
//!   scanner gives up at 64 KiB.
//! - systemd's `EnvironmentFile=` with `podman run --env=NAME`: any value, but then the variable also
//!   stands in the environment of podman itself, which root runs on the host. Names that podman, its
//!   helpers, glibc, Go or systemd act on are refused there.

use std::collections::BTreeMap;

use crate::model::ConfigName;

/// The longest value for podman's `--env-file`, in bytes: well below the 64 KiB of its line scanner.
const RAW_MAX_BYTES: usize = 60_000;
/// The longest value at all: Linux takes no string of more than 128 KiB into an environment
/// (MAX_ARG_STRLEN), name, `=` and final NUL included.
const VALUE_MAX_BYTES: usize = (128 << 10) - 128 - 2;
/// The most that all names and values may have together, in bytes: a third of what Linux allows for
/// arguments and environment with the usual 8 MiB stack, so that the image's own variables fit too.
const TOTAL_MAX_BYTES: usize = 700_000;

/// Names that the platform sets itself; a config value of that name is left aside.
pub const PLATFORM_NAMES: [&str; 3] = ["DEIS_APP", "DEIS_RELEASE", "PORT"];

/// Names that something on the host acts on when podman has them in its environment.
const HOST_NAMES: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TERM",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TZDIR",
    "PWD",
    "OLDPWD",
    "IFS",
    "ENV",
    "BASH_ENV",
    "BASHOPTS",
    "SHELLOPTS",
    "HOSTNAME",
    "NOTIFY_SOCKET",
    "MAINPID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MANAGERPID",
    "EXIT_CODE",
    "EXIT_STATUS",
    "SERVICE_RESULT",
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "REQUEST_METHOD",
    "GCONV_PATH",
    "GETCONF_DIR",
    "HOSTALIASES",
    "LOCALDOMAIN",
    "LOCPATH",
    "NLSPATH",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "NIS_PATH",
    "MALLOC_TRACE",
    "OUTPUT_CHARSET",
    "PYTHONPATH",
    "PERL5LIB",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "KRB5_CONFIG",
    "KRB5CCNAME",
    "GNUPGHOME",
    "REGISTRY_AUTH_FILE",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "STORAGE_DRIVER",
    "STORAGE_OPTS",
    "OCI_RUNTIME",
    "CRIU_LIBS",
    "TTYCOMMAND",
    "SUDO_UID",
    "SUDO_GID",
    "SSH_AUTH_SOCK",
    "GATEWAY_INTERFACE",
    "NETAVARK_FW",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "EXTRA_ARGS",
];

/// Beginnings of such names.
const HOST_PREFIXES: &[&str] = &[
    "LD_",
    "GLIBC_",
    "MALLOC_",
    "LC_",
    "LISTEN_",
    "SYSTEMD_",
    "DBUS_",
    "XDG_",
    "CONTAINER",
    "CONTAINERS_",
    "PODMAN_",
    "BUILDAH_",
    "CONMON_",
    "CRUN_",
    "NETAVARK_",
    "AARDVARK_",
    "_CONTAINERS_",
    "_CRIO_",
    "_OCI_",
    "_LIBPOD_",
    "GODEBUG",
    "GOGC",
    "GOMAXPROCS",
    "GOMEMLIMIT",
    "GOTRACEBACK",
    "GORACE",
    "GOCOVERDIR",
    "GO_",
    "CGO_",
    "SSL_CERT_",
    "STORAGE_",
    "REGISTRY_",
    "REGISTRIES_",
    "FUSE_",
    "IMAGE_",
    "XTABLES_",
    "IPTABLES_",
    "NFT_",
    "TMPDIR_",
];

/// Why a config value can't be given to a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// A NUL byte ends every string of an environment.
    #[error(
        "the value of {name} contains a NUL byte, which no environment variable can hold: encode it (base64, for instance)"
    )]
    Nul {
        /// The variable.
        name: ConfigName,
    },
    /// Longer than the kernel takes.
    #[error(
        "the value of {name} has {len} bytes, Linux takes at most {VALUE_MAX_BYTES} in an environment variable: keep it in a file or a store of its own"
    )]
    TooLong {
        /// The variable.
        name: ConfigName,
        /// Its length in bytes.
        len: usize,
    },
    /// All together are more than the kernel takes.
    #[error(
        "all config values together have {len} bytes, at most {TOTAL_MAX_BYTES} fit into a process's environment: unset some"
    )]
    TooMuch {
        /// Names and values, in bytes.
        len: usize,
    },
    /// The name has a meaning for programs of the host, and the value needs the way that meets them.
    #[error(
        "{name} can't have a value with line breaks or of more than {RAW_MAX_BYTES} bytes: programs on the host act on a variable of this name; use another name"
    )]
    HostName {
        /// The variable.
        name: ConfigName,
    },
}

/// Whether something on the host acts on a variable of this name.
#[must_use]
pub fn is_host_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    HOST_NAMES.contains(&upper.as_str())
        || HOST_PREFIXES.iter().any(|prefix| upper.starts_with(prefix))
}

/// Whether a value can stand in podman's `--env-file` byte for byte.
fn is_raw(value: &str) -> bool {
    !value.contains(['\n', '\r']) && value.len() < RAW_MAX_BYTES
}

/// Checks one variable; the API refuses by the same rule before anything is stored.
///
/// # Errors
/// When the value could not reach a process unchanged.
pub fn check_value(name: &ConfigName, value: &str) -> Result<(), InvalidValue> {
    if value.contains('\0') {
        return Err(InvalidValue::Nul { name: name.clone() });
    }
    if value.len() > VALUE_MAX_BYTES {
        return Err(InvalidValue::TooLong {
            name: name.clone(),
            len: value.len(),
        });
    }
    if !is_raw(value) && is_host_name(name.as_str()) {
        return Err(InvalidValue::HostName { name: name.clone() });
    }
    Ok(())
}

/// Checks all variables of a config together.
///
/// # Errors
/// When one of them, or all of them together, could not reach a process unchanged.
pub fn check<'v>(
    values: impl IntoIterator<Item = (&'v ConfigName, &'v str)>,
) -> Result<(), InvalidValue> {
    let mut len = 0;
    for (name, value) in values {
        check_value(name, value)?;
        len += name.as_str().len() + value.len() + 2;
    }
    if len > TOTAL_MAX_BYTES {
        return Err(InvalidValue::TooMuch { len });
    }
    Ok(())
}

/// A process's config values as the two files that carry them. Secret: `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// podman's `--env-file`.
    pub list: String,
    /// systemd's `EnvironmentFile=`.
    pub quoted: String,
    /// Names in `quoted`, for `podman run --env=NAME`.
    pub quoted_names: Vec<ConfigName>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("quoted_names", &self.quoted_names)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// Sorts values into the two files. Names that the platform sets itself are left out.
    ///
    /// # Errors
    /// When a value could not reach the process unchanged.
    pub fn new(values: &BTreeMap<ConfigName, String>) -> Result<Self, InvalidValue> {
        check(values.iter().map(|(name, value)| (name, value.as_str())))?;
        let mut environment = Self::default();
        for (name, value) in values {
            if PLATFORM_NAMES.contains(&name.as_str()) {
                continue;
            }
            if is_raw(value) {
                environment.list.push_str(&format!("{name}={value}\n"));
            } else {
                environment
                    .quoted
                    .push_str(&format!("{name}={}\n", quote(value)));
                environment.quoted_names.push(name.clone());
            }
        }
        Ok(environment)
    }
}

/// Quotes a value for `EnvironmentFile=` (systemd.exec(5)): inside double quotes, a backslash stands
/// before `"`, `\`, `` ` `` and `$`, and everything else stands for itself, line breaks included.
fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 16);
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> ConfigName {
        text.parse().expect("a name")
    }

    #[test]
    fn which_way() {
        let long = "x".repeat(RAW_MAX_BYTES);
        let cases: &[(&str, &str, Result<bool, ()>)] = &[
            ("A", "plain", Ok(true)),
            ("A", "", Ok(true)),
            ("A", "%n $X \"quoted\" \\ 🎉 # *", Ok(true)),
            ("A", "two\nlines", Ok(false)),
            ("A", "carriage\rreturn", Ok(false)),
            ("A", &long, Ok(false)),
            ("LD_PRELOAD", "/app/lib.so", Ok(true)),
            ("LD_PRELOAD", "/app/lib.so\n", Err(())),
            ("http_proxy", "a\nb", Err(())),
            ("NOTIFY_SOCKET", "a\nb", Err(())),
            ("CONTAINER_HOST", &long, Err(())),
            ("A", "nul\0", Err(())),
        ];
        for (key, value, want) in cases {
            let made = Environment::new(&BTreeMap::from([(name(key), (*value).to_owned())]));
            let got = made.map(|e| e.quoted_names.is_empty()).map_err(|_| ());
            assert_eq!(got, *want, "{key}={:.20?}", value);
        }
    }

    #[test]
    fn limits_of_the_kernel() {
        let key = name("A");
        assert!(check_value(&key, &"x".repeat(VALUE_MAX_BYTES)).is_ok());
        assert!(check_value(&key, &"x".repeat(VALUE_MAX_BYTES + 1)).is_err());
        let many: BTreeMap<_, _> = (0..8)
            .map(|i| (name(&format!("A{i}")), "x".repeat(100_000)))
            .collect();
        assert!(matches!(
            Environment::new(&many),
            Err(InvalidValue::TooMuch { .. })
        ));
    }

    #[test]
    fn the_platform_sets_its_own() {
        let values = BTreeMap::from([(name("PORT"), "1".to_owned()), (name("A"), "b".to_owned())]);
        assert_eq!(
            Environment::new(&values).map(|e| e.list),
            Ok("A=b\n".to_owned())
        );
    }

    #[test]
    fn debug_shows_no_value() {
        let values = BTreeMap::from([
            (name("A"), "s3cret".to_owned()),
            (name("B"), "s3\ncret".to_owned()),
        ]);
        let shown = format!("{:?}", Environment::new(&values));
        assert!(!shown.contains("s3"), "{shown}");
    }

    /// systemd's reader of environment files, as far as our writer goes.
    fn read_quoted(text: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((key, tail)) = rest.split_once("=\"") {
            let (mut value, mut chars) = (String::new(), tail.char_indices());
            rest = loop {
                match chars.next().expect("a closing quote") {
                    (at, '"') => break tail[at + 1..].strip_prefix('\n').expect("a line end"),
                    (_, '\\') => match chars.next().expect("an escaped character").1 {
                        c if "\"\\`$".contains(c) => value.push(c),
                        '\n' => {}
                        c => value.extend(['\\', c]),
                    },
                    (_, c) => value.push(c),
                }
            };
            found.push((key.to_owned(), value));
        }
        assert_eq!(rest, "");
        found
    }

    proptest! {
        #[test]
        fn every_value_arrives(values in prop::collection::btree_map("X[A-Z]{0,6}", "[^\0]{0,80}|[\"\\\\`$\n\r ]{0,20}", 0..6)) {
            let values: BTreeMap<ConfigName, String> = values.into_iter().map(|(k, v)| (name(&k), v)).collect();
            let environment = Environment::new(&values).expect("allowed");
            let mut read: BTreeMap<String, String> = read_quoted(&environment.quoted).into_iter().collect();
            let raw = environment.list.split_terminator('\n').map(|l| l.split_once('=').expect("NAME=value"));
            read.extend(raw.map(|(k, v)| (k.to_owned(), v.to_owned())));
            let wanted: BTreeMap<String, String> = values.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
