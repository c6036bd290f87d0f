//! Bare repositories on the builder, and git serving them to one client.
//!
//! A repository is named by its app's uuid, so a new app of the same name starts with none. It is a
//! cache of what was pushed here: etcd says what is deployed, and the branches follow that.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, Signal, kill_process_group},
};
use uuid::Uuid;

use super::{command::Service, refs::Sha};

/// Largest pack that is received.
const MAX_INPUT: &str = "receive.maxInputSize=1g";
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An app's repository.
#[derive(Debug)]
pub struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// The repository of an app, made if it isn't there.
    ///
    /// # Errors
    /// When git can't make it.
    pub fn open(root: &Path, id: Uuid) -> io::Result<Self> {
        let dir = root.join(format!("{id}.git"));
        if !dir.join("HEAD").exists() {
            // Made beside and renamed: a half-made one is never seen.
            let fresh = root.join(format!(".{}.git", Uuid::new_v4()));
            let mut init = git(&fresh);
            init.args([
                "init",
                "--quiet",
                "--bare",
                "--template=",
                "--initial-branch=main",
                ".",
            ]);
            fs::create_dir(&fresh)?;
            let made = run(init).and_then(|()| fs::rename(&fresh, &dir));
            if let Err(error) = made {
                let _ = fs::remove_dir_all(&fresh);
                // Another push made it at the same time.
                if !dir.join("HEAD").exists() {
                    return Err(error);
                }
            }
        }
        Ok(Self { dir })
    }

    /// Sets the branches to what is deployed, wherever it was pushed: without this, pushing a
    /// commit that another builder has replaced meanwhile would be "up to date".
    ///
    /// # Errors
    /// When git fails.
    pub fn follow(&self, deployed: Option<&Sha>) -> io::Result<()> {
        let repository = git2::Repository::open_bare(&self.dir).map_err(io::Error::other)?;
        for branch in ["main", "master"] {
            let name = format!("refs/heads/{branch}");
            let Ok(mut reference) = repository.find_reference(&name) else {
                continue;
            };
            let there = reference.target();
            let wanted = deployed.and_then(|sha| git2::Oid::from_str(sha.as_str()).ok());
            if there == wanted {
                continue;
            }
            match wanted.filter(|oid| repository.find_commit(*oid).is_ok()) {
                Some(oid) => reference.set_target(oid, "deployed elsewhere").map(|_| ()),
                None => reference.delete(),
            }
            .map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Runs git for the client at stdin and stdout, until either is done.
    ///
    /// # Errors
    /// When git can't be started.
    pub fn serve(
        &self,
        service: Service,
        hooks: &Path,
        environment: &[(&str, &OsStr)],
    ) -> io::Result<ExitCode> {
        let mut git = git(&self.dir);
        let hooks = format!("core.hooksPath={}", hooks.display());
        for setting in [
            hooks.as_str(),
            MAX_INPUT,
            "receive.fsckObjects=true",
            "receive.denyDeletes=false",
            "receive.denyNonFastForwards=false",
            "receive.keepAlive=2",
            "receive.autogc=false",
            "transfer.hideRefs=refs/deis",
            "uploadpack.allowAnySHA1InWant=false",
        ] {
            git.arg("-c").arg(setting);
        }
        if let Some(version) = std::env::var_os("GIT_PROTOCOL").filter(|v| v.len() < 64) {
            git.env("GIT_PROTOCOL", version);
        }
        git.envs(environment.iter().copied());
        git.arg(service.subcommand()).arg(".");
        git.stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let mut child = git.process_group(0).spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // Not joined: it ends with the process.
        thread::spawn(move || {
            client_is_gone();
            if let Some(group) = group {
                // git removes its quarantine on SIGTERM; the hook ends with its pipe.
                let _ = kill_process_group(group, Signal::TERM);
                thread::sleep(Duration::from_secs(5));
                let _ = kill_process_group(group, Signal::KILL);
            }
        });
        let status = child.wait()?;
        Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Waits until nobody reads our stdout any more: sshd closes its end when the client is gone.
fn client_is_gone() {
    let stdout = io::stdout();
    loop {
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        if poll(&mut fds, None).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
        {
            return;
        }
        // Only a signal or a spurious wake-up leads here.
        thread::sleep(Duration::from_millis(100));
    }
}

/// git in a directory, with nobody's configuration.
fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear()
        .env("PATH", PATH)
        .env("HOME", dir)
        .env("LC_ALL", "C.UTF-8")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(dir);
    git
}

fn run(mut command: Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("git: {}", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(repository: &git2::Repository, branch: &str, text: &str) -> Sha {
        let tree = repository
            .treebuilder(None)
            .expect("a tree")
            .write()
            .expect("written");
        let tree = repository.find_tree(tree).expect("the tree");
        let who = git2::Signature::now("ada", "ada@example.com").expect("a signature");
        let id = repository
            .commit(Some(branch), &who, &who, text, &tree, &[])
            .expect("a commit");
        Sha::try_from(id.to_string()).expect("an id")
    }

    #[test]
    fn branches_follow_what_is_deployed() {
        let root = tempfile::tempdir().expect("a directory");
        let id = Uuid::new_v4();
        let ours = Repository::open(root.path(), id).expect("made");
        let git = git2::Repository::open_bare(&ours.dir).expect("opened");
        let first = commit(&git, "refs/heads/main", "first");
        let second = commit(&git, "refs/heads/other", "second");
        let main = || {
            git.refname_to_id("refs/heads/main")
                .ok()
                .map(|oid| oid.to_string())
        };
        for (deployed, want) in [(&first, &first), (&second, &second), (&first, &first)] {
            ours.follow(Some(deployed)).expect("followed");
            assert_eq!(main().as_deref(), Some(want.as_str()));
        }
        let elsewhere = Sha::try_from("e".repeat(40)).expect("an id");
        ours.follow(Some(&elsewhere)).expect("followed");
        assert_eq!(main(), None, "what isn't here must be pushed again");
        assert!(git.refname_to_id("refs/heads/other").is_ok());
        // Opened again, it is the same.
        Repository::open(root.path(), id).expect("there");
        assert!(git.refname_to_id("refs/heads/other").is_ok());
    }
}
