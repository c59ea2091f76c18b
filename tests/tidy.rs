//! What neither the compiler nor clippy checks: layers, purity, length, forbidden words, generated pages.
//! All of it is a check of text; where it is wrong about a line, write the line more plainly.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tenure::doctor::Check;
use tenure::model::{Explanation, Message, Notice, Rule, catalog};

#[expect(dead_code, reason = "the comparison needs the rest")]
#[path = "ctl/deliberate.rs"]
mod deliberate;

/// Files over the limit, with the reason why each is one thing that must not be cut.
const LONG_FILES: &[(&str, &str)] = &[];
const LINES_MAX: usize = 500;

/// Layers from the bottom up. A module may use those of lower layers.
const LAYERS: &[&[&str]] = &[
    &["model"],
    &["decide"],
    &["doctor"],
    &["clock"],
    &["address", "config", "fence", "log", "peers", "postgres", "recorder", "store"],
    &["agent", "api", "ctl", "sim"],
];

/// Within a layer modules stand alone, but for the shells, which are one another's parts, and for these.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("store", "peers", "certificates and keys are read in one way, encrypted ones as well"),
    ("log", "config", "the logger is configured"),
    ("address", "config", "the holder reads its addresses from the agent's files"),
    ("address", "log", "it is a program of its own, and logs as the agent does"),
    (
        "fence",
        "config",
        "the guardian reads from the agent's files whom it watches, before it shuts itself in",
    ),
];

#[test]
fn layers_import_downwards_only() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let Some(own) = module_of(&file) else { continue };
        let Some(height) = layer(&own) else {
            wrong.push(format!("{}: the module {own} has no layer in tests/tidy.rs", file.display()));
            continue;
        };
        for (number, line) in code_lines(&file) {
            for other in modules_named(&line) {
                let Some(used) = layer(&other) else { continue };
                let neighbours = NEIGHBOURS.iter().any(|(from, to, _)| *from == own && *to == other);
                let shells = height + 1 == LAYERS.len();
                if own == other || used < height || (used == height && (shells || neighbours)) {
                    continue;
                }
                wrong.push(format!("{}:{number}: {own} must not use {other}", file.display()));
            }
        }
    }
    assert_none("imports against the layers", &wrong);
}

#[test]
fn the_rules_and_the_words_are_pure() {
    // Word by word, with the reason.
    let banned = [
        ("std::fs", "files"),
        ("std::net", "the network"),
        ("std::io", "input and output"),
        ("std::process", "processes"),
        ("std::env", "the environment"),
        ("std::thread", "threads"),
        ("std::sync", "shared state"),
        ("std::time", "clocks: time is a Moment, given as an argument"),
        ("Instant", "clocks: time is a Moment, given as an argument"),
        ("SystemTime", "clocks: time is a Moment, given as an argument"),
        ("jiff", "clocks: time is a Moment, given as an argument"),
        ("tokio", "tasks"),
        ("tracing", "logging: a decision carries its reason"),
        ("println", "printing"),
        ("eprintln", "printing"),
        ("async", "waiting"),
        ("await", "waiting"),
        ("rand", "randomness"),
        ("unsafe", "unsafe code"),
        ("HashMap", "maps without an order: use BTreeMap"),
        ("HashSet", "sets without an order: use BTreeSet"),
        ("f64", "rounding"),
        ("f32", "rounding"),
    ];
    // `Span::as_duration` is how a span leaves these layers.
    let allowed = ["std::time::Duration", "std::net::IpAddr"];
    let mut wrong = Vec::new();
    let pure = ["src/model", "src/decide", "src/doctor"];
    for file in pure.into_iter().flat_map(rust_files) {
        for (number, line) in code_lines(&file) {
            let line = allowed.iter().fold(line, |line, word| line.replace(word, ""));
            for (word, what) in &banned {
                if has_word(&line, word) {
                    wrong.push(format!("{}:{number}: {word}: no {what} here", file.display()));
                }
            }
        }
    }
    assert_none("impure words in model, decide or doctor", &wrong);
}

