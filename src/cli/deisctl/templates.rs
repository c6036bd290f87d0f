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
