//! `deisctl config <target> get|set|rm`: settings of the platform and its parts, plain text under
//! `/deis/<target>/<key>`, as in Deis v1.

use std::{io::Write, path::Path};

use anyhow::Context;
use clap::Subcommand;

use super::{
    failure::{Failure, Kind},
    platform::Part,
};
use crate::{
    model::SealedValue,
    plan::{front, settings},
    router,
    seal::{ClusterKey, is_sealed},
    store::{CommitError, Store, Txn, keys},
};

/// What to do with a target's settings.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print settings: the named ones, or all of the target's
    Get {
        /// Names of settings
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Set settings, all in one transaction
    Set {
        /// Settings
        #[arg(value_name = "KEY=VALUE", required = true)]
        settings: Vec<String>,
    },
    /// Remove settings
    Rm {
        /// Names of settings
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}

/// The settings' place below `/deis/`: `platform` or a part's.
///
/// # Errors
/// When it is neither: nothing else below `/deis/` is an operator's to write by hand.
pub fn target_key(target: &str) -> Result<&'static str, Failure> {
    if target == "platform" {
        return Ok("platform");
    }
    target.parse::<Part>().map(Part::key).map_err(|_| {
        Failure::new(Kind::Usage, format!("{target:?} has no settings"))
            .hint("targets are platform, controller, router, builder, registry and logs")
    })
}

/// Checks a setting's name: segments of `A-Z a-z 0-9 . _ -` with `/` between them.
fn setting_name(name: &str) -> Result<&str, Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(plain)
    };
    if name.len() > 200 || !name.split('/').all(good) {
        return Err(
            Failure::new(Kind::Usage, format!("{name:?} is no name of a setting"))
                .hint("use letters, digits, . _ - and / between segments"),
        );
    }
    if name == "hosts" || name.starts_with("hosts/") {
        return Err(Failure::new(
            Kind::Refused,
            format!("{name:?} is where running parts register themselves"),
        ));
    }
    Ok(name)
}

/// Splits `key=value`; the value is taken as it is and may not be empty.
fn assignment(text: &str) -> Result<(&str, &str), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !value.is_empty() => Ok((setting_name(name)?, value)),
        Some((name, _)) => Err(Failure::new(
            Kind::Usage,
            format!("{name} can't be set to nothing"),
        )
        .hint("`deisctl config <target> rm KEY` removes a setting")),
        None => Err(Failure::new(
            Kind::Usage,
            format!("{text:?} is not KEY=VALUE"),
        )),
    }
}

/// A setting's value; one that is sealed is opened, where the cluster key is at hand.
fn opened(
    cluster_key: Option<&Path>,
    target: &str,
    name: &str,
    value: String,
) -> anyhow::Result<String> {
    if !is_sealed(&value) {
        return Ok(value);
    }
    let sealed = || {
        Failure::new(
            Kind::Refused,
            format!("{target}/{name} is sealed with the cluster key"),
        )
        .hint("ask on a host of the cluster, as root: the key is /etc/deis/cluster.key there")
    };
    let path = cluster_key.ok_or_else(sealed)?;
    let key = ClusterKey::load(path).with_context(sealed)?;
    let text = key.open_text(&format!("{target}/{name}"), &SealedValue(value))?;
    Ok(text.into_inner())
}

