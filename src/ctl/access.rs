//! How a command reaches the store and the members: from the command line, the environment and a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::cluster::Cluster;
use super::console::hinted;
use super::rest::Members;
use super::tls::Trust;
use crate::agent::store_settings::{of_etcd, of_zookeeper};
use crate::config::{self, Credentials, Etcd, Operator, OperatorStore, Sources};
use crate::store::{AdapterSettings, Store, StoreSettings};

/// The options that stand before every command.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessArguments {
    /// Configuration file; an agent's file will do [default: ~/.config/tenure/tenurectl.yaml, then
    /// ~/.config/patroni/patronictl.yaml]
    #[arg(short = 'c', long = "config-file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Where the store is: [etcd3://|zookeeper://]HOST[:PORT][/NAMESPACE]
    #[arg(short = 'd', long = "dcs-url", visible_alias = "dcs", env = "DCS_URL", value_name = "URL")]
    pub dcs_url: Option<String>,
    /// Accept any certificate of a member's REST API
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// How long to wait for one answer of the store
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub store_timeout: u16,
    /// How long to wait for the outcome of one request to a member, or of one query
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub request_timeout: u32,
    /// How long to wait for something to be finished elsewhere, such as a clone
    #[arg(long, value_name = "SECONDS", default_value_t = 86400)]
    pub wait_timeout: u32,
    /// Refused: Citus clusters are not supported
    #[arg(long, global = true, hide = true, value_name = "GROUP")]
    pub group: Option<i64>,
}

#[derive(Debug)]
pub struct Access {
    operator: Operator,
    pub members: Members,
    pub wait_patience: Duration,
    pub request_patience: Duration,
    store_patience: Duration,
}

impl Access {
    pub fn new(arguments: &AccessArguments) -> Result<Access> {
        if arguments.group.is_some() {
            bail!("--group is for Citus clusters, and those are not supported");
        }
        let named = arguments.dcs_url.as_deref().map(parse_store_url).transpose()?;
        let paths = config_file(arguments)?;
        let sources = Sources::of_process(paths.into_iter().collect());
        let loaded = config::load_operator(&sources, named.is_some());
        let mut operator = loaded.map_err(|problems| anyhow!("the configuration is wrong:\n{problems}"))?;
        if let Some((store, namespace)) = named {
            operator.store = store;
            operator.namespace = namespace.or(operator.namespace);
        }
        let ctl = &operator.ctl;
        let login = ctl.authentication.as_ref().or(operator.restapi_authentication.as_ref());
        let members = Members {
            authorization: login.map(|login: &Credentials| super::rest::basic(login)),
            trust: Trust {
                insecure: ctl.insecure || arguments.insecure,
                cacert: ctl.cacert.clone().or_else(|| operator.restapi_cafile.clone()),
                certfile: ctl.certfile.clone(),
                keyfile: ctl.keyfile.clone(),
                encrypted_key: ctl.keyfile_password.is_some(),
            },
            patience: Duration::from_secs(u64::from(arguments.request_timeout)),
            reason: None,
        };
        Ok(Access {
            members,
            wait_patience: Duration::from_secs(u64::from(arguments.wait_timeout)),
            request_patience: Duration::from_secs(u64::from(arguments.request_timeout)),
            store_patience: Duration::from_secs(u64::from(arguments.store_timeout)),
            operator,
        })
    }

    /// The cluster that is named, or else the configured one.
    pub fn scope(&self, named: Option<&str>) -> Result<String> {
        named.or(self.operator.scope.as_deref()).map(str::to_owned).ok_or_else(|| {
            hinted(
                "no cluster is named, and no scope is configured",
                "name the cluster behind the command, or use -c FILE",
            )
        })
    }

    pub fn configured_scope(&self) -> Option<&str> {
        self.operator.scope.as_deref()
    }

    pub fn store(&self, scope: &str) -> Result<Store> {
        if self.operator.citus {
            bail!("Citus clusters are not supported");
        }
        if scope.is_empty() || scope.contains('/') {
            bail!("{scope:?} cannot be the name of a cluster");
        }
        let hint = "name a store with -d etcd3://HOST:2379, or a configuration file with -c FILE";
        let adapter = match &self.operator.store {
            OperatorStore::Etcd(etcd) => AdapterSettings::Etcd(of_etcd(etcd)),
            OperatorStore::Zookeeper(zookeeper) => AdapterSettings::Zookeeper(of_zookeeper(zookeeper)),
            OperatorStore::Other(name) => {
                return Err(hinted(format!("{name} is not a store of Tenure's"), hint));
            }
            OperatorStore::NotConfigured => return Err(hinted("no store is configured", hint)),
        };
        let namespace = self.operator.namespace.clone().unwrap_or_else(|| "/service".to_owned());
        Ok(Store::connect(&StoreSettings { namespace, scope: scope.to_owned(), adapter }))
    }

    pub async fn read(&self, scope: &str) -> Result<Cluster> {
        self.read_from(&self.store(scope)?, scope).await
    }

