//! Secrets from systemd's credentials (`LoadCredential=superuser-password:/…`): each file of the directory that bears a
//! secret's name is that secret. Stronger than files, weaker than variables.

use std::path::Path;

use serde_json::{Map, Value};

use super::check::{Findings, check_value};
use super::environment::insert;
use super::load::read;
use super::problem::{Problem, nearest};
use super::settings::{Kind, Setting, Table, variable};
use super::yaml::{Content, Node, Place};

/// What the credential of a secret is called: its variable in small letters, `superuser-password`.
pub fn name_of(row: &Setting) -> Option<String> {
    let named = variable(row).filter(|_| row.kind == Kind::Secret)?;
    Some(named.to_ascii_lowercase().replace('_', "-"))
}

pub fn settings(directory: &Path, findings: &mut Findings) -> Map<String, Value> {
    let mut settings = Map::new();
    let place = |name: &str| Place { source: format!("credential {name}").into(), at: None };
    let rows: Vec<_> = Table::Local.rows().filter_map(|row| name_of(row).map(|name| (name, row))).collect();
    for (name, row) in &rows {
        let text = match read(&directory.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                let message = format!("cannot be read: {error}");
                findings.errors.push(Problem::about(Some(place(name)), row.path, message));
                continue;
            }
        };
        // Editors and `echo` end a file with a line feed that is no part of the password.
        let text = text.trim_end_matches(['\n', '\r']).to_owned();
        let node = Node { place: place(name), content: Content::Scalar { text, plain: false } };
        if let Some(value) = check_value(&node, row, findings) {
            findings.places.insert(row.path.to_owned(), place(name));
            insert(&mut settings, row.path, value);
        }
    }
    for name in strangers(directory, &rows) {
        let known = rows.iter().map(|(name, _)| name.as_str());
        // A unit may have credentials for other purposes; what looks like one of ours is told.
        if let Some(meant) = nearest(&name, known) {
            let problem = Problem::at(place(&name), "there is no such secret; it has no effect".to_owned());
            findings.warnings.push(problem.hint(format!("did you mean {meant}?")));
        }
    }
    settings
}

fn strangers(directory: &Path, rows: &[(String, &Setting)]) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| rows.iter().all(|(known, _)| known != name)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::super::load::{Loaded, Sources, load};
    use super::*;

    fn load_with(credentials: &[(&str, &str)], variables: &[(&str, &str)]) -> Loaded {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tenure.yml");
        let text = "scope: s\nname: n\nrestapi: {listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}\n\
                    etcd3: {hosts: '127.0.0.1:2379'}\npostgresql:\n  listen: 127.0.0.1:5432\n  \
                    connect_address: 127.0.0.1:5432\n  data_dir: /data\n  authentication:\n    \
                    superuser: {username: postgres, password: of-the-file}\n    replication: {username: r}\n";
        fs::write(&file, text).expect("written");
        let directory = dir.path().join("credentials");
        fs::create_dir(&directory).expect("made");
        for (name, text) in credentials {
            fs::write(directory.join(name), text).expect("written");
        }
        let variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(&Sources { paths: vec![file], variables, credentials: Some(directory) }).expect("good")
    }

    #[test]
    fn a_credential_is_stronger_than_the_file_and_weaker_than_a_variable() {
        let password = |loaded: &Loaded| {
            let login = &loaded.config.postgresql.authentication.superuser;
            login.password.as_ref().map(|secret| secret.reveal().to_owned())
        };
        let given = [("superuser-password", "of the credential\n")];
        assert_eq!(password(&load_with(&[], &[])).as_deref(), Some("of-the-file"));
        assert_eq!(password(&load_with(&given, &[])).as_deref(), Some("of the credential"));
        let variables = [("PATRONI_SUPERUSER_PASSWORD", "of the variable")];
        assert_eq!(password(&load_with(&given, &variables)).as_deref(), Some("of the variable"));
    }

    #[test]
    fn every_secret_has_a_credential_or_no_variable_either() {
        let names: Vec<_> = Table::Local.rows().filter_map(name_of).collect();
        for name in ["superuser-password", "replication-password", "rewind-password", "etcd3-password"] {
            assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
        }
    }

    #[test]
    fn only_what_looks_like_one_of_ours_is_complained_about() {
        let loaded = load_with(&[("superuser-pasword", "hush"), ("tls.pem", "…")], &[]);
        let said: Vec<_> = loaded.warnings.iter().map(|warning| warning.render("warning")).collect();
        let about: Vec<_> = said.iter().filter(|text| text.contains("credential")).collect();
        assert_eq!(about.len(), 1, "{said:?}");
        assert!(about[0].contains("did you mean superuser-password?") && !about[0].contains("hush"));
    }
}
