//! SSH against the real thing: an sshd of our own on loopback.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    context::Context,
    ssh::{Address, Ssh, SshError},
    tunnel::Tunnel,
};
use crate::store::{EtcdOptions, Txn, keys};

/// An sshd that lets this user in with one key, and ends with the test.
struct Sshd {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
}

fn keygen(path: &Path, kind: &str) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", kind, "-f"])
        .arg(path)
        .status();
    assert!(status.expect("ssh-keygen").success());
}

fn public(key: &Path) -> String {
    let text = fs::read_to_string(key.with_extension("pub")).expect("public key");
    let mut words = text.split_whitespace();
    format!(
        "{} {}",
        words.next().expect("kind"),
        words.next().expect("key")
    )
}

impl Sshd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let at = |name: &str| dir.path().join(name);
        keygen(&at("host_ed25519"), "ed25519");
        keygen(&at("host_ecdsa"), "ecdsa");
        keygen(&at("user"), "ed25519");
        keygen(&at("stranger"), "ed25519");
        fs::write(at("authorized_keys"), public(&at("user"))).expect("write");
        // Where sshd as root separates its privileges; Debian's unit makes it.
        let _ = fs::create_dir_all("/run/sshd");
        let free = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nMaxStartups 50\n",
            at("host_ed25519").display(),
            at("host_ecdsa").display(),
            at("authorized_keys").display(),
        );
        fs::write(at("sshd_config"), config).expect("write");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd: apt-get install openssh-server");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "sshd doesn't listen");
            thread::sleep(Duration::from_millis(10));
        }
        let sshd = Self { child, dir, port };
        sshd.knows("host_ed25519");
        sshd
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes known_hosts hold just this key for us.
    fn knows(&self, key: &str) {
        let line = format!("[127.0.0.1]:{} {}\n", self.port, public(&self.at(key)));
        fs::write(self.at("known_hosts"), line).expect("write");
    }

    fn address(&self) -> Address {
        Address {
            host: "127.0.0.1".into(),
            port: Some(self.port),
        }
    }

    fn login(&self) -> Ssh {
        let user = Command::new("id").arg("-un").output().expect("id").stdout;
        Ssh {
            user: String::from_utf8(user).expect("text").trim().to_owned(),
            key: Some(self.at("user")),
            known_hosts: self.at("known_hosts"),
            timeout: Duration::from_secs(20),
            jump: None,
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_arrive_as_they_are_and_tell_how_they_ended() {
    let sshd = Sshd::start();
    let mut out = Vec::new();
    let words = ["printf", "%s|", "a b", "$(id)", "it's", "x;y", "ünï\ncode"];
    let status = sshd
        .login()
        .run(&sshd.address(), &words, &mut out)
        .expect("run");
    assert_eq!(status, 0);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "a b|$(id)|it's|x;y|ünï\ncode|"
    );
    let mut out = Vec::new();
    let words = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    let status = sshd
        .login()
        .run(&sshd.address(), &words, &mut out)
        .expect("run");
    assert_eq!(
        (status, String::from_utf8_lossy(&out).as_ref()),
        (3, "out\nerr\n")
    );
}

#[test]
fn hosts_that_are_not_who_they_should_be_are_refused() {
    let sshd = Sshd::start();
    let reach = || sshd.login().session(&sshd.address()).map(drop);
    reach().expect("known by its first key");
    sshd.knows("host_ecdsa");
    reach().expect("known by its other kind of key");
    sshd.knows("stranger");
    assert!(matches!(reach(), Err(SshError::ChangedKey { .. })));
    fs::write(sshd.at("known_hosts"), "").expect("write");
    assert!(matches!(reach(), Err(SshError::UnknownHost { .. })));
    fs::remove_file(sshd.at("known_hosts")).expect("remove");
    assert!(matches!(reach(), Err(SshError::UnknownHost { .. })));
    sshd.knows("host_ed25519");
    let mut stranger = sshd.login();
    stranger.key = Some(sshd.at("stranger"));
    let denied = stranger.session(&sshd.address()).map(drop);
    assert!(matches!(denied, Err(SshError::Denied { .. })), "{denied:?}");
}

/// A server that sends back what it got, in upper case, once the client has said all.
fn shouter() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).expect("read");
                bytes.make_ascii_uppercase();
                stream.write_all(&bytes).expect("write");
            });
        }
    });
    Address {
        host: "127.0.0.1".into(),
        port: Some(port),
    }
}

