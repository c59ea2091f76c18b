//! What `tenurectl` reads of the same files and variables: where the store is, which cluster, and how to speak to members.
//! Whatever else stands there is an agent's business, and no mistake in it keeps an operator from acting.

use serde_json::{Map, Value};

use super::check::{Findings, check};
use super::load::{Sources, layers_of_environment, merged_layers, texts_of, unexpected};
use super::problem::Problems;
use super::settings::Table;
use super::store_types::{Etcd, Zookeeper};
use super::types::{Credentials, Ctl};
use super::{whole, yaml};

/// An operator's settings. Nothing is required: much can be said on the command line instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operator {
    pub scope: Option<String>,
    pub namespace: Option<String>,
    pub store: OperatorStore,
    pub ctl: Ctl,
    /// The login and the certificates to trust that members use among themselves.
    pub restapi_authentication: Option<Credentials>,
    pub restapi_cafile: Option<std::path::PathBuf>,
    /// Citus clusters have a place of another shape in the store.
    pub citus: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum OperatorStore {
    #[default]
    NotConfigured,
    Etcd(Etcd),
    Zookeeper(Zookeeper),
    /// Patroni knows it, this version does not.
    Other(&'static str),
}

const OTHER_STORES: [&str; 4] = ["exhibitor", "consul", "kubernetes", "raft"];

const OUR_STORES: [&str; 3] = ["etcd3", "etcd", "zookeeper"];

/// The settings whose mistakes concern an operator.
const OURS: [&str; 6] = ["scope", "namespace", "etcd3", "etcd", "zookeeper", "ctl"];

/// Reads files and variables. With `store_elsewhere`, the store is named on the command line, and what stands in the files
/// about it does not count.
pub fn load_operator(sources: &Sources, store_elsewhere: bool) -> Result<Operator, Problems> {
    let mut findings = Findings::default();
    let (texts, variables) = texts_of(sources, &mut findings)?;
    let mut layers = Vec::new();
    let mut other = None;
    for (name, text) in &texts {
        match yaml::parse(name, text) {
            Ok(tree) => {
                other = other.or(OTHER_STORES.into_iter().find(|store| tree.get(store).is_some()));
                layers.push((name.clone(), check(&tree, Table::Local, &mut findings)));
            }
            Err(problem) => return Err(problem.into()),
        }
    }
    layers.extend(layers_of_environment(&variables, &mut findings));
    let mut merged = merged_layers(layers).map_err(|why| unexpected(&why))?;
    if store_elsewhere && let Some(settings) = merged.as_object_mut() {
        settings.retain(|section, _| !OUR_STORES.contains(&section.as_str()));
    }
    let has_store = OUR_STORES.iter().any(|section| present(&merged, section));
    let files: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
    if has_store {
        whole::complete_store(&mut merged, &files, &mut findings);
    }
    let mut errors = findings.errors;
    errors.0.retain(|problem| problem.key.as_deref().is_none_or(|key| concerns_us(key, store_elsewhere)));
    if !errors.is_empty() {
        return Err(errors);
    }
    read(&merged, other.filter(|_| !has_store)).map_err(|why| unexpected(&why.to_string()))
}

fn concerns_us(key: &str, store_elsewhere: bool) -> bool {
    let section = key.split('.').next().unwrap_or(key);
    OURS.contains(&section) && !(store_elsewhere && OUR_STORES.contains(&section))
}

fn present(merged: &Value, section: &str) -> bool {
    merged.get(section).and_then(Value::as_object).is_some_and(|map| !map.is_empty())
}

fn read(merged: &Value, other: Option<&'static str>) -> serde_json::Result<Operator> {
    let text = |name: &str| merged.get(name).and_then(Value::as_str).map(str::to_owned);
    let section = |pointer: &str| merged.pointer(pointer).filter(|value| !value.is_null()).cloned();
    let etcd = section("/etcd3").filter(|_| present(merged, "etcd3")).or_else(|| section("/etcd"));
    let zookeeper = section("/zookeeper").filter(|_| present(merged, "zookeeper"));
    let store = match (etcd.filter(|value| value != &Value::Object(Map::new())), zookeeper, other) {
        (Some(etcd), _, _) => OperatorStore::Etcd(serde_json::from_value(etcd)?),
        (None, Some(zookeeper), _) => OperatorStore::Zookeeper(serde_json::from_value(zookeeper)?),
        (None, None, Some(other)) => OperatorStore::Other(other),
        (None, None, None) => OperatorStore::NotConfigured,
    };
    Ok(Operator {
        scope: text("scope"),
        namespace: text("namespace"),
        store,
        ctl: section("/ctl").map(serde_json::from_value).transpose()?.unwrap_or_default(),
        restapi_authentication: section("/restapi/authentication").map(serde_json::from_value).transpose()?,
        restapi_cafile: section("/restapi/cafile").map(serde_json::from_value).transpose()?,
        citus: merged.get("citus").and_then(Value::as_object).is_some_and(|citus| !citus.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;

    fn load(text: &str, variables: &[(&str, &str)], store_elsewhere: bool) -> Result<Operator, String> {
        let mut file = tempfile::NamedTempFile::with_suffix(".yml").expect("a temporary file");
        file.write_all(text.as_bytes()).expect("our own file");
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sources = Sources { paths: vec![file.path().to_owned()], variables, credentials: None };
        load_operator(&sources, store_elsewhere).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_file_for_the_command_alone_needs_only_the_store() {
        let operator = load("etcd3: {host: 10.0.0.1}\n", &[], false).expect("enough");
        let OperatorStore::Etcd(etcd) = &operator.store else { panic!("{:?}", operator.store) };
        assert_eq!(etcd.endpoints(), ["http://10.0.0.1:2379"]);
        assert_eq!(operator.scope, None);
        assert_eq!(load("", &[], false), Ok(Operator::default()));
    }

    #[test]
    fn an_agents_file_serves_whatever_else_is_wrong_in_it() {
        let text = "scope: demo\nname: [x]\nrestapi: {listen: 1, authentication: {username: a, password: b}, cafile: /ca}\n\
                    etcd: {url: 'https://u:p@etcd1:2379'}\nbootstrap: {method: wal_e}\nctl: {insecure: on}\ncitus: {group: 0, database: x}\n";
        let operator = load(text, &[("PATRONI_SCOPE", "weaker"), ("TENURE_SCOPE", "stronger")], false);
        let operator = operator.expect("what concerns us is right");
        assert_eq!(operator.scope.as_deref(), Some("stronger"));
        assert!(operator.ctl.insecure && operator.citus);
        assert_eq!(operator.restapi_cafile, Some("/ca".into()));
        let login = operator.restapi_authentication.expect("given");
        assert_eq!((login.username.as_str(), login.password.reveal()), ("a", "b"));
        let OperatorStore::Etcd(etcd) = operator.store else { panic!("a store is configured") };
        assert_eq!((etcd.url.as_deref(), etcd.username.as_deref()), (Some("https://etcd1:2379"), Some("u")));
    }

    #[test]
    fn what_concerns_us_is_checked() {
        let complaint = load("etcd3: {hosts: 5x:y}\n", &[], false).expect_err("no host");
        assert!(complaint.contains("etcd3.hosts"), "{complaint}");
        assert!(load("etcd3: {hosts: 5x:y}\n", &[], true).is_ok(), "the command line names the store");
        assert!(load("ctl: {insecure: maybe}\n", &[], false).is_err());
        assert!(load("a: [\n", &[], false).is_err());
    }

    #[test]
    fn zookeeper_is_a_store_like_etcd() {
        let hosts = [("TENURE_ZOOKEEPER_HOSTS", "a,b:2182/x")];
        for (text, variables) in
            [("zookeeper: {hosts: 'a,b:2182/x', key_password: p}\n", &[][..]), ("", &hosts[..])]
        {
            let OperatorStore::Zookeeper(zookeeper) = load(text, variables, false).expect("enough").store
            else {
                panic!("{text:?}: no ZooKeeper");
            };
            assert_eq!(zookeeper.hosts, ["a", "b:2182/x"], "{text:?}");
        }
        let complaint = load("zookeeper: {hosts: []}\n", &[], false).expect_err("no server");
        assert!(complaint.contains("names no server"), "{complaint}");
        let complaint =
            load("zookeeper: {hosts: a}\netcd3: {host: b}\n", &[], false).expect_err("two stores");
        assert!(complaint.contains("only one can be the store"), "{complaint}");
        assert_eq!(
            load("zookeeper: {hosts: a}\n", &[], true).expect("named elsewhere").store,
            OperatorStore::NotConfigured
        );
    }

    #[test]
    fn a_store_that_we_cannot_reach_is_named() {
        let operator = load("consul: {host: a}\n", &[], false).expect("understood");
        assert_eq!(operator.store, OperatorStore::Other("consul"));
        let both = load("consul: {host: a}\netcd3: {host: b}\n", &[], false).expect("understood");
        assert!(matches!(both.store, OperatorStore::Etcd(_)));
    }
}
