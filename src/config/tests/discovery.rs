//! etcd found through DNS, as the configuration says it.

use super::{GOOD, good, load_all, warned};

fn with(etcd: &str) -> String {
    GOOD.replace("{hosts: [127.0.0.1:2379]}", etcd)
}

#[test]
fn a_domain_is_enough() {
    let loaded = good(&with("{srv: example.com, srv_suffix: blue}"));
    warned(&loaded, &[]);
    assert_eq!(loaded.config.etcd3.srv.as_deref(), Some("example.com"));
    assert_eq!(loaded.config.etcd3.srv_suffix.as_deref(), Some("blue"));
}

#[test]
fn what_is_not_used_beside_it_is_named() {
    let place = "node1.yml:4:";
    let loaded = good(&with("{hosts: [a], srv: example.com}"));
    warned(&loaded, &[&format!("{place}9: etcd3.hosts: is not used: srv names the servers")]);
    let loaded = good(&with("{proxy: 'http://a:1', srv: example.com}"));
    warned(&loaded, &[&format!("{place}30: etcd3.srv: is not used: only the proxy is asked")]);
}

#[test]
fn a_domain_that_is_none_is_refused() {
    for (etcd, complaint) in [
        ("{srv: 'http://a'}", "found \"http://a\", wanted a domain, such as example.com"),
        ("{srv: a..b}", "found \"a..b\", wanted a domain, such as example.com"),
        ("{hosts: [a], srv_suffix: blue}", "has no srv beside it"),
    ] {
        let problems = load_all(&[&with(etcd)], &[]).expect_err("no domain").to_string();
        assert!(problems.contains(complaint), "{problems}");
    }
}
