//! The program `deis` itself: exit codes, pipes, plugins, and what it gives to shells and to man.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

/// `deis` at home in an empty directory.
fn deis(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deis"));
    command
        .args(args)
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", home.display()))
        .stdin(Stdio::null());
    command
}

fn run(home: &Path, args: &[&str]) -> (i32, String, String) {
    let output = deis(home, args).output().expect("deis");
    seen(&output)
}

fn seen(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let code = output.status.code().expect("exit code");
    (code, text(&output.stdout), text(&output.stderr))
}

fn script(folder: &Path, name: &str, text: &str, mode: u32) {
    let file = folder.join(name);
    fs::write(&file, text).expect("script");
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("mode");
}

/// Whether a program is installed; says so if a part of a test is left out.
fn has(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("left out: {program} is not installed");
    }
    found
}

#[test]
fn exit_codes() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let (code, out, err) = run(home, &["version"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().count(), 1);
    let (code, out, err) = run(home, &["apps"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "Error: Not logged in. Use 'deis login' or 'deis register' to get started.\n"
    );
    let (code, out, err) = run(home, &["config:sett"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("Did you mean config:set?"), "{err}");
    let (code, out, err) = run(home, &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("Usage: deis <command>"), "{err}");
    let (code, out, _) = run(home, &["help", "scale"]);
    assert_eq!(code, 0);
    assert!(out.contains("Usage: deis ps:scale"), "{out}");
    let homeless = deis(home, &["apps"])
        .env_remove("HOME")
        .output()
        .expect("deis");
    let (code, _, err) = seen(&homeless);
    assert_eq!(code, 1);
    assert!(err.starts_with("Error: $HOME is not set"), "{err}");
    let homeless = deis(home, &["help"]).env_remove("HOME").output();
    assert_eq!(seen(&homeless.expect("deis")).0, 0);
}

#[test]
fn pipes() {
    let home = tempfile::tempdir().expect("home");
    // The reader is gone before a byte is written.
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let output = deis(home.path(), &["help"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("deis");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let full = fs::File::create("/dev/full").expect("/dev/full");
    let output = deis(home.path(), &["help"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("deis");
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("Error: can't write the output: "), "{err}");
}

#[test]
fn plugins() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let text = "#!/bin/sh\necho \"$#: $*\" profile=$DEIS_PROFILE\nexit 7\n";
    script(home, "deis-accounts", text, 0o755);
    let ran = |args: &[&str]| {
        let (code, out, err) = run(home, args);
        assert_eq!((code, err.as_str()), (7, ""), "{args:?}: {out}");
        out
    };
    assert_eq!(ran(&["accounts"]), "0:  profile=client\n");
    assert_eq!(
        ran(&["accounts:list", "--debug", "a b"]),
        "3: list --debug a b profile=client\n"
    );
    assert_eq!(ran(&["accounts", "--help"]), "1: --help profile=client\n");
    // Our own commands can't be taken over, nor what is no program run.
    script(home, "deis-config", text, 0o755);
    script(home, "deis-notes", text, 0o644);
    for args in [["config:foo"], ["notes"], ["../deis-accounts"]] {
        let (code, out, err) = run(home, &args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains("is no command"), "{err}");
    }
}

#[test]
fn scripts_that_complete() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    for shell in ["bash", "zsh", "fish"] {
        let (code, text, _) = run(home, &["completion", shell]);
        assert_eq!(code, 0);
        fs::write(home.join(shell), text).expect("script");
        if has(shell) {
            let checked = Command::new(shell)
                .arg("-n")
                .arg(home.join(shell))
                .output()
                .expect(shell);
            assert_eq!(seen(&checked), (0, String::new(), String::new()), "{shell}");
        }
    }
}

/// What bash puts on the line, word by word as readline hands it over: it takes words apart at `:` and
/// at `=`.
#[test]
fn completion_in_bash() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let (_, text, _) = run(home, &["completion", "bash"]);
    fs::write(home.join("deis.bash"), text).expect("script");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_deis"), home.join("deis")).expect("link");
    let cases = [
        ("deis sca", "sca", "scale"),
        ("deis config:uns", "uns", "unset"),
        ("deis config:", ":", "list pull push set unset"),
        ("deis apps --output=j", "j", "json"),
        ("deis apps --output=", "=", "text json"),
        ("deis completion ", "", "bash zsh fish"),
    ];
    for (line, fragment, want) in cases {
        let code = format!(
            "source ./deis.bash; COMP_LINE='{line}' COMP_POINT={}; _deis deis '{fragment}'; echo \"${{COMPREPLY[*]}}\"",
            line.len()
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &code])
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .env("PATH", format!("{}:/usr/bin:/bin", home.display()))
            .output()
            .expect("bash");
        let (code, out, err) = seen(&output);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert_eq!(out.trim_end(), want, "{line}");
    }
}

#[test]
fn completion_in_fish() {
    if !has("fish") {
        return;
    }
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let (_, text, _) = run(home, &["completion", "fish"]);
    fs::write(home.join("deis.fish"), text).expect("script");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_deis"), home.join("deis")).expect("link");
    let output = Command::new("fish")
        .args([
            "--no-config",
            "-c",
            "source deis.fish; complete -C 'deis config:uns'",
        ])
        .current_dir(home)
        .env("HOME", home)
        .env("PATH", format!("{}:/usr/bin:/bin", home.display()))
        .output()
        .expect("fish");
    let (_, out, _) = seen(&output);
    assert_eq!(
        out,
        "config:unset\tRemove config variables, and deploy the app without them\n"
    );
}

#[test]
fn manual_pages() {
    let home = tempfile::tempdir().expect("home");
    let home = home.path();
    let (code, out, _) = run(home, &["man", "--dir", "man1"]);
    assert_eq!(code, 0, "{out}");
    let pages: Vec<_> = fs::read_dir(home.join("man1"))
        .expect("pages")
        .map(|entry| entry.expect("page").path())
        .collect();
    assert!(pages.iter().any(|page| page.ends_with("deis.1")));
    assert!(pages.iter().any(|page| page.ends_with("deis-config-set.1")));
    let set = fs::read_to_string(home.join("man1/deis-config-set.1")).expect("page");
    assert!(
        set.contains("EXAMPLES") && set.contains("deis config:set"),
        "{set}"
    );
    if has("mandoc") {
        let checked = Command::new("mandoc")
            .args(["-T", "lint", "-W", "error"])
            .args(&pages)
            .output()
            .expect("mandoc");
        let (code, out, _) = seen(&checked);
        assert_eq!((code, out.as_str()), (0, ""));
    }
}

#[test]
fn ctrl_c_ends_it() {
    let home = tempfile::tempdir().expect("home");
    // A controller that never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let controller = listener.local_addr().expect("address").to_string();
    let mut child = deis(home.path(), &["login", &controller])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("deis");
    // It waits for an answer once it has come in.
    let (_socket, _) = listener.accept().expect("connection");
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status();
    assert!(killed.expect("kill").success());
    // Killed by the signal, a shell says 130.
    assert_eq!(child.wait().expect("end").signal(), Some(2));
}
