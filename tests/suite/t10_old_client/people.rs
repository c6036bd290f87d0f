//! Names, certificates, who may do what, one-off commands, logs, and the end of it all.

use std::{fs, process::Command};

use serde_json::json;

use super::{
    Walk,
    client::{App, Cert, Domain, Named, OldClient, Person, Refused, Users},
};
use crate::support::*;

impl Walk<'_> {
    pub(super) fn domains_and_certs(&self) {
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

    pub(super) fn people(&self) {
        let Self {
            old,
            friend,
            friend_name,
            admin,
            name,
            ..
        } = self;
        friend.login(friend_name, "secret-1").expect("login");
        let forbidden = |what: &str, refused: Refused| {
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
            std::slice::from_ref(friend_name)
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

    pub(super) fn run_and_logs(&self) {
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

    pub(super) fn end(&self) {
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
