//! What to try when the command line cannot be understood, where clap has no answer of its own. Only words: nothing is
//! carried out in place of what was asked.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// The error, with a tip where there is one.
pub fn with_tip(mut error: Error, command: &Command) -> Error {
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => missing_dashes(&error),
        ErrorKind::InvalidSubcommand => elsewhere(&error, command),
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// `gtvp run --needs nginx nginx`: the application's words stand after `--`.
fn missing_dashes(error: &Error) -> Option<String> {
    let word = text(error, ContextKind::InvalidArg)?;
    let usage = error.get(ContextKind::Usage)?.to_string();
    (!word.starts_with('-') && usage.contains("-- <COMMAND>"))
        .then(|| format!("the application and its arguments stand after --: -- {word} …"))
}

/// `gtvp logs`: another noun has that verb.
fn elsewhere(error: &Error, command: &Command) -> Option<String> {
    if error.get(ContextKind::SuggestedSubcommand).is_some() {
        return None;
    }
    let word = text(error, ContextKind::InvalidSubcommand)?;
    let word = match word.as_str() {
        "ps" => "ls",
        "kill" | "delete" => "rm",
        other => other,
    };
    let noun = command.get_subcommands().find(|noun| noun.find_subcommand(word).is_some())?;
    Some(format!("there is: {} {} {word}", command.get_name(), noun.get_name()))
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    fn told(words: &[&str]) -> String {
        let command = Cli::command();
        let error = command.clone().try_get_matches_from([&["gtvp"], words].concat()).unwrap_err();
        with_tip(error, &command).to_string()
    }

    #[test]
    fn a_command_without_dashes_is_told_where_they_go() {
        assert!(told(&["run", "--needs", "nginx", "nginx", "-g", "x"]).contains("after --: -- nginx"));
        assert!(told(&["exec", "web", "ls"]).contains("after --: -- ls"));
    }

    #[test]
    fn a_verb_without_its_noun_is_told_its_noun() {
        assert!(told(&["logs", "web"]).contains("there is: gtvp box logs"));
        assert!(told(&["ps"]).contains("there is: gtvp box ls"));
        assert!(told(&["import", "nginx"]).contains("there is: gtvp component import"));
    }

    #[test]
    fn what_clap_suggests_is_left_alone() {
        assert!(told(&["runn"]).contains("'run'"));
        assert!(!told(&["box", "ls", "web"]).contains("after --"));
        assert!(!told(&["nonsense"]).contains("there is"));
    }
}
