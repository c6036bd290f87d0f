//! Where unit templates come from.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{
    failure::{Failure, Kind},
    platform::Part,
};

/// Where templates are looked for, in this order, when nobody says where.
const PLACES: [&str; 2] = ["/opt/deis/units", "units"];

/// A directory with the units of the platform.
#[derive(Debug, Clone)]
pub struct Templates {
    dir: PathBuf,
}

impl Templates {
    /// The directory that was asked for, or the first place that has the platform's units.
    ///
    /// # Errors
    /// When no place has them.
    pub fn find(asked: Option<&Path>) -> Result<Self, Failure> {
        let places: Vec<PathBuf> = match asked {
            Some(dir) => vec![dir.to_owned()],
            None => PLACES.iter().map(PathBuf::from).collect(),
        };
        let has_units = |dir: &&PathBuf| dir.join(Part::Controller.template()).is_file();
        match places.iter().find(has_units) {
            Some(dir) => Ok(Self { dir: dir.clone() }),
            None => {
                let tried: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
                Err(Failure::new(
                    Kind::NotFound,
                    format!(
                        "no unit files of the platform: {} is not in {}",
                        Part::Controller.template(),
                        tried.join(" or ")
                    ),
                )
                .hint("run from a checkout, or name the directory by --units or DEISCTL_UNITS"))
            }
        }
    }

    /// The text of a part's unit.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, part: Part) -> anyhow::Result<String> {
        let path = self.dir.join(part.template());
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("can't read the unit of {part}, {}", path.display()))?;
        if !text.lines().any(|line| line.trim() == "[Service]") {
            return Err(Failure::new(
                Kind::Refused,
                format!("{} has no [Service] section", path.display()),
            )
            .into());
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a key in a section of a unit.
    fn values<'t>(unit: &'t str, section: &str, key: &str) -> Vec<&'t str> {
        let mut here = false;
        let mut found = Vec::new();
        for line in unit.lines().map(str::trim) {
            if line.starts_with('[') {
                here = line == format!("[{section}]");
            } else if let Some((name, value)) = line.split_once('=')
                && here
                && name == key
            {
                found.push(value);
            }
        }
        found
    }

    #[test]
    fn the_units_of_all_parts_agree() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
        let units = Templates::find(Some(&dir)).expect("units");
        for part in Part::ALL {
            let text = units.read(part).expect("a unit");
            let start = format!("/opt/deis/bin/deisd {part} --settings /etc/deis/host.yaml");
            let conflicts = format!("deis-{part}@*.service");
            for (section, key, want) in [
                ("Service", "ExecStart", start.as_str()),
                ("Service", "Type", "notify"),
                ("Service", "Restart", "always"),
                ("X-Fleet", "Conflicts", conflicts.as_str()),
            ] {
                assert_eq!(
                    values(&text, section, key),
                    [want],
                    "{part}: [{section}] {key}"
                );
            }
        }
    }

    #[test]
    fn a_directory_without_units_is_refused() {
        let empty = tempfile::tempdir().expect("dir");
        let error = Templates::find(Some(empty.path())).expect_err("empty");
        assert!(
            error.to_string().contains("deis-controller@.service"),
            "{error}"
        );
    }
}
