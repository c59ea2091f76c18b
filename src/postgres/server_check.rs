//! Asking PostgreSQL whether it would start with a configuration file, before it has to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::command::{last_lines, run};
use super::error::Error;
use super::programs::Programs;
use super::settings::InstanceSettings;
use crate::model::Span;

const PATIENCE: Span = Span::from_secs(30);

/// Those of the removable parameters that this PostgreSQL does not take, with its reasons. None are left when all is
/// well; what nobody may remove is an error.
pub(super) async fn refused_parameters(
    settings: &InstanceSettings,
    programs: &Programs,
    candidate: &Path,
    removable: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, String>, Error> {
    let what = format!("check the parameters of {}", settings.data_dir.display());
    let mut command = programs.plain_command(settings, "postgres")?;
    command.arg("-D").arg(&settings.data_dir).args(["-C", "data_directory"]);
    command.arg("-c").arg(format!("config_file={}", candidate.display()));
    let outcome = run(&what, command, PATIENCE).await?;
    if outcome.status.success() {
        return Ok(BTreeMap::new());
    }
    let refused = named_in(&outcome.stderr, &removable.map(String::as_str).collect());
    if refused.is_empty() {
        return Err(Error::refused(what, last_lines(&outcome.stderr, 6)));
    }
    Ok(refused)
}

/// PostgreSQL names them as `parameter "name"`, one to a line.
fn named_in(complaints: &str, removable: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let named = complaints.lines().filter_map(|line| {
        let after = line.split_once("parameter \"")?.1;
        let name = after.split_once('"')?.0;
        let why = line.split_once(": ").map_or(line, |(_, why)| why).trim();
        removable.contains(name).then(|| (name.to_owned(), why.to_owned()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_names_is_found() {
        let said = "\
2026-11-21 05:26:05.123 UTC [12] LOG:  unrecognized configuration parameter \"fooo\" in file \"/x\" line 7
2026-11-21 05:26:05.123 UTC [12] LOG:  invalid value for parameter \"work_mem\": \"a lot\"
2026-11-21 05:26:05.123 UTC [12] LOG:  -1 is outside the valid range for parameter \"port\" (1 .. 65535)
2026-11-21 05:26:05.123 UTC [12] FATAL:  configuration file \"/x\" contains errors
";
        let refused = named_in(said, &BTreeSet::from(["fooo", "work_mem"]));
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["fooo", "work_mem"]);
        assert!(refused["work_mem"].starts_with("invalid value"), "{refused:?}");
    }
}
