//! The git remote that leads to an app.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, anyhow, bail};

use crate::model::AppName;

/// Where to push an app to.
pub fn url(host: &str, app: &AppName) -> String {
    format!("ssh://git@{host}:2222/{app}.git")
}

fn git(folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .context("can't run git; is it installed?")
}

/// The remotes of a folder's repository, as `(name, url)`; none outside of a repository.
fn remotes(folder: &Path) -> Vec<(String, String)> {
    let Ok(output) = git(folder, &["remote", "-v"]) else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect()
}

/// The app that a remote's URL names, if it leads to that host.
fn app_of(url: &str, host: &str) -> Option<AppName> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.split_once('/')?;
    let name = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    if !name.eq_ignore_ascii_case(host) {
        return None;
    }
    path.strip_suffix(".git").unwrap_or(path).parse().ok()
}

/// An app that nobody has named.
pub struct Found {
    /// Which.
    pub app: AppName,
    /// How it was found, if that was a guess.
    pub guess: Option<String>,
}

/// The app that a folder belongs to: by its remotes, else by its own name, as in v1.
pub fn app(folder: &Path, host: &str) -> anyhow::Result<Found> {
    let mut remotes = remotes(folder).into_iter();
    if let Some(app) = remotes.find_map(|(_, url)| app_of(&url, host)) {
        return Ok(Found { app, guess: None });
    }
    let app: AppName = folder
        .file_name()
        .and_then(|name| name.to_string_lossy().to_lowercase().parse().ok())
        .ok_or_else(|| anyhow!("can't tell which app is meant: no git remote here leads to {host}; name it with --app"))?;
    let guess = format!(
        "no git remote here leads to {host}, so this directory's name, {app}, was taken for the app's; name the app with --app"
    );
    let guess = Some(guess);
    Ok(Found { app, guess })
}

/// The names of a folder's remotes.
pub fn remote_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = remotes(folder).into_iter().map(|(name, _)| name).collect();
    names.dedup();
    names
}

/// Whether a folder lies in a git repository.
pub fn is_repository(folder: &Path) -> bool {
    git(folder, &["rev-parse", "--git-dir"]).is_ok_and(|output| output.status.success())
}

/// Adds a remote. One of that name that leads there already is as good.
pub fn add(folder: &Path, remote: &str, host: &str, app: &AppName) -> anyhow::Result<()> {
    let url = url(host, app);
    if let Some((_, there)) = remotes(folder).into_iter().find(|(name, _)| name == remote) {
        if there == url {
            return Ok(());
        }
        bail!(
            "a git remote {remote} exists already and leads to {there}.\n\
             To make it lead to {app}: git remote set-url {remote} {url}"
        );
    }
    // Without `--` a name such as `--mirror` would be an option.
    let output = git(folder, &["remote", "add", "--", remote, &url])?;
    if !output.status.success() {
        bail!(
            "can't add the git remote {remote}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Removes the remotes that lead to an app; their names.
pub fn remove(folder: &Path, host: &str, app: &AppName) -> Vec<String> {
    let mut names: Vec<String> = remotes(folder)
        .into_iter()
        .filter(|(_, url)| app_of(url, host).as_ref() == Some(app))
        .map(|(name, _)| name)
        .collect();
    names.dedup();
    names.retain(|name| {
        git(folder, &["remote", "remove", "--", name]).is_ok_and(|output| output.status.success())
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_that_lead_to_an_app() {
        let host = "deis.localhost";
        let cases = [
            ("ssh://git@deis.localhost:2222/blog.git", Some("blog")),
            ("ssh://git@DEIS.localhost:2222/blog", Some("blog")),
            ("ssh://git@deis.localhost/blog.git", Some("blog")),
            ("ssh://git@deis.localhost.evil:2222/blog.git", None),
            ("ssh://git@other:2222/blog.git", None),
            ("git@deis.localhost:blog.git", None),
            ("/srv/blog.git", None),
        ];
        for (url, want) in cases {
            let got = app_of(url, host);
            assert_eq!(got.as_ref().map(AppName::as_str), want, "{url}");
        }
    }
}
