//! A box from a TOML file and from flags. What is wrong is said with its line, and an unknown key with the nearest known one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use gtvp_model::boxspec::{BoxSpec, Need, Publish};
use gtvp_model::fault::Fault;
use gtvp_model::ids::BoxName;
use gtvp_model::units::Bytes;
use serde::Deserialize;

use crate::args::Run;
use crate::failure::{invalid, io};

/// Most bytes of a file: what the API takes in one request.
const MAX_FILE: u64 = 1024 * 1024;

/// [`BoxSpec`] where everything may still come from a flag.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    name: Option<BoxName>,
    needs: Option<Vec<Need>>,
    command: Option<Vec<String>>,
    env: Option<BTreeMap<String, String>>,
    user: Option<String>,
    workdir: Option<String>,
    memory: Option<Bytes>,
    cpus: Option<u16>,
    disk: Option<Bytes>,
    publish: Option<Vec<Publish>>,
    cold: Option<bool>,
}

/// The keys that a file may have.
const KEYS: [&str; 11] =
    ["name", "needs", "command", "env", "user", "workdir", "memory", "cpus", "disk", "publish", "cold"];

/// The box that `run` asks for.
pub fn spec(run: &Run) -> Result<BoxSpec, Fault> {
    let file = match &run.file {
        Some(path) => parse(&path.display().to_string(), &read(path, MAX_FILE)?)?,
        None => SpecFile::default(),
    };
    let or = |flag: &[Publish], file: Option<Vec<Publish>>| {
        if flag.is_empty() { file.unwrap_or_default() } else { flag.to_vec() }
    };
    let needs = if run.needs.is_empty() { file.needs.unwrap_or_default() } else { run.needs.clone() };
    let command = if run.command.is_empty() { file.command.unwrap_or_default() } else { run.command.clone() };
    let name = match run.name.clone().or(file.name) {
        Some(name) => name,
        None => made_up(&needs)?,
    };
    let mut spec = BoxSpec::new(name, needs, command);
    spec.env = file.env.unwrap_or_default();
    spec.env.extend(run.env.iter().cloned());
    spec.user = run.user.clone().or(file.user);
    spec.workdir = run.workdir.clone().or(file.workdir);
    spec.memory = run.memory.or(file.memory).unwrap_or(spec.memory);
    spec.cpus = run.cpus.or(file.cpus).unwrap_or(spec.cpus);
    spec.disk = run.disk.or(file.disk).unwrap_or(spec.disk);
    spec.publish = or(&run.publish, file.publish);
    spec.cold = run.cold || file.cold.unwrap_or(false);
    spec.check()?;
    Ok(spec)
}

/// Text from a file, or from standard input for `-`: `most` bytes of it at the most.
pub fn read(path: &Path, most: u64) -> Result<String, Fault> {
    let name = path.display();
    let cannot = |e: &std::io::Error| io(format!("{name} cannot be read"), e);
    let mut text = String::new();
    let length = if path == Path::new("-") {
        std::io::stdin().take(most + 1).read_to_string(&mut text).map_err(|e| cannot(&e))?
    } else {
        let file = std::fs::File::open(path).map_err(|e| cannot(&e))?;
        file.take(most + 1).read_to_string(&mut text).map_err(|e| cannot(&e))?
    };
    if length as u64 > most {
        return Err(invalid(format!("{name} is longer than {most} bytes")));
    }
    Ok(text)
}

fn parse(file: &str, text: &str) -> Result<SpecFile, Fault> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        match unknown_key(e.message()) {
            Some(key) => {
                let fault = invalid(format!("{file}, line {line}: unknown key {key:?}"));
                match nearest(key) {
                    Some(known) => fault.hint(format!("did you mean {known:?}?")),
                    None => fault.hint(format!("the keys are {}", KEYS.join(", "))),
                }
            }
            None => invalid(format!("{file}, line {line}: {}", e.message().trim_end().replace('\n', ", "))),
        }
    })
}

