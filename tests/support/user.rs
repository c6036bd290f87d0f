//! Somebody with a laptop, and the apps that he pushes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use super::{command::*, hosts::Cluster, http::*};

pub const DEIS: &str = env!("CARGO_BIN_EXE_deis");
/// Somebody with a laptop: a home with a profile and an SSH key.
pub struct User {
    pub home: PathBuf,
    pub name: String,
}

impl User {
    /// The suite's first user, a superuser; registers once for the whole suite.
    pub fn first(cluster: &Cluster) -> Self {
        Self::named(cluster, "tester")
    }

    pub fn named(cluster: &Cluster, name: &str) -> Self {
        let home = std::env::temp_dir()
            .join(format!("deis-suite-{}", cluster.name))
            .join(name);
        let user = Self {
            home,
            name: name.to_owned(),
        };
        if !user.home.join("ready").exists() {
            let _ = fs::remove_dir_all(&user.home);
            fs::create_dir_all(user.home.join(".ssh")).expect("home");
            let email = format!("{name}@example.com");
            user.deis(&[
                "register",
                "http://deis.localhost",
                "--username",
                name,
                "--password",
                "secret-1",
                "--email",
                &email,
            ])
            .ok();
            let key = user.key();
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(&key);
            run(&mut keygen, MINUTE).ok();
            user.deis(&["keys:add", &format!("{}.pub", key.display())])
                .ok();
            fs::write(user.home.join("ready"), "").expect("mark");
        }
        user
    }

    pub fn key(&self) -> PathBuf {
        self.home.join(".ssh/id_ed25519")
    }

    pub fn command(&self, program: &str, dir: &Path) -> Command {
        let mut command = Command::new(program);
        let ssh = format!(
            "ssh -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new \
             -o UserKnownHostsFile={} -o ConnectTimeout=10",
            self.key().display(),
            self.home.join(".ssh/known_hosts").display(),
        );
        command
            .current_dir(dir)
            .env("HOME", &self.home)
            .env_remove("DEIS_PROFILE")
            .env("GIT_SSH_COMMAND", ssh)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", &self.name)
            .env("GIT_AUTHOR_EMAIL", "tester@example.com")
            .env("GIT_COMMITTER_NAME", &self.name)
            .env("GIT_COMMITTER_EMAIL", "tester@example.com");
        command
    }

    pub fn deis(&self, args: &[&str]) -> Ran {
        self.deis_in(&self.home, args)
    }

    /// A `deis` that runs until the caller ends it.
    pub fn deis_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(DEIS, &self.home);
        command.args(args);
        command
    }

    pub fn deis_in(&self, dir: &Path, args: &[&str]) -> Ran {
        run(self.command(DEIS, dir).args(args), 5 * MINUTE)
    }

    pub fn git(&self, dir: &Path, args: &[&str]) -> Ran {
        run(self.command("git", dir).args(args), 10 * MINUTE)
    }

    /// A git command that the caller may kill.
    pub fn git_command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.command("git", dir);
        command.args(args);
        command
    }
}

/// An app with its repository; destroyed when the test is over.
pub struct App<'a> {
    pub user: &'a User,
    pub name: String,
    pub repo: tempfile::TempDir,
    destroyed: std::cell::Cell<bool>,
}

impl Drop for App<'_> {
    fn drop(&mut self) {
        if !thread::panicking() && !self.destroyed.get() {
            self.destroy();
        }
    }
}

impl<'a> App<'a> {
    /// Creates the app and a repository with these files.
    pub fn create(user: &'a User, name: &str, files: &[(&str, &str)]) -> Self {
        let repo = tempfile::TempDir::new().expect("repository");
        user.git(repo.path(), &["init", "-q", "-b", "main"]).ok();
        // A former run's leftovers.
        let _ = user.deis(&["destroy", "-a", name, &format!("--confirm={name}")]);
        user.deis_in(repo.path(), &["create", name]).ok();
        let app = Self {
            user,
            name: name.to_owned(),
            repo,
            destroyed: false.into(),
        };
        app.commit(files);
        app
    }

    /// The suite's own app.
    pub fn test_app(user: &'a User, name: &str) -> Self {
        let files = [
            ("app.py", include_str!("../suite/app/app.py")),
            ("Procfile", include_str!("../suite/app/Procfile")),
        ];
        Self::create(user, name, &files)
    }

    /// The suite's own app, pushed and served.
    pub fn pushed(user: &'a User, name: &str) -> Self {
        let app = Self::test_app(user, name);
        app.push().ok();
        app
    }

    pub fn commit(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.repo.path().join(name);
            fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        self.user.git(self.repo.path(), &["add", "-A"]).ok();
        self.user
            .git(
                self.repo.path(),
                &["commit", "-q", "--allow-empty", "-m", "test"],
            )
            .ok();
    }

    pub fn push(&self) -> Ran {
        self.user
            .git(self.repo.path(), &["push", "deis", "HEAD:refs/heads/main"])
    }

    pub fn deis(&self, args: &[&str]) -> Ran {
        let mut all = args.to_vec();
        let at = all.iter().position(|arg| *arg == "--").unwrap_or(1).min(1);
        all.splice(at..at, ["-a", self.name.as_str()]);
        self.user.deis(&all)
    }

    pub fn get(&self, path: &str) -> Result<Answer, String> {
        get("127.0.0.1:80", &format!("{}.localhost", self.name), path)
    }

    /// What the page says.
    #[track_caller]
    pub fn page(&self) -> serde_json::Value {
        let answer = self.get("/").expect("the app's page");
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_str(&answer.body).expect("JSON")
    }

    /// An app of an earlier test that outlives this one, too.
    pub fn kept(user: &'a User, name: &str) -> Self {
        Self {
            user,
            name: name.to_owned(),
            repo: tempfile::TempDir::new().expect("repository"),
            destroyed: true.into(),
        }
    }

    /// It outlives the test.
    pub fn keep(&self) {
        self.destroyed.set(true);
    }

    pub fn destroy(&self) {
        self.destroyed.set(true);
        self.user
            .deis(&[
                "destroy",
                "-a",
                &self.name,
                &format!("--confirm={}", self.name),
            ])
            .ok();
    }
}
