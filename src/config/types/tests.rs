//! How types are written and read.

use super::*;

#[test]
fn a_secret_is_never_printed() {
    let secret = Secret::new("hunter2");
    let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).expect("text"));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(secret.reveal(), "hunter2");
}

#[test]
fn listening_addresses_are_read_in_every_form() {
    let check = |text: &str, hosts: &[&str], port| {
        let listen: Listen = text.parse().expect(text);
        assert_eq!(
            (listen.hosts.iter().map(String::as_str).collect::<Vec<_>>(), listen.port),
            (hosts.to_vec(), port)
        );
        assert_eq!(listen.to_string().parse::<Listen>(), Ok(listen));
    };
    check("127.0.0.1:5432", &["127.0.0.1"], 5432);
    check("*:5432", &["*"], 5432);
    check(":8008", &["*"], 8008);
    check("10.0.0.1,127.0.0.1:5432", &["10.0.0.1", "127.0.0.1"], 5432);
    check("[::1]:5432", &["::1"], 5432);
    check("0.0.0.0,[::]:5432", &["0.0.0.0", "::"], 5432);
    for text in ["5432x", "5432", "host", "host:", "host:0", "host:99999", "a b:1", "a,,b:1", "h:+1"] {
        assert_eq!(text.parse::<Listen>(), Err(ListenError), "{text}");
    }
}
