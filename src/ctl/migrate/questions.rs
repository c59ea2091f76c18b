//! What PostgreSQL itself is asked before a migration: whether the agent's logins can do what they are for.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;
use tokio_postgres::Row;

use super::super::sql::{self, Login};
use crate::config::Config;
use crate::model::Secret;

const WITHIN: Duration = Duration::from_secs(10);

/// What it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub superuser: bool,
    /// As in 150018.
    pub version: i32,
    pub data_dir: String,
    /// Either lets pg_rewind do its work.
    pub checksums_or_hints: bool,
    /// None: there is no such role.
    pub may_replicate: Option<bool>,
    pub may_rewind: Option<bool>,
    /// Lines of pg_hba.conf that PostgreSQL cannot read, if it lets us see them.
    pub wrong_hba_lines: i64,
    pub own_parameters: i64,
}

const QUESTIONS: &str = "select current_setting('is_superuser') = 'on', \
    current_setting('server_version_num')::int4, \
    coalesce(current_setting('data_directory', true), ''), \
    current_setting('data_checksums') = 'on' or current_setting('wal_log_hints') = 'on', \
    (select rolreplication or rolsuper from pg_catalog.pg_roles where rolname = $1), \
    (select rolsuper or bool_and(has_function_privilege(rolname, f::regprocedure, 'execute')) \
       from pg_catalog.pg_roles, unnest(array['pg_ls_dir(text,boolean,boolean)', \
         'pg_stat_file(text,boolean)', 'pg_read_binary_file(text)', \
         'pg_read_binary_file(text,bigint,bigint,boolean)']) as f \
       where rolname = $2 group by rolname, rolsuper), \
    (select count(*) from pg_catalog.pg_hba_file_rules where error is not null), \
    (select count(*) from pg_catalog.pg_file_settings \
       where sourcefile like '%postgresql.auto.conf' and name not in ('')) ";

/// Asked as the agent's superuser, at the address that the member publishes.
pub async fn ask(config: &Config) -> Result<Answers> {
    let own = &config.postgresql;
    let superuser = &own.authentication.superuser;
    let login = Login {
        user: Some(superuser.username.clone()),
        password: superuser.password.as_ref().map(|secret| Secret::new(secret.reveal())),
        database: Some(own.database.clone()),
    };
    let replicator = own.authentication.replication.username.clone();
    let rewinder = own.authentication.rewind.as_ref().unwrap_or(superuser).username.clone();
    let asking = async {
        let connection = sql::connect(&own.connect_address, &login).await?;
        let row = connection.client.query_one(QUESTIONS, &[&replicator, &rewinder]).await;
        read(&row.context("ask PostgreSQL about its roles and settings")?)
    };
    timeout(WITHIN, asking).await.context("PostgreSQL does not answer")?
}

fn read(row: &Row) -> Result<Answers> {
    Ok(Answers {
        superuser: row.try_get::<_, Option<bool>>(0)?.unwrap_or_default(),
        version: row.try_get(1)?,
        data_dir: row.try_get(2)?,
        checksums_or_hints: row.try_get::<_, Option<bool>>(3)?.unwrap_or_default(),
        may_replicate: row.try_get(4)?,
        may_rewind: row.try_get(5)?,
        wrong_hba_lines: row.try_get(6)?,
        own_parameters: row.try_get(7)?,
    })
}