    /// No older than the call.
    pub async fn read_from(&self, store: &Store, scope: &str) -> Result<Cluster> {
        let entries = store.entries(self.store_patience).await.with_context(|| self.named_store())?;
        Ok(Cluster::read(scope, store.place(), &entries))
    }

    pub fn store_patience(&self) -> Duration {
        self.store_patience
    }

    /// For errors: whom we tried to reach.
    pub fn named_store(&self) -> String {
        format!("ask {}", self.whereabouts())
    }

    pub fn whereabouts(&self) -> String {
        match &self.operator.store {
            OperatorStore::Etcd(Etcd { srv: Some(domain), proxy: None, .. }) => {
                format!("etcd in the domain {domain}")
            }
            OperatorStore::Etcd(etcd) => format!("etcd at {}", etcd.endpoints().join(", ")),
            OperatorStore::Zookeeper(zookeeper) => format!("ZooKeeper at {}", zookeeper.hosts.join(", ")),
            OperatorStore::Other(name) => (*name).to_owned(),
            OperatorStore::NotConfigured => "the store".to_owned(),
        }
    }
}

/// The one that is named must be there; of the usual ones, the first that is.
fn config_file(arguments: &AccessArguments) -> Result<Option<PathBuf>> {
    let variable = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let named = arguments.config_file.clone();
    let named =
        named.or_else(|| variable("TENURECTL_CONFIG_FILE")).or_else(|| variable("PATRONICTL_CONFIG_FILE"));
    if let Some(path) = named {
        if std::fs::metadata(&path).is_err() {
            bail!(
                "Provided config file {} not existing or no read rights. Check the -c/--config-file parameter",
                path.display()
            );
        }
        return Ok(Some(path));
    }
    let home = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let usual = |directory: &Path| {
        let files = ["tenure/tenurectl.yaml", "patroni/patronictl.yaml"].map(|file| directory.join(file));
        files.into_iter().find(|file| file.is_file())
    };
    Ok(home.as_deref().and_then(usual))
}

const DEFAULT_PORTS: [(&str, u16); 5] =
    [("etcd", 2379), ("etcd3", 2379), ("zookeeper", 2181), ("exhibitor", 8181), ("consul", 8500)];

/// The store and the namespace that `[scheme://]host[:port][/namespace]` names.
fn parse_store_url(url: &str) -> Result<(OperatorStore, Option<String>)> {
    let (scheme, rest) = match url.split_once("//") {
        Some((scheme, rest)) => (scheme.trim_end_matches(':'), rest),
        None => ("", url),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let port: u16 =
                port.parse().map_err(|_| anyhow!("the port in {url:?} is not a number below 65536"))?;
            (host, Some(port))
        }
        Some(_) | None => (authority, None),
    };
    let scheme = match scheme {
        "" => DEFAULT_PORTS.iter().find(|(_, usual)| Some(*usual) == port).map_or("etcd", |(name, _)| name),
        scheme => scheme,
    };
    let Some((name, usual)) = DEFAULT_PORTS.iter().find(|(name, _)| *name == scheme) else {
        bail!("Unknown dcs scheme: {scheme}");
    };
    let namespace = (!path.trim_matches('/').is_empty()).then(|| format!("/{path}"));
    let host = if host.is_empty() { "localhost" } else { host };
    let server = format!("{host}:{}", port.unwrap_or(*usual));
    let store = match *name {
        "zookeeper" => OperatorStore::Zookeeper(config::Zookeeper {
            hosts: vec![server],
            ..config::Zookeeper::default()
        }),
        "etcd" | "etcd3" => {
            OperatorStore::Etcd(config::Etcd { host: Some(server), ..config::Etcd::default() })
        }
        other => OperatorStore::Other(other),
    };
    Ok((store, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_a_url() {
        let check = |url: &str, endpoint: &str, namespace: Option<&str>| {
            let (store, found) = parse_store_url(url).unwrap_or_else(|why| panic!("{url}: {why}"));
            let OperatorStore::Etcd(etcd) = store else { panic!("{url}: {store:?}") };
            assert_eq!(etcd.endpoints(), [endpoint], "{url}");
            assert_eq!(found.as_deref(), namespace, "{url}");
        };
        check("", "http://localhost:2379", None);
        check("etcd://:2399", "http://localhost:2399", None);
        check("etcd://test", "http://test:2379", None);
        check("etcd3://random.com:2399/mine", "http://random.com:2399", Some("/mine"));
        check("db1:2379/", "http://db1:2379", None);
        check("etcd3://[fd00::1]:2379", "http://[fd00::1]:2379", None);
        for url in ["db1:2181", "zookeeper://db1"] {
            let OperatorStore::Zookeeper(zookeeper) = parse_store_url(url).expect("known").0 else {
                panic!("{url} is a ZooKeeper")
            };
            assert_eq!(zookeeper.hosts, ["db1:2181"], "{url}");
        }
        assert_eq!(parse_store_url("consul://db1").expect("known").0, OperatorStore::Other("consul"));
        assert!(parse_store_url("redis://db1").is_err());
        assert!(parse_store_url("etcd3://db1:x").is_err());
    }
}
