//! A client of Deis 1.13.4 does all that it can do: each step of a user's life with it.

mod changes;
mod client;
mod people;

use std::{fs, process::Command};

use client::OldClient;
use serde_json::json;

use crate::support::*;

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
}
