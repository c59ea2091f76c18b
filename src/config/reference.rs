//! docs/configuration.md: the table of settings as people read it, and the proof that table, types and page agree.

use std::fmt::Write as _;

use super::settings::{DYNAMIC, Kind, LOCAL, Setting, State, variable};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

fn page() -> String {
    let mut page = String::from(
        "# Settings\n\n\
        Written by `make docs` from `src/config/settings.rs`; do not edit.\n\n\
        One agent reads its files in the order given (of a directory, every `*.yml` and `*.yaml` in order of name), then the\n\
        environment variables `PATRONI_…`, then `TENURE_…`. The later wins, setting by setting; a null takes a setting away.\n\
        The names, and Patroni's files, work as they are. A secret may come from a file whose name stands in the variable\n\
        with `_FILE` appended, or be one of systemd's credentials (docs/service.md). `tenured --validate-config FILE` checks, `tenured --print-config FILE` shows the outcome.\n\n\
        Marked settings are known from Patroni and not there yet: those with `!` are refused, because a cluster that relies\n\
        on them would not be what its file says; those with `~` are warned about. Those with `-` have no meaning here.\n\n\
        ## Of one member\n\n| setting | holds | default | variable | |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in LOCAL.iter().copied().flatten() {
        let name = variable(row).map(|name| format!("`…{name}`")).unwrap_or_default();
        writeln!(
            page,
            "| `{}`{} | {} | {} | {name} | {} |",
            row.path,
            mark(row),
            holds(row.kind),
            default(row),
            row.about
        )
        .expect("text grows");
    }
    page += "\nAny other tag may be set too, with any value.\n\n\
        ## Of the whole cluster\n\n\
        They stand in the store, in `/config`; a new cluster takes them from `bootstrap.dcs`. Beside these, any setting of\n\
        `postgresql` may stand here, other than addresses, directories, `pgpass` and `authentication`; a member's own wins.\n\n\
        | setting | holds | default | |\n| --- | --- | --- | --- |\n";
    for row in DYNAMIC.iter().copied().flatten() {
        writeln!(
            page,
            "| `{}`{} | {} | {} | {} |",
            row.path,
            mark(row),
            holds(row.kind),
            default(row),
            row.about
        )
        .expect("text grows");
    }
    page
}

fn mark(row: &Setting) -> &'static str {
    match row.state {
        State::Honoured => "",
        State::NotYet => " ~",
        State::Unsafe => " !",
        State::Moot => " -",
    }
}

fn default(row: &Setting) -> String {
    if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) }
}

fn holds(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::KeyPart => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::Name => "a name".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Number { .. } => "a number".to_owned(),
        Kind::Seconds { .. } => "seconds, or with a unit".to_owned(),
        Kind::Bytes { .. } => "bytes, or with a unit".to_owned(),
        Kind::Mode => "octal".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Choices(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            format!("a list of some of {}", words.join(", "))
        }
        Kind::Listen => "host:port".to_owned(),
        Kind::Connect => "host:port".to_owned(),
        Kind::Lines => "a list of lines".to_owned(),
        Kind::Words => "a list, or words with commas".to_owned(),
        Kind::VirtualAddresses => "a list of `ADDRESS/PREFIX dev INTERFACE`".to_owned(),
        Kind::Options => "a list of options".to_owned(),
        Kind::Texts => "names with values".to_owned(),
        Kind::LogFormat => "text, or a list of fields".to_owned(),
        Kind::DateFormat => "text".to_owned(),
        Kind::Anything => "anything".to_owned(),
        Kind::Dynamic => "the settings below".to_owned(),
    }
}

#[test]
fn the_page_of_settings_is_up_to_date() {
    let wanted = page();
    if std::env::var_os("TENURE_BLESS").is_some() {
        std::fs::write(PAGE, &wanted).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == wanted, "docs/configuration.md is stale: run `make docs`");
}

#[test]
fn no_setting_has_two_rows_and_no_variable_means_two_settings() {
    for table in [LOCAL, DYNAMIC] {
        let paths: Vec<_> = table.iter().copied().flatten().map(|row| row.path).collect();
        let once: std::collections::BTreeSet<_> = paths.iter().collect();
        assert_eq!(once.len(), paths.len());
    }
    let variables: Vec<_> = LOCAL.iter().copied().flatten().filter_map(variable).collect();
    let once: std::collections::BTreeSet<_> = variables.iter().collect();
    assert_eq!(once.len(), variables.len());
}
