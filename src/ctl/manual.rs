//! Completions and man pages, made from the programs' own arguments. Packages call this; a test compares nothing, because
//! there is nothing that could grow stale.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;

use super::console::print;

#[derive(Debug, clap::Args)]
pub struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

#[derive(Debug, clap::Args)]
pub struct ManArguments {
    /// Where to write the pages
    directory: PathBuf,
}

pub fn completions(arguments: &CompletionsArguments) -> Result<()> {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "tenurectl", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub fn man(arguments: &ManArguments) -> Result<()> {
    let directory = &arguments.directory;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let mut pages = vec![
        page("tenured", tenured(), "8"),
        page("tenure-fence", tenure_fence(), "8"),
        page("tenure-address", crate::address::Arguments::command(), "8"),
    ];
    let mut command = super::Arguments::command().disable_help_subcommand(true);
    // Now every command knows its whole name.
    command.build();
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages.push(page(&format!("tenurectl-{}", below.get_name()), below.clone(), "1"));
    }
    pages.push(page("tenurectl", command, "1"));
    for Page { file, text } in pages {
        write(&directory.join(file), &text)?;
    }
    Ok(())
}

struct Page {
    file: String,
    text: Vec<u8>,
}

fn page(name: &str, command: clap::Command, section: &str) -> Page {
    let command = command.version(env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).title(name).section(section).source("Tenure").manual("Tenure");
    let mut text = Vec::new();
    man.render(&mut text).expect("memory can be written to");
    Page { file: format!("{name}.{section}"), text }
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn tenured() -> clap::Command {
    crate::agent::Arguments::command()
}

/// Its own reading of these allocates nothing; here they stand for people only.
fn tenure_fence() -> clap::Command {
    let path = |name: &'static str, about: &'static str| {
        clap::Arg::new(name).long(name).value_name("PATH").help(about)
    };
    clap::Command::new("tenure-fence")
        .about("Kills PostgreSQL when the term of its agent runs out")
        .long_about(
            "The guardian of one PostgreSQL instance, started by its unit or by the agent. It takes either --config, or both \
             --socket and --data-dir.",
        )
        .arg(path("config", "The configuration of the agent, which says both of the others"))
        .arg(path("socket", "Where the agent reaches it; PATH.lock beside it makes sure that there is only one"))
        .arg(path("data-dir", "The data directory of the PostgreSQL that is watched"))
        .after_help("Exit status: 0 stopped while disarmed, 1 could not start, 2 wrong usage, 3 another guardian is there already")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_and_every_command_has_a_page() {
        let directory = tempfile::tempdir().expect("a directory");
        man(&ManArguments { directory: directory.path().to_owned() }).expect("written");
        for page in [
            "tenured.8",
            "tenure-fence.8",
            "tenure-address.8",
            "tenurectl.1",
            "tenurectl-list.1",
            "tenurectl-edit-config.1",
        ] {
            let text = fs::read_to_string(directory.path().join(page)).expect("a page");
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        let guardian = fs::read_to_string(directory.path().join("tenure-fence.8")).expect("a page");
        for option in ["config", "socket", "data\\-dir"] {
            assert!(guardian.contains(&format!("\\-\\-{option}")), "{option}: {guardian}");
        }
        assert!(!directory.path().join("tenurectl-man.1").exists(), "what packages call is not for people");
    }

    #[test]
    fn every_shell_gets_its_completions() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::super::Arguments::command(), "tenurectl", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("switchover") && script.contains("standby-leader"), "{shell}");
        }
    }
}
