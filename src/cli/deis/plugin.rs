//! Commands that are other programs: `deis accounts:list` runs `deis-accounts list`, if there is such
//! a program on the PATH and no such command of ours.

use std::{
    env,
    ffi::OsString,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use super::Env;

/// The program that stands in for a command.
pub fn find(name: &str) -> Option<PathBuf> {
    let program = format!("deis-{name}");
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(&program))
        .find(|file| {
            let meta = file.metadata();
            meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// Becomes that program: its exit code is ours. It finds the login where we do. Returns only if that
/// can't be.
pub fn become_it(program: PathBuf, arguments: Vec<OsString>, env: &Env) -> std::io::Error {
    Command::new(program)
        .args(arguments)
        .env("DEIS_PROFILE", &env.profile)
        .exec()
}
