//! Virtual addresses as they are written, and what is said of those that cannot be.

use super::{GOOD, good, load_all, refused, warned};

/// The good configuration, with PostgreSQL on every address.
fn everywhere(addresses: &str) -> String {
    let text = GOOD.replace("  listen: 127.0.0.1:5432", "  listen: '*:5432'");
    format!("{text}tenure: {{virtual_addresses: {addresses}}}\n")
}

#[test]
fn addresses_are_a_list_or_text_with_commas() {
    for text in [
        "[10.0.0.100/24 dev eth0, '2001:db8::64 dev eth0']",
        "'10.0.0.100/24 dev eth0, 2001:db8::64/128 dev eth0'",
    ] {
        let loaded = good(&everywhere(text));
        let shown: Vec<String> =
            loaded.config.tenure.virtual_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.100/24 dev eth0", "2001:db8::64/128 dev eth0"], "{text}");
        warned(&loaded, &[]);
    }
    let variable = [("TENURE_TENURE_VIRTUAL_ADDRESSES", "10.0.0.100 dev eth0")];
    let loaded = load_all(&[&everywhere("[]")], &variable).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config.tenure.virtual_addresses.len(), 1);
    assert!(loaded.to_yaml().contains("10.0.0.100/32 dev eth0"));
}

#[test]
fn what_is_wrong_with_an_address_is_named() {
    refused(
        "tenure: {virtual_addresses: [10.0.0.100/33 dev eth0]}\n",
        "error: node1.yml:10:29: tenure.virtual_addresses: found a list, wanted a list of addresses, such as \
         - 10.0.0.100/24 dev eth0; \"33\" is no length of a prefix from 1 to 32",
    );
    for (text, told) in [
        ("[10.0.0.100/24]", "is not written as ADDRESS/PREFIX dev INTERFACE"),
        ("[10.0.0.100/24 dev eth0, 10.0.0.100 dev eth1]", "10.0.0.100 is there twice"),
        ("{eth0: 10.0.0.100}", "found a mapping"),
        ("[127.0.0.1/8 dev eth0]", "cannot be the address of a host"),
    ] {
        let problems = load_all(&[&everywhere(text)], &[]).expect_err(text).to_string();
        assert!(problems.contains(told), "{text}: {problems}");
    }
    let many: Vec<String> = (1..18).map(|number| format!("10.0.0.{number} dev eth0")).collect();
    let problems = load_all(&[&everywhere(&format!("[{}]", many.join(", ")))], &[]).expect_err("too many");
    assert!(problems.to_string().contains("at most 16"), "{problems}");
}

#[test]
fn a_members_own_address_must_not_go_away_with_the_lease() {
    let text = everywhere("[10.0.0.1/24 dev eth0]")
        .replace("  connect_address: 127.0.0.1:5432", "  connect_address: 10.0.0.1:5432");
    let problems = load_all(&[&text], &[]).expect_err("its own").to_string();
    assert!(
        problems.contains("10.0.0.1 is this member's own address (postgresql.connect_address)"),
        "{problems}"
    );
}

#[test]
fn a_postgresql_that_would_not_be_there_for_clients_is_told_of() {
    let text = format!("{GOOD}tenure: {{virtual_addresses: [10.0.0.100 dev eth0]}}\n");
    warned(
        &good(&text),
        &[
            "node1.yml:10:10: tenure.virtual_addresses: PostgreSQL does not listen on 10.0.0.100: postgresql.listen should \
           name * or 0.0.0.0",
        ],
    );
    let named = text.replace("  listen: 127.0.0.1:5432", "  listen: 127.0.0.1,10.0.0.100:5432");
    warned(&good(&named), &[]);
}
