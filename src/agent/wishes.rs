//! What operators want, put together from this member's files and the dynamic configuration in the store, in the words of
//! those who act on it: a policy for the rules, settings for PostgreSQL and the store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::config::{self, Config, WatchdogMode};
use crate::decide::publish::Identity;
use crate::fence;
use crate::model::{Occasion, Policy, Timing, WatchdogTimes};
use crate::postgres::{CustomMethod, Hooks, InstanceSettings, Login, ProgramOption, ReplicaMethod};
use crate::store::zookeeper::TTL_MIN;

/// Patroni's members look at this to know what another one understands.
const COMPATIBLE_VERSION: &str = crate::api::PATRONI_VERSION;

pub struct Wishes {
    config: Config,
    dynamic: Value,
    control_group: Option<PathBuf>,
    instance: watch::Sender<Arc<InstanceSettings>>,
}

impl Wishes {
    /// `control_group`: where PostgreSQL is to be started.
    pub fn new(
        config: Config,
        control_group: Option<PathBuf>,
    ) -> (Wishes, watch::Receiver<Arc<InstanceSettings>>) {
        let dynamic = first_dynamic(&config);
        let settings =
            InstanceSettings { control_group: control_group.clone(), ..instance(&config, &dynamic) };
        let (instance, receiver) = watch::channel(Arc::new(settings));
        (Wishes { config, dynamic, control_group, instance }, receiver)
    }

    /// What the rules go by until the store has been heard.
    pub fn policy(&self) -> Policy {
        fitted(config::policy_from(&self.dynamic, &self.config).0, &self.config)
    }

    /// The watchdog device that is to stand behind the guardian.
    pub fn watch(&self) -> Option<fence::Watch> {
        let own = &self.config.watchdog;
        match own.mode {
            WatchdogMode::Off => None,
            WatchdogMode::Automatic | WatchdogMode::Required => Some(fence::Watch {
                device: own.device.display().to_string(),
                times: WatchdogTimes::of(&self.policy().timing, own.safety_margin),
            }),
        }
    }

    /// The dynamic configuration has changed.
    pub fn learn(&mut self, dynamic: &Value) -> Policy {
        self.dynamic = dynamic.clone();
        self.apply()
    }

    /// This member's files have changed.
    pub fn relearn(&mut self, config: Config) -> Policy {
        self.config = config;
        self.apply()
    }

    fn apply(&mut self) -> Policy {
        let (policy, warnings) = config::policy_from(&self.dynamic, &self.config);
        for warning in warnings {
            tracing::warn!("{}", warning.render("dynamic configuration").trim_end());
        }
        let control_group = self.control_group.clone();
        let wanted = Arc::new(InstanceSettings { control_group, ..instance(&self.config, &self.dynamic) });
        self.instance.send_if_modified(|known| {
            let news = *known != wanted;
            *known = wanted;
            news
        });
        let asked = policy.timing.ttl;
        let policy = fitted(policy, &self.config);
        if policy.timing.ttl != asked {
            tracing::warn!("a ttl of {asked} is too short for ZooKeeper; {} is used", policy.timing.ttl);
        }
        policy
    }

    /// What a new cluster is configured with.
    pub fn first_dynamic(&self) -> Value {
        first_dynamic(&self.config)
    }
}

/// ZooKeeper's leases count from earlier than etcd's, which the shortest of them do not survive.
fn fitted(policy: Policy, config: &Config) -> Policy {
    match config.zookeeper {
        Some(_) if policy.timing.ttl < TTL_MIN => Policy { timing: Timing::for_ttl(TTL_MIN), ..policy },
        Some(_) | None => policy,
    }
}

fn first_dynamic(config: &Config) -> Value {
    let dcs = config.bootstrap.iter().flat_map(|bootstrap| bootstrap.dcs.clone());
    Value::Object(dcs.collect::<Map<String, Value>>())
}

pub fn identity(config: &Config) -> Identity {
    let shown = |address: &crate::model::Address| {
        if address.host.contains(':') {
            format!("[{}]:{}", address.host, address.port)
        } else {
            format!("{}:{}", address.host, address.port)
        }
    };
    Identity {
        conn_url: format!(
            "postgres://{}/{}",
            shown(&config.postgresql.connect_address),
            config.postgresql.database
        ),
        api_url: format!(
            "{}://{}/patroni",
            if config.restapi.certfile.is_some() { "https" } else { "http" },
            shown(&config.restapi.connect_address)
        ),
        version: COMPATIBLE_VERSION.to_owned(),
    }
}