#[test]
fn our_own_enums_are_matched_name_by_name() {
    let ours = enums_of_the_model();
    let mut wrong = Vec::new();
    for file in rust_files("src/model").into_iter().chain(rust_files("src/decide")) {
        for (start, block) in match_blocks(&file) {
            let arms: Vec<&str> = block.iter().map(String::as_str).collect();
            let catches_all = arms.iter().any(|arm| arm.trim_start().starts_with("_ =>"));
            let named: BTreeSet<&str> =
                arms.iter().filter_map(|arm| pattern_enum(arm)).filter(|name| ours.contains(*name)).collect();
            if catches_all && !named.is_empty() {
                wrong.push(format!("{}:{start}: `_ =>` over {named:?}: name every case", file.display()));
            }
        }
    }
    assert_none("catch-alls over our own enums", &wrong);
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        let lines = read(&file).lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| Path::new(name) == file);
        if lines > LINES_MAX && !excused {
            wrong.push(format!("{}: {lines} lines, {LINES_MAX} are allowed", file.display()));
        }
        if lines <= LINES_MAX && excused {
            wrong.push(format!("{}: no longer needs its excuse", file.display()));
        }
    }
    assert_none("long files: nearly always, deciding and doing were never separated", &wrong);
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")) {
        if !read(&file).starts_with("//! ") {
            wrong.push(format!("{}: does not begin with //!", file.display()));
        }
    }
    assert_none("files without an opening sentence", &wrong);
}

#[test]
fn nothing_is_left_for_later_or_waits_for_a_time() {
    // Put together here, so that this file passes its own test.
    let marks = ["TO_DO", "FIX_ME", "XX_X"].map(|mark| mark.replace('_', ""));
    let sleep = ["thread", "sleep"].join("::");
    let mut wrong = Vec::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        for (number, line) in (1..).zip(read(&file).lines()) {
            for mark in &marks {
                if has_word(line, mark) {
                    wrong.push(format!("{}:{number}: {mark}", file.display()));
                }
            }
            if line.contains(&sleep) {
                wrong.push(format!("{}:{number}: {sleep}: wait for a condition", file.display()));
            }
        }
    }
    assert_none("things left for later", &wrong);
}

#[test]
fn every_rule_stands_in_the_manual() {
    let mut page = String::from(
        "# Rules\n\n\
         Written by `make docs` from `src/model/rule.rs`; do not edit.\n\n\
         Whatever a member does, it does by one of these rules. The code stands in the log (`rule=`), in the metrics and in\n\
         `tenurectl`; the sentence is what people read, with another member's name in place of `{member}`. The message id is the\n\
         journal's, for rules that change the cluster or may call for an operator: see [the journal](journal.md).\n\n\
         | code | sentence | message id |\n| --- | --- | --- |\n",
    );
    for rule in Rule::ALL {
        let id = rule.message_id().map(|id| format!("`{id}`")).unwrap_or_default();
        writeln!(page, "| `{}` | {} | {id} |", rule.code(), rule.sentence()).expect("text grows");
    }
    assert_is_written("docs/rules.md", &page);
}

