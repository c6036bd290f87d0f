//! What is done to an app: push, scale, restart, config, limits, tags, releases.

use std::{collections::BTreeSet, fs};

use serde_json::{Map, Value, json};

use super::{
    Walk,
    client::{App, Build, Process, Release},
};
use crate::support::*;

fn object(pairs: &[(&str, &str)]) -> Map<String, Value> {
    let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), json!(v)));
    pairs.collect()
}

impl Walk<'_> {
    pub(super) fn apps(&self) {
        let Self { old, name, .. } = self;
        let app = old.create(Some(name)).expect("created");
        assert_eq!((&app.id, &app.owner), (name, name));
        assert_eq!(app.url, format!("{name}.localhost"));
        assert!(
            app.created.ends_with("UTC") && app.created.len() == 22,
            "{app:?}"
        );
        for (id, says) in [
            (name.as_str(), "id: This field must be unique."),
            ("UPPER", "id: App IDs can only contain [a-z0-9-]."),
            ("deis", "id: deis is a reserved name."),
        ] {
            old.create(Some(id))
                .expect_err(id)
                .says("400 BAD REQUEST", says);
        }
        let random = old.create(None).expect("created");
        let (all, count) = old.list::<App>("/v1/apps/", 100).expect("apps");
        assert_eq!((all.len(), count), (2, 2.0));
        let (first, count) = old.list::<App>("/v1/apps/", 1).expect("apps");
        assert_eq!((first.len(), count), (1, 2.0), "the program says (1 of 2)");
        let path = format!("/v1/apps/{}/", random.id);
        assert_eq!(
            old.send("DELETE", &path, "").expect("destroyed").status,
            204
        );

        // An app without a build.
        assert!(old.ps(name).expect("processes").is_empty());
        old.scale(name, &[("web", 1)]).expect_err("no build").says(
            "400 BAD REQUEST",
            "detail: No build associated with this release",
        );
        old.run(name, "true")
            .expect_err("no build")
            .says("400 BAD REQUEST", "detail: ");
        old.logs(name, None).expect("no error");
        assert_eq!(old.config_set(name, &["EARLY=1"]).expect("set"), "v2");
        old.unset(name, "values", &["EARLY"]).expect("unset");
    }

    pub(super) fn push(&self) {
        let repo = tempfile::TempDir::new().expect("repository");
        let git = |args: &[&str]| self.git.git(repo.path(), args);
        git(&["init", "-q", "-b", "master"]).ok();
        for (file, text) in [
            ("app.py", include_str!("../app/app.py")),
            ("Procfile", include_str!("../app/Procfile")),
        ] {
            fs::write(repo.path().join(file), text).expect("file");
        }
        git(&["add", "-A"]).ok();
        git(&["commit", "-q", "-m", "one"]).ok();
        let url = format!("ssh://git@deis.localhost:2222/{}.git", self.name);
        git(&["remote", "add", "deis", &url]).ok();
        let push = git(&["push", "deis", "master"]).ok();
        assert!(
            push.err
                .contains(&format!("done, {}:v4 deployed to Deis", self.name)),
            "{push:#?}"
        );
        assert_eq!(
            self.old.ps(&self.name).expect("processes"),
            ["web.1 up (v4)"]
        );
        let (builds, count) = self
            .old
            .list::<Build>(&self.path("builds/"), 100)
            .expect("builds");
        assert_eq!((builds[0].procfile.len(), count), (2, 1.0), "{builds:?}");
    }

    pub(super) fn processes(&self) {
        let Self { old, name, .. } = self;
        old.scale(name, &[("web", 3), ("worker", 1)])
            .expect("scaled");
        let all = [
            "web.1 up (v4)",
            "web.2 up (v4)",
            "web.3 up (v4)",
            "worker.1 up (v4)",
        ];
        let lines = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
        let up: BTreeSet<String> = all.into_iter().map(str::to_owned).collect();
        assert_eq!(lines(old.ps(name).expect("processes")), up);
        for (kind, count, says) in [
            (
                "nosuch",
                1,
                "detail: Container type nosuch does not exist in application",
            ),
            ("web", -1, "Must be greater than or equal to zero"),
        ] {
            old.scale(name, &[(kind, count)])
                .expect_err(kind)
                .says("400 BAD REQUEST", says);
        }
        for (which, count) in [("", 4), ("web/", 3), ("web/2/", 1)] {
            let restarted: Vec<Process> = old.restart(name, which).expect("restarted");
            assert_eq!(restarted.len(), count, "{restarted:?}");
            assert!(
                restarted.iter().all(|p| up.contains(&p.line())),
                "{restarted:?}"
            );
            assert_eq!(
                lines(old.ps(name).expect("processes")),
                up,
                "numbers are kept"
            );
        }
        old.restart(name, "web/9/")
            .expect_err("web.9")
            .says("404 NOT FOUND", "detail: Not found");
        // Each change from here on starts one process.
        old.scale(name, &[("web", 1), ("worker", 0)])
            .expect("scaled");
    }

    pub(super) fn config(&self) {
        let Self { old, name, .. } = self;
        let pairs = [
            "MULTI=one\ntwo\n\n four",
            "UNI=snow ☃ and 🚀",
            "ODD=it's \"q\" $X %n \\ 100%",
            "PLAIN=x",
            "EMPTY=",
            "NO-NAME=1",
        ];
        assert_eq!(old.config_set(name, &pairs).expect("set"), "v5");
        let config = old.config(name).expect("config");
        for pair in &pairs[..4] {
            let (key, value) = pair.split_once('=').expect("pair");
            assert_eq!(config.values[key], value, "{key}");
        }
        assert!(!config.values.contains_key("EMPTY"), "{config:?}");
        let (_, printed) = old
            .run(
                name,
                "printf '%s|' \"$MULTI\" \"$UNI\" \"$ODD\" $DEIS_APP $DEIS_RELEASE",
            )
            .expect("run");
        let values: Vec<&str> = pairs[..3]
            .iter()
            .map(|p| p.split_once('=').expect("pair").1)
            .collect();
        assert_eq!(
            printed.trim_end_matches('\n'),
            format!("{}|{name}|v5|", values.join("|"))
        );

        let pulled = old.config_pull(name).expect("pulled");
        assert!(
            pulled.contains("MULTI=one\ntwo\n\n four\n") && pulled.contains("UNI=snow ☃ and 🚀\n"),
            "{pulled}"
        );
        assert_eq!(
            old.config_push(name, "PUSHED=yes\nMORE=a b c\n")
                .expect("pushed"),
            "v6"
        );
        // What follows the last newline is lost: an empty change, which is a release all the same.
        assert_eq!(old.config_push(name, "LOST=1").expect("pushed"), "v7");
        let config = old.config(name).expect("config");
        assert_eq!(config.values["MORE"], "a b c");
        assert!(!config.values.contains_key("LOST"), "{config:?}");
        old.unset(name, "values", &["MORE", "MULTI", "NEVER_SET"])
            .expect("unset");
        let config = old.config(name).expect("config");
        assert!(
            !config.values.contains_key("MORE") && config.values.contains_key("PUSHED"),
            "{config:?}"
        );
        let bad = old
            .change(name, "values", object(&[("9BAD", "1")]))
            .expect_err("bad");
        bad.says(
            "400 BAD REQUEST",
            "values: Config keys must start with a letter or underscore",
        );
        assert_eq!(old.ps(name).expect("processes"), ["web.1 up (v8)"]);
    }

    pub(super) fn limits_and_tags(&self) {
        let Self { old, name, .. } = self;
        old.change(name, "memory", object(&[("web", "128M")]))
            .expect("limited");
        // It sends shares as text, and reads them as a number.
        let config = old
            .change(name, "cpu", object(&[("web", "512")]))
            .expect("limited");
        assert_eq!(
            (&config.memory["web"], &config.cpu["web"]),
            (&json!("128M"), &json!(512))
        );
        for (part, value, says) in [
            ("cpu", "4096", "cpu: CPU shares must be between 0 and 1024"),
            (
                "memory",
                "1Z",
                "memory: Limit format: <number><unit>, where unit = B, K, M or G",
            ),
        ] {
            let refused = old
                .change(name, part, object(&[("web", value)]))
                .expect_err(value);
            refused.says("400 BAD REQUEST", says);
        }
        old.unset(name, "memory", &["web"]).expect("unset");
        let config = old.unset(name, "cpu", &["web"]).expect("unset");
        assert!(
            config.memory.is_empty() && config.cpu.is_empty(),
            "Unlimited: {config:?}"
        );

        let bad = old
            .change(name, "tags", object(&[("bad_key", "1")]))
            .expect_err("bad");
        bad.says("400 BAD REQUEST", "tags: Tag keys can only contain [a-z]");
        let nowhere = old
            .change(name, "tags", object(&[("nosuch", "true")]))
            .expect_err("no host");
        nowhere.says("503 SERVICE UNAVAILABLE", "don't have the tags nosuch=true");
        assert_eq!(
            old.ps(name).expect("processes"),
            ["web.1 up (v12)"],
            "the old one serves"
        );
        assert!(old.config(name).expect("config").tags.is_empty());
        old.unset(name, "tags", &["nosuch"]).expect("unset");
    }

    pub(super) fn releases(&self) {
        let Self { old, name, .. } = self;
        let (list, count) = old
            .list::<Release>(&self.path("releases/"), 100)
            .expect("releases");
        let versions: Vec<i64> = list.iter().map(|release| release.version).collect();
        assert_eq!(versions, (1..=14).rev().collect::<Vec<_>>());
        assert_eq!(count, 14.0);
        let summary = |version: usize| list[14 - version].summary.as_str();
        assert_eq!(summary(1), format!("{name} created initial release"));
        assert!(
            summary(4).starts_with(&format!("{name} deployed ")),
            "{}",
            summary(4)
        );
        assert_eq!(summary(5), format!("{name} added MULTI, ODD, PLAIN, UNI"));
        assert_eq!(summary(7), format!("{name} changed nothing"));
        assert_eq!(summary(8), format!("{name} deleted MORE, MULTI"));
        let info: Release = old.get(&self.path("releases/v4/")).expect("v4");
        assert!(info.version == 4 && info.build.is_some(), "{info:?}");
        let none: Release = old.get(&self.path("releases/v1/")).expect("v1");
        assert_eq!(none.build, None);
        let unknown = old
            .get::<Release>(&self.path("releases/v99/"))
            .expect_err("v99");
        unknown.says("404 NOT FOUND", "detail: Not found");

        assert_eq!(old.rollback(name, Some(5)).expect("back"), 15);
        assert_eq!(
            old.config(name).expect("config").values["MULTI"],
            "one\ntwo\n\n four"
        );
        assert_eq!(old.rollback(name, None).expect("back one"), 16);
        let config = old.config(name).expect("config");
        assert!(!config.values.contains_key("MULTI"), "{config:?}");
        old.rollback(name, Some(99))
            .expect_err("v99")
            .says("404 NOT FOUND", "detail: Not found");
        old.rollback(name, Some(0))
            .expect_err("v0")
            .says("400 BAD REQUEST", "version cannot be below 0");
        assert_eq!(old.ps(name).expect("processes"), ["web.1 up (v16)"]);
    }
}
