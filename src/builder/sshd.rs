//! OpenSSH for pushes: host key, configuration, and the process itself.
//!
//! The host key is the same on every builder and outlives hosts: it lies in etcd, sealed. Whoever
//! offers only keys that nobody added is told so by a PAM service that lets nobody in: ssh itself
//! would say no more than "Permission denied", and to accept such a key would hide the user's next.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use handlebars::Handlebars;
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    model::SealedValue,
    seal::{ClusterKey, SealError},
    store::{CommitError, Store, StoreError, Txn, keys},
};

/// What the sealed host key is bound to.
const CONTEXT: &str = "builder/sshHostKey";
/// How long sshd may take until it answers.
const START: Duration = Duration::from_secs(10);

/// Why there is no SSH server.
#[derive(Debug, thiserror::Error)]
pub enum SshdError {
    /// A file can't be written.
    #[error("can't write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program is missing or fails.
    #[error("{program} failed: {why}; is the package {package} installed?")]
    Program {
        /// Which.
        program: &'static str,
        /// What it says.
        why: String,
        /// Where it comes from.
        package: &'static str,
    },
    /// The host key can't be kept in etcd.
    #[error("can't keep the SSH host key in etcd")]
    Store(#[from] StoreError),
    /// The host key can't be opened.
    #[error("can't open the SSH host key at {}", keys::builder_host_key())]
    Seal(#[from] SealError),
    /// The template is wrong.
    #[error("templates/sshd_config.hbs can't be rendered")]
    Template(#[from] handlebars::RenderError),
    /// It runs, and doesn't answer.
    #[error("sshd does not answer on {address} after {} s", START.as_secs())]
    Silent {
        /// Where it should.
        address: SocketAddr,
    },
}

/// What sshd has to know.
#[derive(Debug, Clone)]
pub struct SshdSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// The one user who may log in.
    pub user: String,
    /// The `deisd` program.
    pub program: PathBuf,
    /// The builder's socket.
    pub socket: PathBuf,
    /// Directory of the repositories.
    pub repositories: PathBuf,
    /// Where configuration and keys are written; on tmpfs.
    pub run: PathBuf,
    /// Where git's hooks are written; not on /run, from which Debian lets nothing be executed.
    pub hooks: PathBuf,
    /// The PAM service's file. sshd is started by a link of the same name: it takes the service's
    /// name from its own.
    pub pam: PathBuf,
}

impl SshdSettings {
    fn link(&self) -> PathBuf {
        self.run.join(
            self.pam
                .file_name()
                .unwrap_or_else(|| "deis-builder-sshd".as_ref()),
        )
    }
}

/// The host key, as a file's text: etcd's; else the one that this host was given, so that a cluster
/// that is made anew is the same to its users; else a fresh one. What it is then stands in etcd.
///
/// # Errors
/// When etcd or ssh-keygen fails.
pub async fn host_key(
    store: &Store,
    key: &ClusterKey,
    run: &Path,
    given: &Path,
) -> Result<Vec<u8>, SshdError> {
    let at = keys::builder_host_key();
    loop {
        if let Some(there) = store.get(&at).await? {
            return Ok(key.open(CONTEXT, &there.value)?.into_inner());
        }
        let (private, public) = if given.exists() {
            read_pair(given)?
        } else {
            generate(run).await?
        };
        let sealed: SealedValue = key.seal(CONTEXT, &private);
        let put = Txn::new()
            .absent(&at)
            .put(&at, &sealed)
            .put(&keys::builder_host_public_key(), &public);
        match store.commit(put).await {
            Ok(_) => {
                info!("made an SSH host key for all builders");
                return Ok(private);
            }
            // Another builder was first: its key is everybody's.
            Err(CommitError::Conflict) => {}
            Err(CommitError::Store(error)) => return Err(error.into()),
        }
    }
}

async fn generate(run: &Path) -> Result<(Vec<u8>, String), SshdError> {
    let dir = tempfile::tempdir_in(run).map_err(|source| file(run, source))?;
    let path = dir.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "deis-builder", "-f"])
        .arg(&path);
    run_quiet(keygen, "ssh-keygen", "openssh-client").await?;
    read_pair(&path)
}

