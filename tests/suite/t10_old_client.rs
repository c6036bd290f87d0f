//! A client of Deis 1.13.4 does all that it can do: each step of a user's life with it.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::{Map, Value, json};

use crate::{
    old_client::{App, Build, Cert, Domain, Named, OldClient, Person, Process, Release, Users},
    support::*,
};

/// Somebody who has only the old client, an SSH key and git; and a friend of his.
struct Walk<'c> {
    cluster: &'c Cluster,
    /// Name of the user, and of the app.
    name: String,
    old: OldClient,
    friend: OldClient,
    friend_name: String,
    admin: OldClient,
    git: User,
}

#[test]
fn the_old_client_does_all_that_it_can() {
    let cluster = Cluster::get();
    // The suite's own user is the administrator.
    let admin_name = User::first(&cluster).name;
    let folder = std::env::temp_dir().join(format!("deis-suite-{}", cluster.name));
    let name = format!("old-{}", std::process::id());
    let home = folder.join(&name);
    let walk = Walk {
        old: OldClient::new(home.clone()),
        friend: OldClient::new(folder.join(format!("{name}-friend"))),
        friend_name: format!("{name}-friend"),
        admin: OldClient::new(folder.join(format!("{name}-admin"))),
        git: User {
            home,
            name: name.clone(),
        },
        cluster: &cluster,
        name,
    };
    walk.admin.login(&admin_name, "secret-1").expect("login");
    walk.account();
    walk.keys();
    walk.apps();
    walk.push();
    walk.processes();
    walk.config();
    walk.limits_and_tags();
    walk.releases();
    walk.domains_and_certs();
    walk.people();
    walk.run_and_logs();
    walk.end();
}

fn object(pairs: &[(&str, &str)]) -> Map<String, Value> {
    let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), json!(v)));
    pairs.collect()
}

