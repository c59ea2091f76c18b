//! One PostgreSQL instance, through pg_ctl, its files and SQL.
