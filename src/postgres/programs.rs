//! Where PostgreSQL's programs are, and of which major version.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::command::{prepared, run_well};
use super::error::Error;
use super::settings::InstanceSettings;
use crate::model::Span;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    pub bin_dir: PathBuf,
    pub major: u32,
}

const SUPPORTED: std::ops::RangeInclusive<u32> = 13..=18;

impl Programs {
    /// Those that fit the data directory; the newest installed ones where there is none yet.
    pub async fn of(settings: &InstanceSettings) -> Result<Programs, Error> {
        let data = data_major(&settings.data_dir);
        let bin_dir = match &settings.bin_dir {
            Some(bin_dir) => bin_dir.clone(),
            None => find_bin_dir(data)?,
        };
        let major = match data {
            Some(major) => major,
            None => program_major(settings, &bin_dir).await?,
        };
        if !SUPPORTED.contains(&major) {
            let what = format!("use PostgreSQL {major} of {}", bin_dir.display());
            return Err(Error::refused(what, "versions 13 to 18 are supported"));
        }
        Ok(Programs { bin_dir, major })
    }

    pub(super) fn command(&self, settings: &InstanceSettings, program: &str) -> Result<Command, Error> {
        Ok(prepared(self.path(settings, program), settings.identity()?))
    }

    pub(super) fn path(&self, settings: &InstanceSettings, program: &str) -> PathBuf {
        path_of(settings, &self.bin_dir, program)
    }

    /// For programs whose words we read.
    pub(super) fn plain_command(&self, settings: &InstanceSettings, program: &str) -> Result<Command, Error> {
        let mut command = self.command(settings, program)?;
        command.env("LC_ALL", "C");
        Ok(command)
    }
}

fn path_of(settings: &InstanceSettings, bin_dir: &Path, program: &str) -> PathBuf {
    bin_dir.join(settings.bin_names.get(program).map_or(program, String::as_str))
}

/// The installed major versions with their programs, by Debian's and PGDG's layouts, newest last.
pub fn installed_majors() -> Vec<(u32, PathBuf)> {
    let mut found: Vec<(u32, PathBuf)> = (SUPPORTED)
        .flat_map(|major| {
            let layouts = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
            layouts.map(|path| (major, PathBuf::from(path)))
        })
        .filter(|(_, path)| path.join("pg_ctl").exists())
        .collect();
    found.sort();
    found
}

/// What the data directory was made by.
pub(super) fn data_major(data_dir: &Path) -> Option<u32> {
    std::fs::read_to_string(data_dir.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// The programs for a data directory, where no setting names them.
pub fn programs_for(data_dir: &Path) -> Result<PathBuf, Error> {
    find_bin_dir(data_major(data_dir))
}

fn find_bin_dir(wanted: Option<u32>) -> Result<PathBuf, Error> {
    let installed = installed_majors();
    let found = match wanted {
        Some(major) => installed.into_iter().find(|(candidate, _)| *candidate == major),
        None => installed.into_iter().next_back(),
    };
    if let Some((_, path)) = found {
        return Ok(path);
    }
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|directory| directory.join("pg_ctl").exists()));
    on_path.ok_or_else(|| {
        let version = wanted.map_or_else(String::new, |major| format!(" {major}"));
        Error::refused(
            format!("find the programs of PostgreSQL{version}"),
            "there are none in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin and PATH; set bin_dir",
        )
    })
}

async fn program_major(settings: &InstanceSettings, bin_dir: &Path) -> Result<u32, Error> {
    let postgres = path_of(settings, bin_dir, "postgres");
    let mut command = prepared(&postgres, settings.identity()?);
    command.arg("--version");
    let what = format!("ask {} for its version", postgres.display());
    let said = run_well(&what, command, Span::from_secs(30)).await?;
    parse_version(&said).ok_or_else(|| Error::failed(what, format!("{:?} names none", said.trim())))
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`; a development version says `19devel`.
fn parse_version(said: &str) -> Option<u32> {
    let version = said.split_once(')')?.1.trim_start();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_program_says() {
        for (said, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres", None),
            ("postgres (EnterpriseDB) x", None),
        ] {
            assert_eq!(parse_version(said), major, "{said}");
        }
    }
}