impl Walk<'_> {
    fn path(&self, rest: &str) -> String {
        format!("/v1/apps/{}/{rest}", self.name)
    }

    fn account(&self) {
        let Self { old, name, .. } = self;
        old.register(name, "secret-1").expect("registered");
        let taken = self.friend.register(name, "other").expect_err("taken");
        taken.says("400 BAD REQUEST", "username: This field must be unique.");
        // The program sends the token that it happens to have.
        let newcomer = OldClient::new(self.friend.home.clone());
        newcomer
            .register(&self.friend_name, "secret-1")
            .expect("registered");

        // The profile is one that our own program goes on with, and the other way round.
        let whoami = self.git.deis(&["whoami"]).ok().out;
        assert!(
            whoami.contains(&format!("You are {name} at http://deis.localhost")),
            "{whoami}"
        );
        self.git.deis(&["apps:list"]).ok();
        let login = [
            "login",
            "http://deis.localhost",
            "--username",
            name,
            "--password",
            "secret-1",
        ];
        self.git.deis(&login).ok();
        let profile = old.profile().expect("a profile");
        assert_eq!(
            (profile.username.as_str(), profile.response_limit),
            (name.as_str(), 100)
        );

        old.logout();
        let wrong = old.login(name, "wrong").expect_err("wrong");
        wrong.says(
            "400 BAD REQUEST",
            "non_field_errors: Unable to log in with provided credentials.",
        );
        let anonymous = old.create(None).expect_err("not logged in");
        anonymous.says(
            "401 UNAUTHORIZED",
            "detail: Authentication credentials were not provided.",
        );
        old.login(name, "secret-1").expect("login");

        let wrong = old.passwd("wrong", "secret-2").expect_err("wrong");
        wrong.says("400 BAD REQUEST", "detail: Current password does not match");
        old.passwd("secret-1", "secret-2").expect("changed");
        let stale = old.login(name, "secret-1").expect_err("changed");
        stale.says("400 BAD REQUEST", "Unable to log in");
        old.login(name, "secret-2").expect("login");

        let before = old.profile().expect("profile").token;
        old.regenerate().expect("a new token");
        let ended = old
            .send_as(Some(&before), "GET", "/v1/apps/", "")
            .expect_err("ended");
        ended.says("401 UNAUTHORIZED", "detail: Invalid token");
        for body in [json!({ "all": true }), json!({ "username": name })] {
            let refused = old.send("POST", "/v1/auth/tokens/", &body.to_string());
            refused
                .expect_err("no administrator")
                .says("403 FORBIDDEN", "detail: You do not have permission");
        }
    }

    fn keys(&self) {
        // All that it took for a key were RSA, DSA and ECDSA.
        for (kind, file) in [
            ("rsa", self.git.key()),
            ("ecdsa", self.git.home.join("second")),
        ] {
            let mut keygen = Command::new("ssh-keygen");
            let comment = format!("{kind} of {} at home", self.name);
            keygen
                .args(["-q", "-t", kind, "-N", "", "-C", &comment, "-f"])
                .arg(file);
            run(&mut keygen, MINUTE).ok();
        }
        let read = |file: &str| fs::read_to_string(self.git.home.join(file)).expect("key");
        let (rsa, ecdsa) = (read(".ssh/id_ed25519.pub"), read("second.pub"));
        assert!(self.old.keys().is_empty());
        self.old.add_key(&rsa).expect("added");
        let again = self.old.add_key(&rsa).expect_err("there");
        assert_eq!(again.status, "400 BAD REQUEST");
        let others = self.friend.add_key(&rsa).expect_err("another's");
        others.says("400 BAD REQUEST", "public: This field must be unique.");
        self.old.add_key(&ecdsa).expect("added");
        let listed = self.old.keys();
        assert!(
            listed[0].starts_with(&format!("rsa of {} at home ssh-rsa AAAAB3Nz...", self.name)),
            "{listed:?}"
        );
        assert_eq!(listed.len(), 2);
        let path = format!("/v1/keys/ecdsa%20of%20{}%20at%20home", self.name);
        assert_eq!(
            self.old.send("DELETE", &path, "").expect("removed").status,
            204
        );
        let gone = self.old.send("DELETE", &path, "").expect_err("removed");
        gone.says("404 NOT FOUND", "detail: Not found");
        assert_eq!(self.old.keys().len(), 1);
    }

    fn apps(&self) {
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

    fn push(&self) {
        let repo = tempfile::TempDir::new().expect("repository");
        let git = |args: &[&str]| self.git.git(repo.path(), args);
        git(&["init", "-q", "-b", "master"]).ok();
        for (file, text) in [
            ("app.py", include_str!("app/app.py")),
            ("Procfile", include_str!("app/Procfile")),
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

    fn processes(&self) {
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

    fn config(&self) {
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

    fn limits_and_tags(&self) {
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

    fn releases(&self) {
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

    fn domains_and_certs(&self) {
        let Self { old, name, .. } = self;
        let domain = format!("www.{name}.example");
        let add = |domain: &str| {
            old.send(
                "POST",
                &self.path("domains/"),
                &json!({ "domain": domain }).to_string(),
            )
        };
        let added: Domain = add(&domain).expect("added").json();
        assert_eq!((&added.domain, &added.app), (&domain, name));
        assert_eq!(
            get("127.0.0.1:80", &domain, "/").expect("answer").status,
            200
        );
        add(&domain)
            .expect_err("there")
            .says("400 BAD REQUEST", "domain: ");
        add("-bad-.example")
            .expect_err("bad")
            .says("400 BAD REQUEST", "domain: Hostname does not look valid.");
        let (list, _) = old
            .list::<Domain>(&self.path("domains/"), 100)
            .expect("domains");
        assert_eq!(list[0].domain, domain);

        let folder = tempfile::TempDir::new().expect("folder");
        let made = format!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={domain} -keyout key.pem -out cert.pem && openssl genrsa -out other.pem 2048"
        );
        run(
            Command::new("sh")
                .args(["-c", &made])
                .current_dir(folder.path()),
            MINUTE,
        )
        .ok();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).expect("file");
        let add_cert = |key: &str| {
            let body = json!({ "certificate": read("cert.pem"), "key": read(key) });
            old.send("POST", "/v1/certs/", &body.to_string())
        };
        let other = add_cert("other.pem").expect_err("another's key");
        assert_eq!(other.status, "400 BAD REQUEST");
        let cert: Cert = add_cert("key.pem").expect("added").json();
        assert_eq!((&cert.common_name, &cert.owner), (&domain, name));
        let (list, _) = old.list::<Cert>("/v1/certs/", 100).expect("certs");
        assert!(
            list.len() == 1 && list[0].expires.ends_with("UTC"),
            "{list:?}"
        );
        let shown = format!(
            "openssl s_client -connect 127.0.0.1:443 -servername {domain} </dev/null | openssl x509 -noout -subject"
        );
        eventually("the router has the certificate", MINUTE, || {
            let ran = run(Command::new("sh").args(["-c", &shown]), MINUTE);
            if ran.out.contains(&domain) {
                Ok(())
            } else {
                Err(ran.all())
            }
        });
        assert_eq!(
            old.send("DELETE", &format!("/v1/certs/{domain}"), "")
                .expect("removed")
                .status,
            204
        );
        let (list, _) = old.list::<Cert>("/v1/certs/", 100).expect("certs");
        assert!(list.is_empty(), "No certs: {list:?}");

        let path = self.path(&format!("domains/{domain}"));
        assert_eq!(old.send("DELETE", &path, "").expect("removed").status, 204);
        old.send("DELETE", &path, "")
            .expect_err("removed")
            .says("404 NOT FOUND", "detail: Not found");
        eventually("the domain leads nowhere", MINUTE, || {
            let answer = get("127.0.0.1:80", &domain, "/")?;
            if answer.status == 404 {
                Ok(())
            } else {
                Err(answer.head)
            }
        });
    }

    fn people(&self) {
        let Self {
            old,
            friend,
            friend_name,
            admin,
            name,
            ..
        } = self;
        friend.login(friend_name, "secret-1").expect("login");
        let forbidden = |what: &str, refused: crate::old_client::Refused| {
            assert_eq!(refused.status, "403 FORBIDDEN", "{what}: {refused:#?}");
        };
        forbidden(
            "a stranger's app",
            friend.ps(name).expect_err("no permission"),
        );
        let grant = |client: &OldClient, path: &str, user: &str| {
            client.send("POST", path, &json!({ "username": user }).to_string())
        };
        let perms = self.path("perms/");
        assert_eq!(
            grant(old, &perms, friend_name).expect("granted").status,
            201
        );
        grant(old, &perms, "nobody-at-all")
            .expect_err("nobody")
            .says("404 NOT FOUND", "detail: Not found");
        assert_eq!(
            old.get::<Users>(&perms).expect("perms").users,
            [friend_name.clone()]
        );
        let (apps, _) = friend.list::<App>("/v1/apps/", 100).expect("apps");
        assert_eq!(apps[0].id, *name);
        friend
            .config_set(name, &["FRIEND=1"])
            .expect("a collaborator may");
        friend
            .scale(name, &[("web", 2)])
            .expect("a collaborator may");
        let gone = |client: &OldClient, path: &str| {
            client.send("DELETE", path, "").map(|reply| reply.status)
        };
        forbidden(
            "destroy",
            gone(friend, &self.path("")).expect_err("no owner"),
        );
        forbidden(
            "grant",
            grant(friend, &perms, friend_name).expect_err("no owner"),
        );
        let own = self.path(&format!("perms/{friend_name}"));
        assert_eq!(gone(friend, &own).expect("of his own will"), 204);
        forbidden("after that", friend.ps(name).expect_err("no permission"));

        // Administrators.
        forbidden(
            "users",
            old.list::<Person>("/v1/users/", 100)
                .expect_err("no administrator"),
        );
        let (people, _) = admin.list::<Person>("/v1/users/", 100).expect("users");
        assert!(
            people.iter().any(|person| person.username == *name),
            "{people:?}"
        );
        assert_eq!(
            grant(admin, "/v1/admin/perms/", friend_name)
                .expect("promoted")
                .status,
            201
        );
        let (admins, _) = admin
            .list::<Named>("/v1/admin/perms/", 100)
            .expect("administrators");
        assert!(
            admins.iter().any(|admin| admin.username == *friend_name),
            "{admins:?}"
        );
        friend.ps(name).expect("administrators see all");
        assert_eq!(
            gone(admin, &format!("/v1/admin/perms/{friend_name}")).expect("demoted"),
            204
        );
        forbidden("demoted", friend.ps(name).expect_err("no permission"));

        // Another owner, and back.
        let transfer = |from: &OldClient, to: &str| {
            from.send("POST", &self.path(""), &json!({ "owner": to }).to_string())
        };
        transfer(old, friend_name).expect("transferred");
        forbidden(
            "the old owner",
            old.ps(name).expect_err("no owner any more"),
        );
        assert_eq!(
            friend.get::<App>(&self.path("")).expect("info").owner,
            *friend_name
        );
        transfer(friend, name).expect("transferred");
        old.scale(name, &[("web", 1)]).expect("his again");
    }

    fn run_and_logs(&self) {
        let Self { old, name, .. } = self;
        let (code, out) = old
            .run(name, "echo \"a  b\" 'ü ☃' 100%n; echo oops >&2; exit 7")
            .expect("run");
        assert!(
            code == 7.0 && out.contains("a  b ü ☃ 100%n\n") && out.contains("oops\n"),
            "{code} {out:?}"
        );
        let (code, out) = old
            .run(name, "python3 -c \"print('x' * 65535)\"")
            .expect("run");
        assert_eq!((code, out.len()), (0.0, 65536), "64 kB of output");
        assert!(out.bytes().all(|byte| byte == b'x' || byte == b'\n'));
        assert_eq!(
            old.ps(name).expect("processes").len(),
            1,
            "one-offs are not listed"
        );

        let tag = format!(" {name}[web.1]: ");
        eventually("the app's line in the log", MINUTE, || {
            let lines = old.logs(name, None).expect("logs");
            match lines
                .iter()
                .find(|line| line.contains("the test app listens"))
            {
                Some(line) if line.starts_with("20") && line.contains(&tag) => Ok(()),
                _ => Err(lines.join("\n")),
            }
        });
        let lines = old.logs(name, Some(2)).expect("logs");
        assert_eq!(lines.len(), 2);
        // It took the second word before a colon for what wrote the line.
        let prefix = format!("{name}[");
        assert!(
            lines.iter().all(|line| line
                .split(' ')
                .nth(1)
                .is_some_and(|word| word.starts_with(&prefix))),
            "{lines:?}"
        );
    }

    fn end(&self) {
        let Self {
            old,
            name,
            friend,
            friend_name,
            ..
        } = self;
        let refused = old.cancel(name, "secret-2").expect_err("he has an app");
        refused.says(
            "409 CONFLICT",
            &format!(
                "detail: {name} still has applications assigned. Delete or transfer ownership"
            ),
        );
        assert_eq!(
            old.send("DELETE", &self.path(""), "")
                .expect("destroyed")
                .status,
            204
        );
        old.get::<App>(&self.path(""))
            .expect_err("gone")
            .says("404 NOT FOUND", "detail: Not found");
        let answer = get("127.0.0.1:80", &format!("{name}.localhost"), "/").expect("answer");
        assert!(
            answer.status == 404 && answer.body.contains("404 Not Found"),
            "{answer:?}"
        );

        let token = old.profile().expect("logged in").token;
        old.cancel(name, "secret-2").expect("cancelled");
        old.send_as(Some(&token), "GET", "/v1/apps/", "")
            .expect_err("gone")
            .says("401 UNAUTHORIZED", "detail: Invalid token");
        old.login(name, "secret-2")
            .expect_err("gone")
            .says("400 BAD REQUEST", "Unable to log in");
        friend.cancel(friend_name, "secret-1").expect("cancelled");
        let left = self
            .cluster
            .etcdctl(&self.cluster.hosts[0], "get --prefix --keys-only /deis")
            .ok()
            .out;
        let left: Vec<&str> = left
            .lines()
            .filter(|key| key.contains(name.as_str()) && !key.contains("/audit/"))
            .collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}
