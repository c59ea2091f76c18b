//! The catalog is whole.

use super::*;

#[test]
fn every_message_id_is_explained_once() {
    let rules = Rule::ALL.iter().filter(|rule| rule.message_id().is_some());
    let numbered: Vec<Message> = (rules.map(|rule| Message::Rule(*rule)))
        .chain(Notice::ALL.iter().map(|notice| Message::Notice(*notice)))
        .collect();
    let mut explained: Vec<Message> = catalog().map(|explanation| explanation.message).collect();
    explained.sort_unstable();
    assert_eq!(explained, numbered);
}