#[test]
fn the_journals_catalog_explains_every_message_id() {
    let mut file = String::from(
        "# What `journalctl -x` says about the messages of tenured and tenure-fence.\n\
         # Written by `make docs` from `src/model/catalog.rs`; do not edit.\n",
    );
    for Explanation { message, meaning, advice } in catalog() {
        let id = message.id().expect("what is explained has a number");
        let sentence = message.sentence().replace("{member}", "@TENURE_OTHER_MEMBER@");
        // The guardian knows neither.
        let told_by_agent = *message != Message::Notice(Notice::GuardianKilled);
        let author = if told_by_agent { "Cluster @TENURE_CLUSTER@, member @TENURE_MEMBER@.\n\n" } else { "" };
        let (meaning, advice) = (filled(meaning), filled(&format!("What to do: {advice}")));
        write!(
            file,
            "\n-- {id}\nSubject: {sentence}\nDefined-By: Tenure\nDocumentation: man:tenured(8)\n\n\
             {author}{meaning}\n\n{advice}\n"
        )
        .expect("text grows");
    }
    assert_is_written("packaging/journal/tenure.catalog", &file);

    // systemd's own reader is the judge, where there is one.
    let root = tempfile::tempdir().expect("a directory");
    let place = root.path().join("usr/lib/systemd/catalog");
    fs::create_dir_all(&place)
        .and_then(|()| fs::create_dir_all(root.path().join("var/lib/systemd/catalog")))
        .and_then(|()| fs::write(place.join("tenure.catalog"), &file))
        .expect("written");
    let journalctl = |arguments: &[&str]| {
        let root = format!("--root={}", root.path().display());
        Command::new("journalctl").arg(root).args(arguments).output()
    };
    let Ok(updated) = journalctl(&["--update-catalog"]) else { return };
    let said = String::from_utf8_lossy(&updated.stderr);
    assert!(updated.status.success() && said.is_empty(), "{said}");
    let listed = journalctl(&["--list-catalog"]).expect("it has just run");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), catalog().count());
}

#[test]
fn the_manual_tells_where_rest_differs_from_patronis() {
    let name = "docs/differences.md";
    let text = read(Path::new(name));
    let (before, rest) = text.split_once(MEASURED).expect("the page marks where the table begins");
    let (_, after) = rest.split_once(MEASURED_END).expect("the page marks where the table ends");
    assert_is_written(name, &format!("{before}{MEASURED}\n\n{}\n{MEASURED_END}{after}", deliberate::page()));
}

#[test]
fn every_check_of_the_doctor_stands_in_the_manual() {
    let name = "docs/doctor.md";
    let text = read(Path::new(name));
    let (before, rest) = text.split_once(CHECKS).expect("the page marks where the table begins");
    let (_, after) = rest.split_once(MEASURED_END).expect("the page marks where the table ends");
    let mut page = String::from("| check | | why it matters | what to do |\n| --- | --- | --- | --- |\n");
    for check in Check::ALL {
        let (code, severity) = (check.code(), check.severity().word());
        writeln!(page, "| `{code}` | {severity} | {} | {} |", check.why(), check.remedy())
            .expect("text grows");
    }
    assert_is_written(name, &format!("{before}{CHECKS}\n\n{page}\n{MEASURED_END}{after}"));
}

const CHECKS: &str = "<!-- written by `make docs` from src/doctor/check.rs -->";
const MEASURED: &str = "<!-- written by `make docs` from tests/ctl/deliberate.rs -->";
const MEASURED_END: &str = "<!-- end of what is written -->";

/// Lines of at most 100 characters.
fn filled(text: &str) -> String {
    let mut filled = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        if width > 0 {
            let breaks = 100 < width + 1 + word.len();
            filled.push(if breaks { '\n' } else { ' ' });
            width = if breaks { 0 } else { width + 1 };
        }
        filled.push_str(word);
        width += word.len();
    }
    filled
}

/// A file that is written from the code is what the code says.
#[track_caller]
fn assert_is_written(name: &str, text: &str) {
    let path = root().join(name);
    if std::env::var_os("TENURE_BLESS").is_some() {
        fs::write(&path, text).expect("a generated file can be written");
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == text, "{name} is stale: run `make docs`");
}

#[test]
fn every_rule_is_decided_somewhere() {
    let decided: String = rust_files("src/decide").iter().map(|file| read(file)).collect();
    if !decided.contains("Rule::") {
        return; // nothing decides yet
    }
    let wrong: Vec<String> = (Rule::ALL.iter().map(|rule| format!("Rule::{rule:?}")))
        .filter(|name| !has_word(&decided, name))
        .collect();
    assert_none("rules that nothing decides", &wrong);
}

