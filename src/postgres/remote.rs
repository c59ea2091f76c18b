//! Asking another server, through psql: libpq knows every way of encrypting and logging in that operators may have chosen.

use super::command::run_well;
use super::conninfo;
use super::error::{Error, Trying};
use super::history::HistoryFile;
use super::pgpass::PassFile;
use super::programs::Programs;
use super::settings::{InstanceSettings, Login};
use crate::model::{Address, Lineage, Span, SystemId, Timeline};

/// One server and who asks it.
pub(super) struct Far<'a> {
    pub settings: &'a InstanceSettings,
    pub programs: &'a Programs,
    pub address: &'a Address,
    pub login: &'a Login,
    /// Names the password file, so that two who ask at the same time do not share it.
    pub purpose: &'a str,
}

/// Who the cluster at `address` is, and where its timeline comes from.
pub async fn ask_lineage(
    settings: &InstanceSettings,
    address: &Address,
    patience: Span,
) -> Result<(SystemId, Lineage), Error> {
    let what = format!("ask {}:{} for its timeline", address.host, address.port);
    let programs = Programs::of(settings).await?;
    let far = Far { settings, programs: &programs, address, login: &settings.replication, purpose: "remote" };
    let replication = [("replication", "true")];
    let said = far.ask(&what, &replication, "IDENTIFY_SYSTEM", patience).await?;
    let (system, timeline) = identity(&said).ok_or("it gives no identity").trying(|| what.clone())?;
    let ancestors = if timeline == Timeline::FIRST {
        Vec::new()
    } else {
        let asked = format!("TIMELINE_HISTORY {timeline}");
        let said = far.ask(&what, &replication, &asked, patience).await?;
        let (_, content) = said.split_once('|').ok_or("it gives no history").trying(|| what.clone())?;
        HistoryFile::parse(timeline, content).trying(|| what)?.forks_without_gaps()
    };
    Ok((system, Lineage { timeline, ancestors }))
}

impl Far<'_> {
    /// One statement; its rows as psql prints them unaligned, with bars between the columns.
    pub async fn ask(
        &self,
        what: &str,
        more: &[(&str, &str)],
        statement: &str,
        patience: Span,
    ) -> Result<String, Error> {
        let passfile = PassFile::write(self.settings, self.purpose, self.address, self.login)?;
        let named = passfile.path().display().to_string();
        let mut keys = vec![
            ("dbname", self.settings.database.as_str()),
            ("application_name", self.settings.name.as_str()),
        ];
        keys.extend(more.iter().copied());
        let seconds = patience.as_ms().div_ceil(1000).to_string();
        keys.push(("connect_timeout", &seconds));
        let target = conninfo::to_member(self.login, self.address, &named, &keys);
        let mut command = self.programs.plain_command(self.settings, "psql")?;
        command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "--quiet"]);
        command.args(["--set", "ON_ERROR_STOP=1", "--dbname", &target, "--command", statement]);
        command.env("PGPASSFILE", passfile.path());
        run_well(what, command, patience).await
    }
}

/// `7710399124836129887|2|0/3000110|`
fn identity(said: &str) -> Option<(SystemId, Timeline)> {
    let mut columns = said.trim().split('|');
    let system = columns.next()?.parse().ok().map(SystemId)?;
    Some((system, Timeline(columns.next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_from_what_psql_prints() {
        let check = |said: &str, wanted| assert_eq!(identity(said), wanted, "{said}");
        check("7710399124836129887|2|0/3000110|\n", Some((SystemId(7_710_399_124_836_129_887), Timeline(2))));
        check("", None);
        check("x|y", None);
        check("7", None);
    }
}
