//! `gtvp`, the command line: words in, requests to one member's API, answers printed. Decides nothing; everything but `lab` uses
//! the API only.

mod args;
mod client;
mod commands;
mod failure;
mod follow;
mod lab;
mod output;
mod progress;
mod specfile;
mod spoken;
mod target;
mod terminal;
mod tips;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use gtvp_model::fault::Fault;

use crate::args::{Cli, Command};
use crate::client::{Api, runtime};
use crate::commands::{
    boxes, components, docs, doctor, events, exec, member, operations, run, templates, union, verify,
};
use crate::failure::{FAILED, GTVP_FAILED, tell};

fn main() -> ExitCode {
    let cli = words();
    let code = carry_out(&cli).unwrap_or_else(|fault| {
        tell(&fault);
        match cli.command {
            Command::Run(_) | Command::Exec(_) | Command::Shell(_) => GTVP_FAILED,
            _ => FAILED,
        }
    });
    // Not by returning: a thread may sit in a read of standard input.
    std::process::exit(i32::from(code))
}

/// The command line. A member that was named on it wins over a socket that the environment names.
fn words() -> Cli {
    let command = Cli::command();
    let matches = command.clone().try_get_matches().unwrap_or_else(|e| tips::with_tip(e, &command).exit());
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    let from = |id| matches.value_source(id);
    if from("member") == Some(ValueSource::CommandLine) && from("socket") == Some(ValueSource::EnvVariable) {
        cli.socket = None;
    }
    cli
}

fn carry_out(cli: &Cli) -> Result<u8, Fault> {
    match &cli.command {
        Command::Completions(words) => docs::completions(words),
        Command::Man(words) => docs::man(words)?,
        Command::Version(_) => docs::version(),
        Command::Lab(words) => return lab::run(words),
        Command::Verify(words) => return verify::verify(words),
        Command::Doctor(words) => return runtime()?.block_on(doctor::doctor(cli, words)),
        _ => {
            let api = Api::new(target::socket(cli)?);
            return runtime()?.block_on(ask(&api, &cli.command));
        }
    }
    Ok(0)
}

async fn ask(api: &Api, command: &Command) -> Result<u8, Fault> {
    match command {
        Command::Run(words) => run::run(api, words).await,
        Command::Box(words) => boxes::run(api, words).await,
        Command::Exec(words) => exec::exec(api, words).await,
        Command::Shell(words) => exec::shell(api, words).await,
        Command::Component(words) => components::run(api, words).await,
        Command::Template(words) => templates::run(api, words).await,
        Command::Member(words) => member::run(api, words).await.map(|()| 0),
        Command::Union(words) => union::run(api, words).await.map(|()| 0),
        Command::Token(words) => union::token(api, words).await.map(|()| 0),
        Command::Join(words) => union::join(api, words).await,
        Command::Reference(words) => union::reference(api, words).await.map(|()| 0),
        Command::Events(words) => events::events(api, words).await.map(|()| 0),
        Command::Operation(words) => operations::run(api, words).await,
        Command::Doctor(_)
        | Command::Lab(_)
        | Command::Verify(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Version(_) => Ok(0),
    }
}