#[test]
fn what_the_repository_promises_is_there() {
    let promised = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        ".ci/run",
        "scripts/setup",
        "scripts/test",
        "packaging/README.md",
        "systemd/tenured@.service",
        "systemd/tenure-fence@.service",
        "systemd/tenure-address@.service",
        "ansible/README.md",
        "vagrant/README.md",
        "docs/rules.md",
        "docs/configuration.md",
        "docs/metrics.md",
        "docs/alerts.md",
        "docs/journal.md",
        "packaging/journal/tenure.catalog",
    ];
    let wrong: Vec<_> =
        promised.iter().filter(|name| !root().join(name).exists()).map(ToString::to_string).collect();
    assert_none("missing files", &wrong);
}

// How text is looked at.

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).expect("a file of this repository can be read")
}

/// Every Rust file below a directory, by its path in the repository, in order.
fn rust_files(below: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::from(below)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(root().join(&directory)) else { continue };
        for entry in entries {
            let entry = entry.expect("a directory of this repository can be read");
            let path = directory.join(entry.file_name());
            if entry.path().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The module that a file of the library belongs to: `src/store/etcd.rs` belongs to `store`.
fn module_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").ok()?;
    let first = below.iter().next()?.to_str()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(module, "lib" | "bin")).then(|| module.to_owned())
}

/// Lines with their numbers, without comments, and without the tests at the end of a file.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = read(file);
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let lines = (1..).zip(code.map(|line| line.split("//").next().unwrap_or("").to_owned()));
    lines.filter(|(_, line)| !line.trim().is_empty()).collect()
}

/// The modules of this crate that a line names: `crate::store::…`, `use crate::{model, store}`.
fn modules_named(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let group = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or(group));
        let paths = group.map_or_else(|| vec![rest], |group| group.split(',').collect());
        for path in paths {
            let end = path.trim_start().find(|c: char| !(c.is_alphanumeric() || c == '_'));
            let name = path.trim_start();
            named.push(name[..end.unwrap_or(name.len())].to_owned());
        }
    }
    named
}

fn has_word(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(inside)
            && !text[at + word.len()..].chars().next().is_some_and(inside)
    })
}

fn enums_of_the_model() -> BTreeSet<String> {
    let names = rust_files("src/model").into_iter().flat_map(|file| code_lines(&file));
    let names = names.filter_map(|(_, line)| {
        let rest = line.trim_start().strip_prefix("pub enum ")?;
        Some(rest.split(|c: char| !c.is_alphanumeric()).next()?.to_owned())
    });
    names.collect()
}

/// The arms of each `match`: the lines that stand one step deeper than it.
fn match_blocks(file: &Path) -> Vec<(usize, Vec<String>)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut done = Vec::new();
    let mut open: BTreeMap<usize, (usize, Vec<String>)> = BTreeMap::new();
    for (number, line) in code_lines(file) {
        let depth = indent(&line);
        if line.trim_start().starts_with('}') {
            done.extend(open.remove(&depth));
        }
        if let Some((_, arms)) = depth.checked_sub(4).and_then(|outer| open.get_mut(&outer)) {
            arms.push(line.clone());
        }
        let matches = line.trim_end().ends_with('{') && has_word(&line, "match");
        if matches {
            open.insert(depth, (number, Vec::new()));
        }
    }
    done
}

/// `Enum` of a pattern like `Enum::Variant …`, `(Enum::Variant, …)` or `Some(Enum::Variant)`.
fn pattern_enum(arm: &str) -> Option<&str> {
    let pattern = arm.split("=>").next().unwrap_or(arm);
    let pattern = pattern.split(" if ").next().unwrap_or(pattern);
    let before = pattern.split("::").next().filter(|before| before.len() < pattern.len())?;
    let start = before.rfind(|c: char| !c.is_alphanumeric()).map_or(0, |at| at + 1);
    Some(&before[start..])
}

#[track_caller]
fn assert_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}
