//! Pure: an image's name as users write it (`nginx`, `quay.io/x/y:1`, `host:5000/app@sha256:…`), with
//! docker's defaults, and the parts of the platform that nobody deploys as an app.

use std::{fmt, str::FromStr};

use oci_client::Reference;

/// Longest name, in bytes: as much as a build's record of Deis v1 held.
const MAX_LENGTH: usize = 256;
/// What a name without a registry means.
const HUB: &str = "docker.io";
/// Where that registry really answers.
const HUB_HOST: &str = "registry-1.docker.io";
/// Images of Deis v1's own parts: deploying one as an app would be a mistake or worse.
const PARTS: &[&str] = &[
    "builder",
    "cache",
    "controller",
    "database",
    "logger",
    "logspout",
    "publisher",
    "registry",
    "router",
];

/// Why a text is no image's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnImage {
    /// Too long.
    #[error("Ensure this field has no more than {MAX_LENGTH} characters.")]
    TooLong,
    /// It does not look like one.
    #[error(
        "That is no name of an image; one looks like nginx, nginx:1.27 or registry.example.com/team/app:v3."
    )]
    Form,
    /// A digest that nobody can check.
    #[error("Only sha256 digests are understood.")]
    Digest,
}

/// A parsed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    text: String,
    reference: Reference,
}

impl FromStr for ImageName {
    type Err = NotAnImage;

    fn from_str(text: &str) -> Result<Self, NotAnImage> {
        if text.len() > MAX_LENGTH {
            return Err(NotAnImage::TooLong);
        }
        let reference: Reference = text.parse().map_err(|_| NotAnImage::Form)?;
        // It becomes a part of URLs: nothing but what a name is made of gets through.
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
        if !text.chars().all(plain) {
            return Err(NotAnImage::Form);
        }
        let sha256 = |digest: &str| {
            digest
                .strip_prefix("sha256:")
                .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        match reference.digest() {
            Some(digest) if !sha256(digest) => Err(NotAnImage::Digest),
            _ => Ok(Self {
                text: text.to_owned(),
                reference,
            }),
        }
    }
}

impl fmt::Display for ImageName {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ImageName {
    /// Host and maybe port of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        match self.reference.registry() {
            HUB => HUB_HOST,
            other => other,
        }
    }

    /// The repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// What is asked for: a digest, else a tag.
    #[must_use]
    pub fn wanted(&self) -> &str {
        self.reference
            .digest()
            .or(self.reference.tag())
            .unwrap_or("latest")
    }

    /// The repository's last two parts, when they name a part of the platform: `deis/controller`.
    #[must_use]
    pub fn part_of_the_platform(&self) -> Option<String> {
        let mut parts = self.repository().rsplit('/');
        let (image, owner) = (parts.next()?, parts.next()?);
        let ours = owner == "deis" && (PARTS.contains(&image) || image.starts_with("store-"));
        ours.then(|| format!("deis/{image}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ImageName {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn defaults_are_dockers() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("nginx@{digest}");
        let both = format!("host:5000/a/b:1@{digest}");
        for (text, registry, repository, wanted) in [
            ("nginx", HUB_HOST, "library/nginx", "latest"),
            ("nginx:1.27", HUB_HOST, "library/nginx", "1.27"),
            ("docker.io/nginx", HUB_HOST, "library/nginx", "latest"),
            ("index.docker.io/a/b", HUB_HOST, "a/b", "latest"),
            ("deis/example-go", HUB_HOST, "deis/example-go", "latest"),
            ("quay.io/a/b:v1", "quay.io", "a/b", "v1"),
            ("localhost:5000/x", "localhost:5000", "x", "latest"),
            ("10.0.0.9:5000/x/y", "10.0.0.9:5000", "x/y", "latest"),
            (&pinned, HUB_HOST, "library/nginx", &digest),
            (&both, "host:5000", "a/b", &digest),
        ] {
            let name = parse(text);
            assert_eq!(
                (name.registry(), name.repository(), name.wanted()),
                (registry, repository, wanted),
                "{text}"
            );
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            " ",
            "a b",
            "../etc",
            "a//b",
            "/a",
            "a:",
            "a@sha256:00",
            "a/UPPER",
            "a\nb",
            "http://a/b",
            "a?b",
            "a/b#c",
            "a;id",
            "-a",
            "--tls-verify=false",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(300).parse::<ImageName>().is_err());
    }

    #[test]
    fn parts_of_the_platform() {
        for (text, ours) in [
            ("deis/controller", true),
            ("deis/controller:v1.13.4", true),
            ("docker.io/deis/store-monitor", true),
            ("quay.io/deis/router", true),
            ("host:5000/mirror/deis/logger", true),
            ("deis/example-go", false),
            ("deis/controllers", false),
            ("mydeis/controller", false),
            ("controller", false),
        ] {
            assert_eq!(parse(text).part_of_the_platform().is_some(), ours, "{text}");
        }
    }
}