/// The key that serde's message names, if it is about one that is unknown.
fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

/// The known key that takes the fewest changes to get to, if that is few.
fn nearest(key: &str) -> Option<&'static str> {
    let (changes, known) = KEYS.iter().map(|k| (distance(key, k), *k)).min()?;
    (changes <= 1 + key.chars().count() / 3).then_some(known)
}

/// Damerau–Levenshtein distance, with neighbours swapped as one change.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A name after the first need, with four letters at random.
fn made_up(needs: &[Need]) -> Result<BoxName, Fault> {
    let base: String = needs
        .first()
        .map_or("box", |n| n.package.as_str())
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .take(40)
        .collect();
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| io("no random name can be made", &e.into()))?;
    let letters: String = random.iter().map(|b| char::from(b'a' + b % 26)).collect();
    format!("{}-{letters}", base.trim_matches('-')).parse().map_err(|e: gtvp_model::ids::BadName| {
        Fault::internal("no name can be made up", &e).hint("give one with --name")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn run(words: &[&str]) -> Run {
        let all = ["gtvp", "run"].iter().chain(words);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Run(run) => run,
            _ => panic!("not run"),
        }
    }

    #[test]
    fn the_file_has_the_keys_of_a_box_spec() {
        let schema = schemars::schema_for!(BoxSpec).to_value();
        let mut want: Vec<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut have = KEYS.to_vec();
        want.sort_unstable();
        have.sort_unstable();
        assert_eq!(have, want);
        for key in KEYS {
            let fault = parse("f", &format!("{key} = 1.5\n")).unwrap_err();
            assert!(!fault.message.contains("unknown"), "{fault}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_nearest_one() {
        let fault = parse("web.toml", "name = 'w'\nneeds = ['nginx']\nmemroy = '1G'\n").unwrap_err();
        assert_eq!(fault.message, "web.toml, line 3: unknown key \"memroy\"");
        assert_eq!(fault.hint.unwrap(), "did you mean \"memory\"?");
        let fault = parse("web.toml", "priority = 1\n").unwrap_err();
        assert!(fault.hint.unwrap().contains("name, needs, command"));
    }

    #[test]
    fn a_bad_value_and_bad_syntax_have_their_line() {
        let fault = parse("web.toml", "name = 'w'\nmemory = 'much'\n").unwrap_err();
        assert!(fault.message.starts_with("web.toml, line 2:") && fault.message.contains("much"), "{fault}");
        let fault = parse("web.toml", "name = 'w'\n\n[[\n").unwrap_err();
        assert!(fault.message.starts_with("web.toml, line 3:"), "{fault}");
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.toml");
        std::fs::write(
            &path,
            "name='web'\nneeds=['nginx']\ncommand=['nginx']\nmemory='1G'\nenv={A='1',B='2'}\n",
        )
        .unwrap();
        let spec = spec(&run(&[
            "-f",
            path.to_str().unwrap(),
            "--memory",
            "256M",
            "--env",
            "B=3",
            "--",
            "sleep",
            "1",
        ]))
        .unwrap();
        assert_eq!((spec.name.as_str(), spec.memory, spec.cpus), ("web", Bytes::mib(256), 1));
        assert_eq!(spec.command, ["sleep", "1"]);
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("1", "3"));
    }

    #[test]
    fn a_name_is_made_up_from_the_need() {
        let spec = spec(&run(&["--needs", "g++,make", "--", "true"])).unwrap();
        assert!(spec.name.as_str().starts_with("g-") && spec.name.as_str().len() == 6, "{}", spec.name);
        assert_eq!(spec.needs.len(), 2);
    }

    #[test]
    fn a_box_without_command_or_needs_is_refused_with_a_hint() {
        assert!(super::spec(&run(&["--needs", "nginx"])).unwrap_err().hint.unwrap().contains("--"));
        assert!(super::spec(&run(&["--", "true"])).unwrap_err().hint.unwrap().contains("--needs"));
    }
}
