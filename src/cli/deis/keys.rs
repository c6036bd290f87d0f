//! `keys:*`

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::{Shell, args};
use crate::{
    api::{
        ssh_key::{self, PublicKey},
        wire,
    },
    model::KeyName,
};

/// `deis keys:add`
#[derive(Debug, Args)]
pub struct Add {
    /// File of the public key; else you are asked which of ~/.ssh
    pub file: Option<PathBuf>,
}

/// `deis keys:remove`
#[derive(Debug, Args)]
pub struct Remove {
    /// Name of the key, as keys:list shows it
    pub id: String,
}

/// `keys:list`
pub async fn list(shell: &mut Shell<'_>, args: args::List) -> anyhow::Result<()> {
    let session = shell.session()?;
    let limit = session.profile.limit(args.limit);
    let page: wire::Page<wire::Key> = session.client.page(&["keys"], limit).await?;
    let heading = format!("{} Keys", session.profile.username);
    shell.ui.list(&heading, &page, |ui, keys| {
        for key in keys {
            ui.line(&format!("{} {}", key.id, short(&key.public)));
        }
    });
    Ok(())
}

/// A key in short: its first 16 and last 10 characters.
fn short(public: &str) -> String {
    let chars: Vec<char> = public.chars().collect();
    if chars.len() <= 26 {
        return public.to_owned();
    }
    let head: String = chars[..16].iter().collect();
    let tail: String = chars[chars.len() - 10..].iter().collect();
    format!("{head}...{tail}")
}

/// `keys:add`
pub async fn add(shell: &mut Shell<'_>, args: Add) -> anyhow::Result<()> {
    let session = shell.session()?;
    let file = match args.file {
        Some(file) => shell.env.cwd.join(file),
        None => choose(shell)?,
    };
    let (id, key) = read(&file)?;
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let doing = format!("Uploading {name} to deis...");
    let body = json!({ "id": id, "public": key.line });
    let work = session.client.post(&["keys"], body);
    let key: wire::Key = shell.ui.step(&doing, work).await?.json()?;
    shell.ui.show(&key, |ui| ui.line(" done"));
    Ok(())
}

/// Reads a public key's file. The key is called by its comment, else by the file's name.
fn read(file: &Path) -> anyhow::Result<(KeyName, PublicKey)> {
    let text =
        fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let key =
        ssh_key::parse(&text).with_context(|| format!("{} holds no public key", file.display()))?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let id = key.comment.parse().or_else(|_| stem.parse());
    let id = id.with_context(|| format!("{} gives the key no usable name", file.display()))?;
    Ok((id, key))
}

/// Asks which of the keys in ~/.ssh.
fn choose(shell: &mut Shell<'_>) -> anyhow::Result<PathBuf> {
    let folder = shell.env.home()?.join(".ssh");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|file| file.extension().is_some_and(|e| e == "pub"));
    files.sort();
    let mut keys: Vec<(PathBuf, KeyName)> = files
        .into_iter()
        .filter_map(|file| Some((read(&file).ok()?.0, file)))
        .map(|(id, file)| (file, id))
        .collect();
    if keys.is_empty() {
        bail!(
            "no public key in {}; make one with `ssh-keygen -t ed25519`, or say which file: deis keys:add <file>",
            folder.display()
        );
    }
    shell.ui.line("Found the following SSH public keys:");
    for (at, (file, id)) in keys.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        shell.ui.line(&format!("{}) {name} {id}", at + 1));
    }
    shell
        .ui
        .line("0) Enter path to pubfile (or use keys:add <key_path>)");
    let answer = shell.ui.ask("Which would you like to use with Deis? ")?;
    match answer.trim().parse::<usize>() {
        Ok(0) => {
            let path = shell.ui.ask("Enter the path to the pubkey file: ")?;
            Ok(shell.env.cwd.join(path))
        }
        Ok(at) if at <= keys.len() => Ok(keys.swap_remove(at - 1).0),
        _ => bail!("{answer:?} is none of them"),
    }
}

/// `keys:remove`
pub async fn remove(shell: &mut Shell<'_>, args: Remove) -> anyhow::Result<()> {
    let session = shell.session()?;
    let doing = format!("Removing {} SSH Key...", args.id);
    let path = ["keys", &args.id];
    shell
        .ui
        .step(&doing, session.client.delete(&path, None))
        .await?;
    shell.ui.line(" done");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_key_in_short() {
        assert_eq!(
            super::short("ssh-rsa AAAAB3NzaC1yc2EAAAA ada@lovelace"),
            "ssh-rsa AAAAB3Nz...a@lovelace"
        );
        assert_eq!(super::short("short"), "short");
    }
}
