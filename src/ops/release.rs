//! Pure: what the next release of an app looks like. No IO, no clock, no randomness.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::OpsError;
use crate::model::*;

/// Changes of a config; a value of none removes the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// Config variables, in clear.
    pub values: BTreeMap<ConfigName, Option<String>>,
    /// Memory limits per process type, as the user wrote them.
    pub memory: BTreeMap<ProcessType, Option<String>>,
    /// CPU shares per process type.
    pub cpu: BTreeMap<ProcessType, Option<u32>>,
    /// Placement tags.
    pub tags: BTreeMap<String, Option<String>>,
}

/// What a push became, before it is a build of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBuild {
    /// Repository and digest: `blog/<uuid>@sha256:…`.
    pub image: String,
    /// What the user called the image; none for a push.
    pub source: Option<String>,
    /// How to start the image.
    pub kind: ImageKind,
    /// The port that it listens on.
    pub port: u16,
    /// Git commit; empty for an image.
    pub sha: String,
    /// Command per process type.
    pub procfile: BTreeMap<ProcessType, String>,
    /// Built from a Dockerfile.
    pub dockerfile: bool,
}

/// The outcome of a release that needs no rollout.
pub(super) const fn succeeded(version: ReleaseNumber, finished: Timestamp) -> Outcome {
    Outcome {
        schema: SCHEMA,
        version,
        result: OutcomeResult::Succeeded,
        reason: None,
        log: Vec::new(),
        receipt: None,
        finished,
    }
}

/// Applies changes to a map; tells what was added, changed and deleted, by name.
pub(super) fn merge<K: Ord + Clone + ToString, V>(
    map: &mut BTreeMap<K, V>,
    changes: impl IntoIterator<Item = (K, Option<V>)>,
    same: impl Fn(&K, &V, &V) -> bool,
) -> [Vec<String>; 3] {
    let [mut added, mut changed, mut deleted] = [const { Vec::new() }; 3];
    for (name, value) in changes {
        let text = name.to_string();
        match (value, map.get(&name)) {
            (Some(value), None) => {
                added.push(text);
                map.insert(name, value);
            }
            (Some(value), Some(old)) => {
                if !same(&name, old, &value) {
                    changed.push(text);
                }
                map.insert(name, value);
            }
            (None, Some(_)) => {
                deleted.push(text);
                map.remove(&name);
            }
            (None, None) => {}
        }
    }
    [added, changed, deleted]
}

