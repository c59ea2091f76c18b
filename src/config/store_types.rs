//! The sections of the configuration that say where the store is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values;
use crate::model::Secret;

/// Where etcd is and who we are to it. `endpoints` unites the ways in which it may be written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Etcd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Without user and password: loading moves them to the fields below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The same for a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The domain whose SRV records name the servers, if nothing else does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srv_suffix: Option<String>,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Where ZooKeeper is and who we are to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Zookeeper {
    pub hosts: Vec<String>,
    pub use_ssl: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_password: Option<Secret>,
    pub verify: bool,
    /// Principals with their permissions. A principal without a scheme is the subject of a certificate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_acls: BTreeMap<String, Vec<String>>,
    /// Schemes with their credentials.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub auth_data: BTreeMap<String, Secret>,
}

impl Default for Zookeeper {
    fn default() -> Zookeeper {
        Zookeeper {
            hosts: Vec::new(),
            use_ssl: false,
            cacert: None,
            cert: None,
            key: None,
            key_password: None,
            verify: true,
            set_acls: BTreeMap::new(),
            auth_data: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http,
    Https,
}

impl Etcd {
    pub(super) fn is_unused(&self) -> bool {
        *self == Etcd::default()
    }

    /// Every server as a URL: `http://host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::Https => "https",
        };
        let hosts = self.host.iter().chain(&self.hosts);
        let named = hosts
            .filter_map(|host| values::address(host, Some(2379)))
            .map(|address| format!("{protocol}://{}", values::show(&address)));
        let urls = self.url.iter().chain(&self.proxy);
        named.chain(urls.map(|url| url.trim_end_matches('/').to_owned())).collect()
    }
}
