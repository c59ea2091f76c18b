//! The whole configuration as YAML that can be read again, each value with where it comes from, and no password.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::load::Loaded;
use super::settings::{Kind, Table};
use super::yaml::Place;

/// What may hold a password without being known as one: a key of somebody else's.
const TELLING: [&str; 4] = ["password", "passphrase", "secret", "token"];
const HIDDEN: &str = "(hidden)";

impl Loaded {
    /// For people: `scope: demo  # node1.yml:1:1`.
    pub fn to_yaml(&self) -> String {
        let config = serde_json::to_value(&self.config).expect("names, numbers and text can be written");
        let mut text = String::new();
        if let Value::Object(settings) = &config {
            for (name, value) in settings {
                write_setting(&mut text, name, name, value, &self.origins);
            }
        }
        text
    }
}

fn write_setting(
    text: &mut String,
    path: &str,
    name: &str,
    value: &Value,
    origins: &BTreeMap<String, Place>,
) {
    let indent = "  ".repeat(path.split('.').count() - 1);
    let key = scalar(&Value::from(name));
    match value {
        Value::Object(below) if !below.is_empty() => {
            let _ = writeln!(text, "{indent}{key}:");
            for (name, value) in below {
                // A dot in a name would look like a step down; such names stand only below the last known one.
                write_setting(
                    text,
                    &format!("{path}.{}", name.replace('.', "\u{2024}")),
                    name,
                    value,
                    origins,
                );
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let _ = writeln!(text, "{indent}{key}:  # {}", origin(path, origins));
            for item in items {
                let _ = writeln!(text, "{indent}- {}", scalar(item));
            }
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            let lower = name.to_ascii_lowercase();
            let known = Table::Local.find(path).is_some_and(|row| row.kind != Kind::Secret);
            let tells = !known && TELLING.iter().any(|word| lower.contains(word)) && value.is_string();
            let shown = if tells { scalar(&Value::from(HIDDEN)) } else { scalar(value) };
            let _ = writeln!(text, "{indent}{key}: {shown}  # {}", origin(path, origins));
        }
    }
}

/// JSON is YAML; what is plain in both is written plainly.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = serde_norway::to_string(value).unwrap_or_default();
            let plain = plain.trim_end_matches('\n');
            if plain.contains('\n') || text.contains(['#', '\n']) {
                value.to_string()
            } else {
                plain.to_owned()
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// Where it was set: itself, or the setting that it is a part of.
fn origin(path: &str, origins: &BTreeMap<String, Place>) -> String {
    let mut path = path;
    loop {
        let older = path.strip_prefix("etcd3").map(|rest| format!("etcd{rest}"));
        let place = origins.get(path).or_else(|| origins.get(&older?));
        if let Some(place) = place.filter(|_| !Table::Local.is_section(path)) {
            return place.to_string();
        }
        match path.rsplit_once('.') {
            Some((section, _)) => path = section,
            None => return "default".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::load_texts;

    #[test]
    fn every_value_says_where_it_comes_from() {
        let first = "\
scope: demo
restapi: {listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}
etcd: {url: 'http://u:hunter2@a:1'}
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: /data
  parameters: {work_mem: 1MB, port: 7}
  create_replica_methods: [wal_e]
  wal_e: {command: '/bin/x #1', api_token: hunter2, retries: 3}
";
        let second = "postgresql:\n  parameters: {work_mem: 2MB}\n";
        let texts = [("a.yml".to_owned(), first.to_owned()), ("b.yml".to_owned(), second.to_owned())];
        let variables = [("PATRONI_NAME".to_owned(), "turku".to_owned())].into();
        let printed = load_texts(&texts, &variables).expect("good").to_yaml();
        for line in [
            "scope: demo  # a.yml:1:1\n",
            "name: turku  # PATRONI_NAME\n",
            "namespace: /service  # default\n",
            "  work_mem: 2MB  # b.yml:2:16\n",
            "    port: '7'  # a.yml:8:31\n",
            "  database: postgres  # default\n",
            "  create_replica_methods:  # a.yml:9:3\n  - wal_e\n",
            "    command: \"/bin/x #1\"  # a.yml:10:3\n",
            "    api_token: (hidden)  # a.yml:10:3\n",
            "  url: http://a:1  # a.yml:3:8\n",
            "  password: (hidden)  # a.yml:3:8\n",
        ] {
            assert!(printed.contains(line), "{line:?} is not in\n{printed}");
        }
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
