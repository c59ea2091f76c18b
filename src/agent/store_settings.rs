//! What the configuration says of the store, in the store's words: for the agent, and for the operator's command.

use crate::config::{self, Config};
use crate::store::zookeeper::{Acl, PERMISSIONS, TlsSettings};
use crate::store::{AdapterSettings, Discovery, EtcdSettings, StoreSettings, ZookeeperSettings};

pub fn of_agent(config: &Config) -> StoreSettings {
    let adapter = match &config.zookeeper {
        Some(zookeeper) => AdapterSettings::Zookeeper(of_zookeeper(zookeeper)),
        None => AdapterSettings::Etcd(of_etcd(&config.etcd3)),
    };
    StoreSettings { namespace: config.namespace.clone(), scope: config.scope.clone(), adapter }
}

pub fn of_etcd(etcd: &config::Etcd) -> EtcdSettings {
    EtcdSettings {
        endpoints: etcd.endpoints(),
        discovery: etcd.srv.as_ref().filter(|_| etcd.proxy.is_none()).map(|domain| Discovery {
            domain: domain.trim_end_matches('.').to_owned(),
            suffix: etcd.srv_suffix.clone(),
            name_servers: Vec::new(),
        }),
        username: etcd.username.clone(),
        password: etcd.password.as_ref().map(|secret| secret.reveal().to_owned()),
        cacert: etcd.cacert.clone(),
        cert: etcd.cert.clone(),
        key: etcd.key.clone(),
    }
}

pub fn of_zookeeper(zookeeper: &config::Zookeeper) -> ZookeeperSettings {
    /// What a principal may begin with; without it, it is the subject of a certificate.
    const SCHEMES: [&str; 6] = ["world", "auth", "digest", "ip", "x509", "sasl"];
    let acl = zookeeper.set_acls.iter().map(|(principal, named)| {
        let split = principal.split_once(':').filter(|(scheme, _)| SCHEMES.contains(scheme));
        let (scheme, id) = split.unwrap_or(("x509", principal));
        let permitted = PERMISSIONS.iter().filter(|(name, _)| named.iter().any(|given| given == name));
        let permissions = permitted.fold(0, |all, (_, bits)| all | bits);
        Acl { permissions, scheme: scheme.to_owned(), id: id.to_owned() }
    });
    ZookeeperSettings {
        hosts: zookeeper.hosts.clone(),
        tls: zookeeper.use_ssl.then(|| TlsSettings {
            cacert: zookeeper.cacert.clone(),
            cert: zookeeper.cert.clone(),
            key: zookeeper.key.clone(),
            key_password: zookeeper.key_password.clone(),
            verify: zookeeper.verify,
        }),
        credentials: zookeeper.auth_data.clone(),
        acl: acl.collect(),
        ..ZookeeperSettings::default()
    }
}