/// Runs the command.
///
/// # Errors
/// When the names make no sense, a setting isn't there, or etcd can't be reached.
pub async fn run(
    store: &Store,
    cluster_key: Option<&Path>,
    target: &str,
    command: &ConfigCommand,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let target = target_key(target)?;
    match command {
        ConfigCommand::Get { keys } if keys.is_empty() => {
            let prefix = keys::settings(target);
            let listing = store.list(&prefix).await?;
            for (key, entry) in &listing.entries {
                let name = keys::last_part(key, prefix.as_str()).unwrap_or(key);
                if !name.starts_with("hosts/") {
                    writeln!(out, "{name}={}", entry.value)?;
                }
            }
        }
        ConfigCommand::Get { keys } => {
            for name in keys {
                let key = keys::setting(target, setting_name(name)?);
                let found = store.get(&key).await?.ok_or_else(|| {
                    Failure::new(Kind::NotFound, format!("{target} has no setting {name}"))
                        .hint(format!("`deisctl config {target} get` prints those it has"))
                })?;
                writeln!(out, "{}", opened(cluster_key, target, name, found.value)?)?;
            }
        }
        ConfigCommand::Set { settings } => {
            let settings: Vec<(&str, &str)> = settings
                .iter()
                .map(|text| assignment(text))
                .collect::<Result<_, _>>()?;
            for (name, value) in &settings {
                if target == "platform" {
                    let wrong = |rule| format!("{name}={value}: it has to be {rule}");
                    settings::check(name, value)
                        .map_err(|rule| Failure::new(Kind::Usage, wrong(rule)))?;
                }
                if target == router::PART {
                    match front::meaningless(name) {
                        // Scripts for Deis v1 set them: said, and no reason to fail.
                        Some(why) if !(*name == "gzip" && *value == "off") => {
                            eprintln!("{name} changes nothing: {why}");
                        }
                        _ => front::check(name, value).map_err(|why| {
                            Failure::new(Kind::Usage, format!("{name}={value}: {why}"))
                        })?,
                    }
                }
                if (target, *name) == (crate::logger::PART, crate::logger::drain::SETTING) {
                    let parsed: Result<crate::logger::drain::Target, _> = value.parse();
                    parsed.map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
                }
            }
            let txn = settings.iter().fold(Txn::new(), |txn, (name, value)| {
                txn.put(&keys::setting(target, name), &(*value).to_owned())
            });
            store.commit(txn).await.context("nothing was set")?;
            for (name, value) in settings {
                writeln!(out, "{name}={value}")?;
            }
        }
        ConfigCommand::Rm { keys } => {
            let mut txn = Txn::new();
            for name in keys {
                let key = keys::setting(target, setting_name(name)?);
                txn = txn.present(&key).delete(&key);
            }
            match store.commit(txn).await {
                Ok(_) => {}
                Err(CommitError::Conflict) => {
                    return Err(Failure::new(
                        Kind::NotFound,
                        format!(
                            "nothing was removed: {target} doesn't have all of {}",
                            keys.join(", ")
                        ),
                    )
                    .hint(format!("`deisctl config {target} get` prints what it has"))
                    .into());
                }
                Err(error) => return Err(error).context("nothing was removed"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ctl(store: &Store, target: &str, command: ConfigCommand) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(store, None, target, &command, &mut out).await?;
        Ok(String::from_utf8(out)?)
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn settings_round_trip() {
        let store = Store::memory();
        let set = ConfigCommand::Set {
            settings: texts(&["domain=example.com", "note=a=b  \"%n\""]),
        };
        ctl(&store, "platform", set).await.expect("set");
        let get = |keys: &[&str]| ConfigCommand::Get { keys: texts(keys) };
        assert_eq!(
            ctl(&store, "platform", get(&["note", "domain"]))
                .await
                .expect("get"),
            "a=b  \"%n\"\nexample.com\n"
        );
        assert_eq!(
            ctl(&store, "platform", get(&[])).await.expect("get all"),
            "domain=example.com\nnote=a=b  \"%n\"\n"
        );
        let stored = store
            .get(&keys::platform("domain"))
            .await
            .expect("store")
            .expect("a setting");
        assert_eq!(stored.value, "example.com");

        let rm = |keys: &[&str]| ConfigCommand::Rm { keys: texts(keys) };
        let both = ctl(&store, "platform", rm(&["domain", "nothing"])).await;
        assert!(both.is_err(), "all or nothing");
        ctl(&store, "platform", rm(&["domain"])).await.expect("rm");
        let gone = ctl(&store, "platform", get(&["domain"]))
            .await
            .expect_err("gone");
        assert_eq!(super::super::failure::exit_code(&gone), 3);
    }

    #[test]
    fn names_that_are_refused() {
        for bad in [
            "",
            "a//b",
            "../apps/x",
            "a/../b",
            "hosts/10.0.0.1",
            "a b",
            "a\nb",
            "/a",
        ] {
            assert!(setting_name(bad).is_err(), "{bad:?}");
        }
        assert!(setting_name("auth/ldap/endpoint").is_ok());
        for bad in ["apps", "leader", "", "platform/x"] {
            assert!(target_key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(target_key("logger").ok(), Some("logs"));
        assert!(assignment("a=").is_err());
        assert!(assignment("a").is_err());
    }
}