/// A private key's text, and its public half without the comment.
fn read_pair(path: &Path) -> Result<(Vec<u8>, String), SshdError> {
    let private = std::fs::read(path).map_err(|source| file(path, source))?;
    let path = path.with_extension("pub");
    let public = std::fs::read_to_string(&path).map_err(|source| file(&path, source))?;
    let public: Vec<&str> = public.split_ascii_whitespace().take(2).collect();
    Ok((private, public.join(" ")))
}

fn file(path: &Path, source: io::Error) -> SshdError {
    SshdError::File {
        path: path.to_owned(),
        source,
    }
}

async fn run_quiet(
    mut command: Command,
    program: &'static str,
    package: &'static str,
) -> Result<String, SshdError> {
    let failed = |why: String| SshdError::Program {
        program,
        why,
        package,
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(Duration::from_secs(20), command.output()).await;
    let output = output
        .map_err(|_| failed("no end after 20 s".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// User and group id of a user; none when there is no such user.
///
/// # Errors
/// When getent can't be run.
pub async fn user_ids(user: &str) -> Result<Option<(u32, u32)>, SshdError> {
    let mut getent = Command::new("getent");
    getent.args(["passwd", user]);
    // getent's answer to "nobody of that name" is a failure without a word.
    let line = match run_quiet(getent, "getent", "libc-bin").await {
        Ok(line) => line,
        Err(SshdError::Program { why, .. }) if why.is_empty() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut fields = line.trim().split(':').skip(2);
    let mut id = || fields.next()?.parse().ok();
    Ok(id().zip(id()))
}

/// Makes the user that all pushes log in as, unless it is there.
///
/// # Errors
/// When useradd fails.
pub async fn ensure_user(user: &str, home: &Path) -> Result<(u32, u32), SshdError> {
    if let Some(ids) = user_ids(user).await? {
        return Ok(ids);
    }
    let mut useradd = Command::new("useradd");
    // The forced command runs by this shell; `*` is a password that nobody has, and no lock.
    useradd.args([
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/bin/sh",
    ]);
    useradd
        .args(["--password", "*", "--home-dir"])
        .arg(home)
        .arg(user);
    run_quiet(useradd, "useradd", "passwd").await?;
    user_ids(user).await?.ok_or(SshdError::Program {
        program: "useradd",
        why: format!("there is no user {user} after it"),
        package: "passwd",
    })
}

/// Writes configuration, host key, hooks and PAM service.
///
/// # Errors
/// When a file can't be written.
pub fn prepare(settings: &SshdSettings, host_key: &[u8]) -> Result<(), SshdError> {
    let run = &settings.run;
    let key = run.join("ssh_host_key");
    write(&key, host_key, 0o600)?;
    let hooks = settings.hooks.clone();
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&hooks);
    made.map_err(|source| file(&hooks, source))?;
    let program = settings.program.display();
    write(
        &hooks.join("pre-receive"),
        format!("#!/bin/sh\nexec {program} git-hook\n").as_bytes(),
        0o755,
    )?;
    let mut templates = Handlebars::new();
    templates.set_strict_mode(true);
    // Nothing here comes from outside: addresses and our own paths.
    templates.register_escape_fn(handlebars::no_escape);
    let config = templates.render_template(
        include_str!("../../templates/sshd_config.hbs"),
        &json!({
            "address": match settings.address.ip() {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            },
            "port": settings.address.port(),
            "host_key": key,
            "user": settings.user,
            "permit_root": if settings.user == "root" { "forced-commands-only" } else { "no" },
            "program": settings.program,
            "socket": settings.socket,
            "repositories": settings.repositories,
            "hooks": hooks,
        }),
    )?;
    write(&run.join("sshd_config"), config.as_bytes(), 0o600)?;
    let told = run.join("told");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&told);
    made.map_err(|source| file(&told, source))?;
    let denied = run.join("denied");
    let script = DENIED.replace("TOLD", &told.display().to_string());
    write(&denied, script.as_bytes(), 0o600)?;
    let service = format!(
        "# Written by deisd builder. Lets nobody in: pushes are by public key.\n\
         auth optional pam_exec.so quiet stdout /bin/sh {}\n\
         auth requisite pam_deny.so\n\
         account required pam_permit.so\n\
         password required pam_deny.so\n\
         session required pam_permit.so\n",
        denied.display()
    );
    write(&settings.pam, service.as_bytes(), 0o644)?;
    let link = settings.link();
    let _ = std::fs::remove_file(&link);
    symlink(sshd_program(), &link).map_err(|source| file(&link, source))
}

/// Tells whoever has no known key what to do: once per connection, though ssh asks three times.
/// SSH_CONNECTION is sshd's own word, and only its digits are used.
const DENIED: &str = r#"find TOLD -type f -mmin +2 -delete
set -C
if : 2>/dev/null >"TOLD/$(printf %s "$SSH_CONNECTION" | tr -c 0-9a-fA-F _)"; then
    echo 'Deis does not know any of the SSH keys that you offered.'
    echo 'Add yours with `deis keys:add`, then push again.'
fi
"#;

fn sshd_program() -> &'static str {
    let places = ["/usr/sbin/sshd", "/usr/bin/sshd"];
    places
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or(places[0])
}

/// Writes a file by rename, so that nobody reads half of it, with its mode from the start.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SshdError> {
    use io::Write as _;
    let written = || {
        let fresh = path.with_extension("new");
        let _ = std::fs::remove_file(&fresh);
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&fresh)?;
        out.set_permissions(std::fs::Permissions::from_mode(mode))?;
        out.write_all(bytes)?;
        std::fs::rename(&fresh, path)
    };
    written().map_err(|source| file(path, source))
}

