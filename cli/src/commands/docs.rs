//! Completions, man pages, version.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use gtvp_model::fault::Fault;

use crate::args::{Cli, CompletionShell, Completions, Man};
use crate::failure::io;
use crate::output::{print, print_bytes};

/// `gtvp completions`.
pub fn completions(words: &Completions) {
    let shell = match words.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gtvp", &mut text);
    print_bytes(&text);
}

/// `gtvp man`.
pub fn man(words: &Man) -> Result<(), Fault> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = &words.dir else {
        print_bytes(&page(&command, "gtvp")?);
        return Ok(());
    };
    std::fs::create_dir_all(dir).map_err(|e| io(format!("{} cannot be made", dir.display()), &e))?;
    let written = pages(&command, "gtvp", dir)?;
    print(&format!("{written} man pages written to {}\n", dir.display()));
    Ok(())
}

fn pages(command: &clap::Command, name: &str, dir: &Path) -> Result<usize, Fault> {
    let file = dir.join(format!("{name}.1"));
    std::fs::write(&file, page(command, name)?)
        .map_err(|e| io(format!("{} cannot be written", file.display()), &e))?;
    let mut written = 1;
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        written += pages(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(written)
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    // clap keeps names for the whole run of the program.
    let named =
        command.clone().name(&*Box::leak(name.to_owned().into_boxed_str())).display_name(name.to_owned());
    clap_mangen::Man::new(named).render(&mut text).map_err(|e| io("the page cannot be made", &e))?;
    // What stands after the help of every command is its examples.
    Ok(String::from_utf8_lossy(&text).replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n").into_bytes())
}

/// `gtvp version`.
pub fn version() {
    print(&format!("gtvp {}\n", env!("CARGO_PKG_VERSION")));
}
