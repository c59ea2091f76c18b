//! How `PATCH /config` changes a configuration. Close to RFC 7396 but not it: a section that was not there before is
//! stored as it comes, nulls included, and `{"slots": {"s": null}}` means something there.

use serde_json::{Map, Value};

/// The configuration with the patch merged in; `None` if that changes nothing.
pub fn merge(config: &Map<String, Value>, patch: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut merged = config.clone();
    merge_into(&mut merged, patch).then_some(merged)
}

fn merge_into(config: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, wanted) in patch {
        changed |= match (config.get_mut(key), wanted) {
            (present, Value::Null) => present.is_some() && config.remove(key).is_some(),
            (Some(Value::Object(section)), Value::Object(patch)) => merge_into(section, patch),
            (Some(present), wanted) if as_text(present) == as_text(wanted) => false,
            (Some(_) | None, wanted) => {
                config.insert(key.clone(), wanted.clone());
                true
            }
        };
    }
    changed
}

/// `10` and `"10"` are the same setting; `true` and `"true"` are not, since Patroni's text of the first is `True`.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "a table of calls reads better")]
    fn check(config: Value, patch: Value, wanted: Option<Value>) {
        assert_eq!(merge(&object(config), &object(patch.clone())), wanted.map(object), "{patch}");
    }

    #[test]
    fn a_patch_is_merged_by_patronis_rules() {
        let config =
            || json!({"ttl": 30, "pause": true, "postgresql": {"use_slots": true, "parameters": {"a": "1"}}});
        check(config(), json!({"ttl": 30}), None);
        check(config(), json!({"ttl": "30"}), None);
        check(config(), json!({"pause": "true"}), Some(merged(config(), "pause", json!("true"))));
        check(config(), json!({"ttl": 20}), Some(merged(config(), "ttl", json!(20))));
        check(config(), json!({"absent": null}), None);
        check(config(), json!({"postgresql": {"parameters": {"a": 1}}}), None);
        check(
            config(),
            json!({"postgresql": {"parameters": {"a": null, "b": 2}}, "pause": null}),
            Some(json!({"ttl": 30, "postgresql": {"use_slots": true, "parameters": {"b": 2}}})),
        );
        check(json!({}), json!({"slots": {"s": null}}), Some(json!({"slots": {"s": null}})));
        check(json!({"slots": 1}), json!({"slots": {"s": null}}), Some(json!({"slots": {"s": null}})));
        check(json!({"slots": {"a": 1}}), json!({"slots": 2}), Some(json!({"slots": 2})));
        check(json!({"a": null}), json!({"a": null}), Some(json!({})));
    }

    proptest! {
        #[test]
        fn a_patch_that_was_applied_changes_nothing_more(pairs in proptest::collection::btree_map("[a-c]", 0i64..4, 0..4)) {
            let patch = object(json!(pairs));
            let once = merge(&object(json!({"a": 1, "b": {"c": 2}})), &patch);
            prop_assert_eq!(once.and_then(|merged| merge(&merged, &patch)), None);
        }
    }

    fn merged(mut config: Value, key: &str, value: Value) -> Value {
        config[key] = value;
        config
    }
}