#[test]
fn a_tunnel_carries_several_connections_both_ways() {
    let sshd = Sshd::start();
    let tunnel = Tunnel::open(&sshd.login(), &sshd.address(), shouter()).expect("tunnel");
    let talk = |letter: u8| {
        let local = tunnel.local();
        thread::spawn(move || {
            let mut stream = TcpStream::connect(local).expect("connect");
            let sent = vec![letter; 3 << 20];
            stream.write_all(&sent).expect("write");
            stream.shutdown(Shutdown::Write).expect("end");
            let mut got = Vec::new();
            stream.read_to_end(&mut got).expect("read");
            assert!(
                got == sent.to_ascii_uppercase(),
                "{} bytes came back",
                got.len()
            );
        })
    };
    let talks: Vec<_> = [b'a', b'b', b'c'].map(talk).into();
    for talk in talks {
        talk.join().expect("all came back");
    }
}

#[test]
fn a_tunnel_to_nowhere_is_refused_at_once() {
    let sshd = Sshd::start();
    let free = TcpListener::bind("127.0.0.1:0").expect("port");
    let nowhere = Address {
        host: "127.0.0.1".into(),
        port: Some(free.local_addr().expect("address").port()),
    };
    drop(free);
    assert!(Tunnel::open(&sshd.login(), &sshd.address(), nowhere).is_err());
}

#[test]
fn commands_run_through_another_host() {
    let sshd = Sshd::start();
    let mut ssh = sshd.login();
    ssh.jump = Some(sshd.address());
    let mut out = Vec::new();
    ssh.run(&sshd.address(), &["echo", "there"], &mut out)
        .expect("run");
    assert_eq!(out, b"there\n");
}

#[test]
fn the_systems_ssh_goes_through_another_host_by_the_same_options() {
    let sshd = Sshd::start();
    let mut ssh = sshd.login();
    ssh.jump = Some(sshd.address());
    let there = |ssh: &Ssh| {
        let mut program = ssh.program(&sshd.address(), false);
        program
            .args(["echo", "there"])
            .stdin(Stdio::null())
            .output()
    };
    let ran = there(&ssh).expect("ssh");
    assert_eq!(ran.stdout, b"there\n", "{ran:?}");
    // The jump host is not known by any other file.
    fs::write(sshd.at("known_hosts"), "").expect("write");
    let ran = there(&ssh).expect("ssh");
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("Host key verification failed"), "{said}");
    assert_eq!(ran.stdout, b"");
}

/// An etcd of our own on loopback.
struct Etcd {
    child: Child,
    url: String,
    /// Where its data lies, until it is dropped.
    _dir: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let free = || TcpListener::bind("127.0.0.1:0").expect("port");
        let urls = [free(), free()].map(|l| format!("http://{}", l.local_addr().expect("address")));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args([
                "--listen-client-urls",
                &urls[0],
                "--advertise-client-urls",
                &urls[0],
            ])
            .args([
                "--listen-peer-urls",
                &urls[1],
                "--initial-advertise-peer-urls",
                &urls[1],
            ])
            .args(["--initial-cluster", &format!("default={}", urls[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd: apt-get install etcd-server");
        let [url, _] = urls;
        Self {
            child,
            url,
            _dir: dir,
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn etcd_is_reached_through_a_tunnel() {
    let (sshd, etcd) = (Sshd::start(), Etcd::start());
    let mut ssh = sshd.login();
    ssh.jump = Some(sshd.address());
    let context = Context {
        cluster_key: None,
        label: "test".into(),
        etcd: EtcdOptions {
            endpoints: vec![etcd.url.clone()],
            tls: None,
        },
        ssh,
        netns: None,
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let connection = loop {
        match context.connect().await {
            Ok(connection) => break connection,
            Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
        }
    };
    let key = keys::platform("domain");
    let txn = Txn::new().put(&key, &"localhost".to_owned());
    connection.store.commit(txn).await.expect("commit");
    let found = connection.store.get(&key).await.expect("get");
    assert_eq!(found.map(|found| found.value).as_deref(), Some("localhost"));
}
