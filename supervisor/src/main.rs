//! gtvpd: jails the domains, hands them what they may hold, restarts them, nothing else.
//!
//! It decides nothing that a domain could decide: who may do what stands in topology.toml.

#[macro_use]
mod log;

mod backoff;
mod boxes;
mod cgroup;
mod confine;
mod domains;
mod down;
mod host;
mod keeper;
mod kernel_logs;
mod kmsg;
mod launch;
mod mail;
mod measure;
mod member;
mod network;
mod notify;
mod places;
mod plan;
mod probe;
mod process;
mod published;
mod records;
mod ruleset;
mod seccomp;
mod service;
mod spec;
mod stage;
mod supervise;
mod sys;
mod syscalls;
mod template;

use std::path::PathBuf;

use member::Member;

const HELP: &str = "\
gtvpd [--config FILE]                       serve this member (FILE: /etc/gtvp/member.toml)
gtvpd [--config FILE] down                  end the member's boxes, networks and run directory; its state stays
gtvpd [--config FILE] probe --domain NAME   try everything from inside the domain's jail; prints JSON
gtvpd [--config FILE] probe --template NAME the same for a template of topology.toml
gtvpd [--config FILE] trace                 serve, but tell system calls that rows lack instead of ending the process
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Serve,
    Trace,
    Down,
    Probe(Option<probe::Whose>),
    Help,
    Version,
}

fn parse(args: &[String]) -> Result<(PathBuf, Wish), String> {
    let mut config = PathBuf::from("/etc/gtvp/member.toml");
    let mut wish = Wish::Serve;
    let mut whose = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--config" => config = value()?.into(),
            "--domain" => whose = Some(probe::Whose::Domain(value()?)),
            "--template" => whose = Some(probe::Whose::Template(value()?)),
            "down" => wish = Wish::Down,
            "trace" => wish = Wish::Trace,
            "probe" => wish = Wish::Probe(None),
            "--help" | "-h" => wish = Wish::Help,
            "--version" => wish = Wish::Version,
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    match (&mut wish, whose) {
        (Wish::Probe(_), None) => return Err("probe needs --domain NAME or --template NAME".into()),
        (Wish::Probe(asked), whose) => *asked = whose,
        (_, Some(_)) => return Err("--domain and --template belong to probe".into()),
        (_, None) => {}
    }
    Ok((config, wish))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // gtvpd's own stages, started by itself.
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["jail"] => std::process::exit(stage::run()),
        ["hold-network", kind] => std::process::exit(network::hold(kind)),
        _ => {}
    }
    std::process::exit(match parse(&args) {
        Ok((config, wish)) => carry_out(&config, wish),
        Err(why) => {
            say!("{why}\n{HELP}");
            2
        }
    });
}

fn carry_out(config: &std::path::Path, wish: Wish) -> i32 {
    match wish {
        Wish::Help => {
            print!("{HELP}");
            return 0;
        }
        Wish::Version => {
            println!("gtvpd {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        say!("it must be started by root: it makes jails and networks");
        return 1;
    }
    let member = match Member::open(config) {
        Ok(member) => member,
        Err(e) => {
            say!("{e}");
            return 1;
        }
    };
    match wish {
        Wish::Down => down::run(&member),
        Wish::Probe(Some(whose)) => probe::run(&member, &whose),
        Wish::Serve | Wish::Trace | Wish::Probe(None) | Wish::Help | Wish::Version => {
            match supervise::run(member, wish == Wish::Trace) {
                Ok(()) => 0,
                Err(e) => {
                    say!("{e}");
                    1
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let args = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (config, wish) = parse(&args(&["--config", "/x", "down"])).unwrap();
        assert_eq!((config, wish), ("/x".into(), Wish::Down));
        assert_eq!(
            parse(&args(&["probe", "--domain", "drivers"])).unwrap().1,
            Wish::Probe(Some(probe::Whose::Domain("drivers".into())))
        );
        for bad in [&["probe"][..], &["--config"], &["--domain", "x"], &["dwon"]] {
            assert!(parse(&args(bad)).is_err(), "{bad:?} was accepted");
        }
    }
}