/// Words for a diff: `added A, B, changed C, deleted D`, or nothing.
fn diff_words([added, changed, deleted]: &[Vec<String>; 3], noun: &str) -> Option<String> {
    let part = |verb: &str, names: &[String]| {
        (!names.is_empty()).then(|| format!("{verb} {noun}{}", names.join(", ")))
    };
    let parts: Vec<String> = [
        part("added", added),
        part("changed", changed),
        part("deleted", deleted),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The summary of a config release, in Deis v1's words.
pub(super) fn config_summary(
    by: &Username,
    values: &[Vec<String>; 3],
    memory: &[Vec<String>; 3],
    cpu: &[Vec<String>; 3],
    tags: &[Vec<String>; 3],
) -> String {
    let touched = |diff: &[Vec<String>; 3]| diff.iter().any(|names| !names.is_empty());
    let limits: Vec<&str> = [("memory", touched(memory)), ("cpu", touched(cpu))]
        .into_iter()
        .filter_map(|(word, touched)| touched.then_some(word))
        .collect();
    let parts: Vec<String> = [
        diff_words(values, ""),
        (!limits.is_empty()).then(|| format!("changed limits for {}", limits.join(", "))),
        diff_words(tags, "tag "),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        return format!("{by} changed nothing");
    }
    format!("{by} {}", parts.join(" and "))
}

/// Whether a build has a process type: those of its Procfile, `cmd` for what an image does by itself,
/// and whatever a buildpack's defaults may hold.
pub(super) fn is_type(build: &Build, kind: &ProcessType) -> bool {
    if kind.is_one_off() {
        return false;
    }
    build.procfile.contains_key(kind)
        || match build.kind {
            ImageKind::Slug => false,
            ImageKind::Image => kind.as_str() == "cmd",
            ImageKind::Runner => build.procfile.is_empty(),
        }
}

/// The wanted processes after a build: types that the Procfile dropped go, and a first build gets
/// its default: `web=1`, or `cmd=1` for an image that has no `web` of its own or was not pushed (as
/// in Deis v1).
#[must_use]
pub fn structure_for(build: &Build, current: &Structure) -> Structure {
    let cmd = ProcessType::try_from("cmd".to_owned()).expect("invariant: cmd is a type");
    let web = ProcessType::try_from("web".to_owned()).expect("invariant: web is a type");
    let mut next: Structure = current
        .iter()
        .filter(|(kind, _)| is_type(build, kind))
        .map(|(kind, count)| (kind.clone(), *count))
        .collect();
    if current.is_empty() {
        let by_name = build.kind == ImageKind::Image && build.sha.is_empty();
        let defaults = build.kind == ImageKind::Runner && build.procfile.is_empty();
        if (build.procfile.contains_key(&web) && !by_name) || defaults {
            next.insert(web, 1);
        } else if build.kind == ImageKind::Image {
            next.insert(cmd, 1);
        }
    }
    next
}

/// The wanted processes after a scaling.
///
/// # Errors
/// When the build has no such type.
pub fn scaled(
    build: &Build,
    current: &Structure,
    wanted: &Structure,
) -> Result<Structure, OpsError> {
    let mut next = current.clone();
    for (kind, count) in wanted {
        if *kind == ProcessType::release() && build.procfile.contains_key(kind) {
            let why = "release is run once for each release, before it serves: it can't be scaled";
            return Err(OpsError::Invalid(why.to_owned()));
        }
        if !is_type(build, kind) {
            return Err(OpsError::UnknownType(kind.clone()));
        }
        next.insert(kind.clone(), *count);
    }
    Ok(next)
}

/// The release that a plain rollback goes to: the last one before the active that succeeded.
#[must_use]
pub fn rollback_target(
    active: ReleaseNumber,
    outcomes: &BTreeMap<ReleaseNumber, OutcomeResult>,
) -> Option<ReleaseNumber> {
    outcomes
        .range(..active)
        .rev()
        .find(|(_, result)| **result == OutcomeResult::Succeeded)
        .map(|(version, _)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn kind(text: &str) -> ProcessType {
        text.parse().expect("type")
    }

    fn build(image: ImageKind, sha: &str, types: &[&str]) -> Build {
        Build {
            schema: SCHEMA,
            uuid: Uuid::nil(),
            app: "blog".parse().expect("name"),
            owner: "ada".parse().expect("name"),
            image: String::new(),
            source: None,
            kind: image,
            port: 5000,
            sha: sha.into(),
            procfile: types.iter().map(|t| (kind(t), "run".to_owned())).collect(),
            dockerfile: false,
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn default_structures() {
        type Counts<'a> = &'a [(&'a str, u32)];
        type Types<'a> = &'a [&'a str];
        let sha = "0123456";
        let cases: &[(ImageKind, &str, Types<'_>, Counts<'_>, Counts<'_>)] = &[
            (ImageKind::Slug, sha, &["web", "worker"], &[], &[("web", 1)]),
            (ImageKind::Slug, sha, &["worker"], &[], &[]),
            (ImageKind::Image, sha, &[], &[], &[("cmd", 1)]),
            (ImageKind::Image, sha, &["web"], &[], &[("web", 1)]),
            (ImageKind::Image, "", &["web"], &[], &[("cmd", 1)]),
            (ImageKind::Image, "", &["web"], &[("web", 2)], &[("web", 2)]),
            (ImageKind::Image, sha, &["worker"], &[], &[("cmd", 1)]),
            (
                ImageKind::Slug,
                sha,
                &["web"],
                &[("web", 3), ("worker", 2)],
                &[("web", 3)],
            ),
            (ImageKind::Slug, sha, &["web"], &[("web", 0)], &[("web", 0)]),
        ];
        let structure = |pairs: &[(&str, u32)]| {
            pairs
                .iter()
                .map(|(k, n)| (kind(k), *n))
                .collect::<Structure>()
        };
        for (image, sha, types, current, want) in cases {
            let got = structure_for(&build(*image, sha, types), &structure(current));
            assert_eq!(got, structure(want), "{image:?} {types:?} {current:?}");
        }
    }

    proptest::proptest! {
        /// Nobody runs what the build doesn't have, and nobody's number is changed by a push.
        #[test]
        fn structures_keep_to_the_build(
            types in proptest::collection::btree_set("web|worker|cron", 0..3),
            current in proptest::collection::btree_map("web|worker|cron|cmd", 0u32..5, 0..4),
            wanted in proptest::collection::btree_map("web|worker|cron|cmd", 0u32..5, 0..4),
            image: bool,
            named: bool,
        ) {
            let types: Vec<&str> = types.iter().map(String::as_str).collect();
            let sort = if image { ImageKind::Image } else { ImageKind::Slug };
            let sha = if image && named { "" } else { "0123456" };
            let build = build(sort, sha, &types);
            let read = |map: BTreeMap<String, u32>| -> Structure {
                map.into_iter().map(|(name, count)| (kind(&name), count)).collect()
            };
            let (current, wanted) = (read(current), read(wanted));
            let has = |kind: &ProcessType| {
                build.procfile.contains_key(kind) || (image && kind.as_str() == "cmd")
            };
            let next = structure_for(&build, &current);
            for (kind, count) in &next {
                assert!(has(kind), "{kind}");
                assert!(current.get(kind) == Some(count) || (current.is_empty() && *count == 1));
            }
            for (kind, count) in current.iter().filter(|(kind, _)| has(kind)) {
                assert_eq!(next.get(kind), Some(count));
            }
            match scaled(&build, &next, &wanted) {
                Ok(after) => {
                    for (kind, count) in &after {
                        assert_eq!(wanted.get(kind).or_else(|| next.get(kind)), Some(count));
                    }
                    assert!(wanted.keys().all(|kind| after.contains_key(kind)));
                }
                Err(_) => assert!(wanted.keys().any(|kind| !has(kind))),
            }
        }
    }

    #[test]
    fn summaries() {
        let by: Username = "ada".parse().expect("name");
        let none = || [vec![], vec![], vec![]];
        let names = |a: &[&str], c: &[&str], d: &[&str]| {
            [a, c, d].map(|n| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
        };
        let all = config_summary(
            &by,
            &names(&["A", "B"], &["C"], &["D"]),
            &none(),
            &none(),
            &none(),
        );
        assert_eq!(all, "ada added A, B, changed C, deleted D");
        let limits = names(&["web"], &[], &[]);
        let text = config_summary(&by, &names(&["A"], &[], &[]), &limits, &limits, &none());
        assert_eq!(text, "ada added A and changed limits for memory, cpu");
        let tags = config_summary(&by, &none(), &none(), &none(), &names(&["ssd"], &[], &[]));
        assert_eq!(tags, "ada added tag ssd");
        let nothing = config_summary(&by, &none(), &none(), &none(), &none());
        assert_eq!(nothing, "ada changed nothing");
    }

    #[test]
    fn rollback_skips_what_failed() {
        use OutcomeResult::{Failed, Succeeded};
        let outcomes = [(1, Succeeded), (2, Succeeded), (3, Failed), (4, Succeeded)]
            .map(|(n, r)| (ReleaseNumber(n), r));
        let outcomes = BTreeMap::from(outcomes);
        assert_eq!(
            rollback_target(ReleaseNumber(4), &outcomes),
            Some(ReleaseNumber(2))
        );
        assert_eq!(rollback_target(ReleaseNumber(1), &outcomes), None);
    }
}