fn start(settings: &SshdSettings) -> Result<Child, SshdError> {
    // Privilege separation wants it; Debian's own unit makes it too.
    let _ = std::fs::create_dir_all("/run/sshd");
    Command::new(settings.link())
        // Only this program speaks to systemd.
        .env_remove("NOTIFY_SOCKET")
        .args(["-D", "-e", "-f"])
        .arg(settings.run.join("sshd_config"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| SshdError::Program {
            program: "sshd",
            why: error.to_string(),
            package: "openssh-server",
        })
}

async fn answers(address: SocketAddr) -> bool {
    let greeted = async {
        let mut greeting = [0; 4];
        TcpStream::connect(address)
            .await?
            .read_exact(&mut greeting)
            .await?;
        io::Result::Ok(&greeting == b"SSH-")
    };
    matches!(timeout(Duration::from_secs(2), greeted).await, Ok(Ok(true)))
}

/// A running sshd that is started again when it ends.
#[derive(Debug)]
pub struct Sshd {
    task: tokio::task::JoinHandle<()>,
}

impl Sshd {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started or doesn't answer.
    pub async fn start(settings: SshdSettings, stop: CancellationToken) -> Result<Self, SshdError> {
        let mut child = start(&settings)?;
        let address = settings.address;
        let deadline = Instant::now() + START;
        while !answers(address).await {
            if let Ok(Some(status)) = child.try_wait() {
                let why = format!("it ended at once ({status}); its own words stand above");
                return Err(SshdError::Program {
                    program: "sshd",
                    why,
                    package: "openssh-server",
                });
            }
            if Instant::now() > deadline {
                return Err(SshdError::Silent { address });
            }
            sleep(Duration::from_millis(50)).await;
        }
        info!(%address, "sshd answers");
        Ok(Self {
            task: tokio::spawn(supervise(settings, child, stop)),
        })
    }

    /// Waits until it has been stopped.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

async fn supervise(settings: SshdSettings, mut child: Child, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                let _ = child.kill().await;
                return;
            }
            status = child.wait() => warn!(?status, "sshd ended, starting it again"),
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(Duration::from_secs(1)) => {}
            }
            match start(&settings) {
                Ok(fresh) => {
                    child = fresh;
                    break;
                }
                Err(why) => error!(error = &why as &dyn std::error::Error, "no sshd"),
            }
        }
    }
}