fn instance(config: &Config, dynamic: &Value) -> InstanceSettings {
    let own = &config.postgresql;
    let wishes = config::wishes_from(dynamic, config);
    let bootstrap = config.bootstrap.as_ref();
    let customs = &wishes.customs;
    let login = |given: &config::Login| login(given, customs.krbsrvname.as_deref());
    let usual = InstanceSettings::new(
        config.name.clone(),
        &config.scope,
        own.data_dir.clone(),
        own.connect_address.clone(),
    );
    InstanceSettings {
        config_dir: own.config_dir.clone().unwrap_or_else(|| own.data_dir.clone()),
        config_base_name: customs.config_base_name.clone().unwrap_or(usual.config_base_name.clone()),
        custom_conf: customs.custom_conf.as_ref().map(PathBuf::from),
        recovery_conf: customs.recovery_conf.clone().unwrap_or_default(),
        bin_dir: own.bin_dir.clone(),
        bin_names: customs.bin_name.clone().unwrap_or_default(),
        listen: own.listen.hosts.join(","),
        port: own.listen.port,
        database: own.database.clone(),
        superuser: login(&own.authentication.superuser),
        replication: login(&own.authentication.replication),
        rewind: own.authentication.rewind.as_ref().map(login),
        basebackup: customs.basebackup.iter().flatten().map(|text| option(text)).collect(),
        replica_methods: replica_methods(customs),
        bootstrap_method: bootstrap.and_then(config::Bootstrap::custom).and_then(custom_method),
        init_sql: bootstrap.iter().flat_map(|bootstrap| &bootstrap.init_sql).map(PathBuf::from).collect(),
        hooks: hooks(customs, bootstrap),
        pgpass: own.pgpass.clone().unwrap_or(usual.pgpass.clone()),
        use_unix_socket: own.use_unix_socket,
        parameters: with_defaults(wishes.parameters),
        pg_hba: wishes.pg_hba.unwrap_or_default(),
        pg_ident: wishes.pg_ident.unwrap_or_default(),
        initdb: bootstrap.iter().flat_map(|bootstrap| &bootstrap.initdb).map(|text| option(text)).collect(),
        bootstrap_pg_hba: bootstrap.map(|bootstrap| bootstrap.pg_hba.clone()).unwrap_or_default(),
        use_slots: wishes.use_slots,
        copied_slots: wishes.use_slots && wishes.copied_slots && wishes.follows.is_none(),
        gated: wishes.gated,
        remote: wishes.follows,
        ..usual
    }
}

/// Where PostgreSQL's own default is made for another world.
fn with_defaults(mut parameters: BTreeMap<String, String>) -> BTreeMap<String, String> {
    // Five seconds, by default, in which a standby that has lost its primary does not look for the next one.
    parameters.entry("wal_retrieve_retry_interval".to_owned()).or_insert_with(|| "500ms".to_owned());
    parameters
}

fn hooks(customs: &config::Customs, bootstrap: Option<&config::Bootstrap>) -> Hooks {
    let made =
        bootstrap.and_then(|bootstrap| bootstrap.post_bootstrap.as_ref().or(bootstrap.post_init.as_ref()));
    let callbacks =
        Occasion::ALL.into_iter().filter_map(|occasion| Some((occasion, customs.callback(occasion)?)));
    Hooks {
        post_bootstrap: config::command(made),
        pre_promote: config::command(customs.pre_promote.as_ref()),
        before_stop: config::command(customs.before_stop.as_ref()),
        callbacks: callbacks.collect(),
    }
}

fn replica_methods(customs: &config::Customs) -> Vec<ReplicaMethod> {
    let method = |method: Option<config::Method>| match method {
        None => Some(ReplicaMethod::Basebackup),
        Some(method) => custom_method(method).map(ReplicaMethod::Custom),
    };
    customs.replica_methods().into_iter().filter_map(method).collect()
}

/// What has a command that cannot be read was refused when the configuration was.
fn custom_method(method: config::Method) -> Option<CustomMethod> {
    Some(CustomMethod {
        command: config::command(Some(&method.command))?,
        name: method.name,
        options: method.options,
        no_params: method.no_params,
        keep_data: method.keep_data,
        no_leader: method.no_leader,
        keep_existing_recovery_conf: method.keep_existing_recovery_conf,
        recovery_conf: method.recovery_conf,
    })
}

fn login(login: &config::Login, krbsrvname: Option<&str>) -> Login {
    let mut options = login.options.clone();
    if let Some(name) = krbsrvname {
        options.insert("krbsrvname".to_owned(), name.to_owned());
    }
    if let Some(password) = &login.sslpassword {
        options.insert("sslpassword".to_owned(), password.reveal().to_owned());
    }
    Login { username: login.username.clone(), password: login.password.clone(), options }
}

/// `data-checksums` or `encoding=UTF8`.
fn option(text: &str) -> ProgramOption {
    match text.split_once('=') {
        Some((name, value)) => ProgramOption::value(name, value),
        None => ProgramOption::flag(text),
    }
}
