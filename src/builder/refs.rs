//! Which refs of a push are built, which are only stored, and which are refused.

use std::fmt;

/// A git object's id: 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha(String);

/// Not an object's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no git object's id")]
pub struct InvalidSha(String);

impl TryFrom<String> for Sha {
    type Error = InvalidSha;
    fn try_from(text: String) -> Result<Self, InvalidSha> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() == 40 && text.bytes().all(hex) {
            Ok(Self(text))
        } else {
            Err(InvalidSha(text.chars().take(80).collect()))
        }
    }
}

impl From<Sha> for String {
    fn from(sha: Sha) -> Self {
        sha.0
    }
}

impl Sha {
    /// All 40 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..8]
    }

    /// git's way to say "nothing".
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|c| c == b'0')
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of a pre-receive hook's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// What the ref pointed to.
    pub old: Sha,
    /// What it shall point to.
    pub new: Sha,
    /// Its full name.
    pub name: String,
}

/// What is to be done with a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Build this commit.
    Build {
        /// `main` or `master`.
        branch: &'static str,
        /// The commit.
        sha: Sha,
        /// Other refs of the same push, stored without a build.
        stored: Vec<String>,
    },
    /// Store the refs; there is nothing to build.
    Store {
        /// Their names.
        stored: Vec<String>,
    },
}

/// Why a push is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefsError {
    /// No pre-receive line.
    #[error("git told the hook nonsense: {0:?}")]
    Line(String),
    /// `git push deis :main`
    #[error(
        "{0} can't be deleted here: what was deployed stays on record. \
         `deis apps:destroy` removes an app"
    )]
    Delete(String),
    /// Two branches that are both deployed.
    #[error("main and master were pushed at once; which one is to be deployed? Push one of them")]
    Both,
    /// Neither branch nor tag.
    #[error("{0:?} is neither a branch nor a tag; git push deis main deploys")]
    Namespace(String),
    /// Too many at once.
    #[error("{0} refs in one push are too many (at most 100); git push deis main deploys")]
    TooMany(usize),
}

/// Reads the hook's input.
///
/// # Errors
/// When a line is not `<old> <new> <ref>`.
pub fn parse(input: &str) -> Result<Vec<RefUpdate>, RefsError> {
    let line = |text: &str| {
        let mut words = text.splitn(3, ' ');
        let sha = |word: Option<&str>| Sha::try_from(word?.to_owned()).ok();
        Some(RefUpdate {
            old: sha(words.next())?,
            new: sha(words.next())?,
            name: words.next().filter(|name| !name.is_empty())?.to_owned(),
        })
    };
    let refused = |text: &str| RefsError::Line(text.chars().take(200).collect());
    input
        .lines()
        .map(|text| line(text).ok_or_else(|| refused(text)))
        .collect()
}

/// Decides about a push: main or master is built, other branches and tags are stored, as on Heroku.
///
/// # Errors
/// When it is to be refused.
pub fn decide(updates: &[RefUpdate]) -> Result<Decision, RefsError> {
    if updates.len() > 100 {
        return Err(RefsError::TooMany(updates.len()));
    }
    if let Some(update) = updates.iter().find(|update| update.new.is_zero()) {
        return Err(RefsError::Delete(printable(&update.name)));
    }
    let mut build = None;
    let mut stored = Vec::new();
    for update in updates {
        let branch = match update.name.as_str() {
            "refs/heads/main" => "main",
            "refs/heads/master" => "master",
            name if name.starts_with("refs/heads/") || name.starts_with("refs/tags/") => {
                stored.push(printable(name));
                continue;
            }
            name => return Err(RefsError::Namespace(printable(name))),
        };
        if build.replace((branch, update.new.clone())).is_some() {
            return Err(RefsError::Both);
        }
    }
    Ok(match build {
        Some((branch, sha)) => Decision::Build {
            branch,
            sha,
            stored,
        },
        None => Decision::Store { stored },
    })
}

/// A ref's name for a terminal: git allows escape sequences' characters above 0x7f only, but a
/// name is somebody else's text all the same.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "1111111111111111111111111111111111111111";
    const NEW: &str = "2222222222222222222222222222222222222222";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn decided(lines: &[(&str, &str)]) -> Result<Decision, RefsError> {
        let text: String = lines
            .iter()
            .map(|(new, name)| format!("{OLD} {new} {name}\n"))
            .collect();
        decide(&parse(&text)?)
    }

    #[test]
    fn rules() {
        let sha = Sha::try_from(NEW.to_owned()).expect("an id");
        let build = |branch, stored: &[&str]| {
            let stored = stored.iter().map(|name| (*name).to_owned()).collect();
            Ok(Decision::Build {
                branch,
                sha: sha.clone(),
                stored,
            })
        };
        let store = |name: &str| {
            Ok(Decision::Store {
                stored: vec![name.to_owned()],
            })
        };
        assert_eq!(decided(&[(NEW, "refs/heads/main")]), build("main", &[]));
        assert_eq!(decided(&[(NEW, "refs/heads/master")]), build("master", &[]));
        assert_eq!(
            decided(&[(NEW, "refs/heads/feature"), (NEW, "refs/heads/main")]),
            build("main", &["refs/heads/feature"])
        );
        assert_eq!(
            decided(&[(NEW, "refs/heads/x/main")]),
            store("refs/heads/x/main")
        );
        assert_eq!(decided(&[(NEW, "refs/tags/v1")]), store("refs/tags/v1"));
        assert_eq!(
            decided(&[(NEW, "refs/heads/a';id;'")]),
            store("refs/heads/a';id;'")
        );
        assert_eq!(
            decided(&[(ZERO, "refs/heads/main")]),
            Err(RefsError::Delete("refs/heads/main".into()))
        );
        assert_eq!(
            decided(&[(NEW, "refs/heads/main"), (NEW, "refs/heads/master")]),
            Err(RefsError::Both)
        );
        assert_eq!(
            decided(&[(NEW, "refs/deis/x")]),
            Err(RefsError::Namespace("refs/deis/x".into()))
        );
        assert!(matches!(
            decided(&vec![(NEW, "refs/tags/x"); 101]),
            Err(RefsError::TooMany(101))
        ));
    }

    #[test]
    fn lines_that_are_none() {
        for text in [
            "x",
            "a b c",
            &format!("{OLD} {NEW}"),
            &format!("{OLD} {NEW} "),
        ] {
            assert!(matches!(parse(text), Err(RefsError::Line(_))), "{text:?}");
        }
        assert_eq!(parse(""), Ok(vec![]));
    }
}
