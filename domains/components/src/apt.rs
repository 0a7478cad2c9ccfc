//! What is asked of the jailed apt: indices up to date, needs resolved to a closure.

use std::collections::{BTreeMap, BTreeSet};

use gtvp_ipc::fetcher::apt::Program;
use gtvp_model::boxspec::Need;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};

use crate::closure::{Closure, Package};
use crate::control::{Paragraph, paragraphs};
use crate::sources::{Output, Session};
use crate::version;

/// The package that depends on the kernel of today.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What every Debian system has. apt counts itself among them; a box's packages come from outside.
const ESSENTIAL: &str = "?and(?essential,?not(?exact-name(apt)))";
/// A system whose /bin is /usr/bin says so with this package; the alternative would pull in Perl to move files.
const MERGED: &str = "usr-is-merged";
/// How the Contents index of an architecture is named in apt's configuration (the fetcher writes it).
const CONTENTS: &str = "Contents-gtvp-";
/// Most near names that a refusal lists.
const NEAR_NAMES: usize = 4;

/// One index that apt has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its file.
    pub path: String,
    /// `Packages` or `Contents`.
    pub kind: String,
    /// `label/suite`.
    pub origin: String,
    /// Architecture.
    pub arch: String,
}

/// Brings the indices up to date. Answers with warnings about sources that could not be had.
pub fn update(session: &Session) -> Result<Vec<String>, Fault> {
    let done = session.run(Program::AptGet, &["-q", "update"])?;
    let complaints: Vec<String> = done
        .err
        .lines()
        .filter(|l| l.starts_with("W:") || l.starts_with("E:"))
        .map(|l| l[2..].trim().to_owned())
        .collect();
    let usable = indices(session)?.iter().any(|i| i.kind == "Packages");
    if usable {
        return Ok(complaints);
    }
    let mut fault = Fault::new(FaultKind::SourceUnreachable, "no package source can be reached");
    for complaint in complaints.into_iter().take(8) {
        fault = fault.because(complaint);
    }
    Err(fault
        .hint("the sources are those of /etc/apt/sources.list and /etc/apt/sources.list.d on the member"))
}

/// The indices that apt has.
pub fn indices(session: &Session) -> Result<Vec<Index>, Fault> {
    let format = "$(FILENAME)|$(CREATED_BY)|$(LABEL)|$(SUITE)|$(ARCHITECTURE)";
    let listed = session.run(Program::AptGet, &["indextargets", "--format", format])?;
    Ok(listed.out.lines().filter_map(parse_index).collect())
}

fn parse_index(line: &str) -> Option<Index> {
    let [path, kind, label, suite, arch] = line.split('|').collect::<Vec<_>>()[..] else { return None };
    let (kind, arch) = kind.strip_prefix(CONTENTS).map_or((kind, arch), |own| ("Contents", own));
    Some(Index {
        path: path.into(),
        kind: kind.into(),
        origin: format!("{label}/{suite}"),
        arch: arch.into(),
    })
}

/// Resolves needs, which are sorted and each there once, to a closure.
pub fn resolve(session: &Session, needs: &[Need]) -> Result<Closure, Fault> {
    let mut wanted: Vec<String> = needs
        .iter()
        .map(|n| n.version.as_ref().map_or(n.package.clone(), |v| format!("{}={v}", n.package)))
        .collect();
    wanted.push(ESSENTIAL.to_owned());
    wanted.push(MERGED.to_owned());
    let install = |first: &[&str]| -> Result<Output, Fault> {
        let args: Vec<&str> = first.iter().copied().chain(wanted.iter().map(String::as_str)).collect();
        session.run(Program::AptGet, &args)
    };
    let simulated = install(&["-q", "-s", "install"])?;
    if !simulated.ok {
        return Err(refusal(session, needs, &simulated));
    }
    let chosen: Vec<Chosen> = simulated.out.lines().filter_map(parse_inst).collect();
    let listed = install(&["-q", "-y", "--print-uris", "install"])?;
    let uris: BTreeMap<String, String> = listed.out.lines().filter_map(parse_uri).collect();
    let names: Vec<String> = chosen.iter().map(|c| format!("{}={}", c.name, c.version)).collect();
    let args: Vec<&str> = std::iter::once("show").chain(names.iter().map(String::as_str)).collect();
    let shown = paragraphs(&session.run(Program::AptCache, &args)?.out);
    let packages = chosen
        .iter()
        .map(|c| package(c, &shown, uris.get(&file_name(&c.name, &c.version, &c.arch))))
        .collect::<Result<_, _>>()?;
    Ok(Closure::new(kernel(session)?, packages))
}

/// Finds one package at a version, or at apt's choice.
pub fn find(session: &Session, need: &Need) -> Result<Package, Fault> {
    let name = need.version.as_ref().map_or(need.package.clone(), |v| format!("{}={v}", need.package));
    let listed = session.run(Program::AptGet, &["-q", "--print-uris", "download", &name])?;
    if !listed.ok {
        return Err(refusal(session, std::slice::from_ref(need), &listed));
    }
    let (file, uri) = listed.out.lines().filter_map(parse_uri).next().ok_or_else(|| unexpected("no URI"))?;
    let [package_name, version, arch] = file.split('_').collect::<Vec<_>>()[..] else {
        return Err(unexpected(&file));
    };
    let version = version.replace("%3a", ":");
    let shown = session.run(Program::AptCache, &["show", &format!("{package_name}={version}")])?;
    let policy = session.run(Program::AptCache, &["policy", package_name])?;
    let origins = origins_of_policy(&policy.out, &version);
    let chosen =
        Chosen { name: package_name.into(), version, arch: arch.trim_end_matches(".deb").into(), origins };
    package(&chosen, &paragraphs(&shown.out), Some(&uri))
}

/// The archives that have a version, from `apt-cache policy`: not needed for anything but people.
fn origins_of_policy(text: &str, version: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut here = false;
    for line in text.lines() {
        let words: Vec<&str> = line.trim_start_matches(" *** ").split_whitespace().collect();
        match words[..] {
            [v, n] if n.parse::<i64>().is_ok() => here = v == version,
            [_, _, suite, ..] if here => found.push(suite.to_owned()),
            _ => {}
        }
    }
    found
}

/// The newest kernel that the configured sources have.
fn kernel(session: &Session) -> Result<Package, Fault> {
    let missing = |why: &str| {
        Fault::new(FaultKind::NotFound, "the sources have no kernel for a box")
            .because(why.to_owned())
            .hint(format!("{KERNEL} must be in one of the member's sources"))
    };
    let shown = paragraphs(&session.run(Program::AptCache, &["show", KERNEL])?.out);
    let newest = shown
        .iter()
        .filter(|p| p.get("Version").is_some())
        .max_by(|a, b| version::compare(a.get("Version").unwrap_or(""), b.get("Version").unwrap_or("")))
        .ok_or_else(|| missing(&format!("{KERNEL} is not in them")))?;
    let depends = newest.relations("Depends");
    let image = depends.iter().flatten().find(|r| r.name.starts_with("linux-image-"));
    let image = image.ok_or_else(|| missing(&format!("{KERNEL} depends on no image")))?;
    let version = image
        .version
        .as_ref()
        .map_or_else(|| newest.get("Version").unwrap_or("").to_owned(), |(_, v)| v.clone());
    let need: Need =
        format!("{}={version}", image.name).parse().map_err(|_| missing("its name is not usable"))?;
    find(session, &need)
}

/// A line of `apt-get -s install`.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    name: String,
    version: String,
    arch: String,
    origins: Vec<String>,
}

/// `Inst NAME (VERSION LABEL:RELEASE/SUITE, … [ARCH]) …`.
fn parse_inst(line: &str) -> Option<Chosen> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(" (")?;
    let inside = rest.split_once(')')?.0;
    let (front, arch) = inside.rsplit_once(" [")?;
    let (version, origins) = front.split_once(' ')?;
    let origin = |o: &str| {
        let (label, rest) = o.trim().split_once(':')?;
        Some(format!("{label}/{}", rest.split_once('/')?.1))
    };
    Some(Chosen {
        name: name.split([':', ' ']).next()?.to_owned(),
        version: version.to_owned(),
        arch: arch.trim_end_matches(']').to_owned(),
        origins: origins.split(',').filter_map(origin).collect(),
    })
}

/// `'URI' FILE SIZE HASH` to file and URI.
fn parse_uri(line: &str) -> Option<(String, String)> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    Some((rest.split(' ').next()?.to_owned(), uri.to_owned()))
}

/// The name that apt gives a package's file.
fn file_name(name: &str, version: &str, arch: &str) -> String {
    format!("{name}_{}_{arch}.deb", version.replace(':', "%3a"))
}

fn unexpected(what: &str) -> Fault {
    Fault::new(FaultKind::Internal, "apt answered something that is not understood")
        .because(what.chars().take(200).collect::<String>())
}

fn package(chosen: &Chosen, shown: &[Paragraph], uri: Option<&String>) -> Result<Package, Fault> {
    let is_it = |p: &&Paragraph| {
        p.get("Package") == Some(&chosen.name)
            && p.get("Version") == Some(&chosen.version)
            && p.get("Architecture") == Some(&chosen.arch)
    };
    let label = format!("{}={}", chosen.name, chosen.version);
    let candidates: Vec<&Paragraph> = shown.iter().filter(is_it).collect();
    let digests: BTreeSet<&str> = candidates.iter().filter_map(|p| p.get("SHA256")).collect();
    if digests.len() > 1 {
        return Err(Fault::new(
            FaultKind::Integrity,
            format!("two sources offer different packages as {label}"),
        )
        .hint("take one of the two sources out of the member's apt sources"));
    }
    let found = candidates.first().ok_or_else(|| unexpected(&format!("nothing about {label}")))?;
    let source: Digest = digests
        .first()
        .and_then(|d| d.parse().ok())
        .ok_or_else(|| Fault::new(FaultKind::Integrity, format!("the index has no SHA-256 for {label}")))?;
    let size = found.get("Size").and_then(|s| s.parse().ok()).ok_or_else(|| unexpected(&label))?;
    let control: String = found.fields.iter().map(|(k, v)| format!("{k}: {v}\n")).collect();
    Ok(Package {
        name: chosen.name.clone(),
        version: chosen.version.clone(),
        arch: chosen.arch.clone(),
        source,
        size,
        uri: uri.ok_or_else(|| unexpected(&format!("no URI of {label}")))?.clone(),
        origins: chosen.origins.clone(),
        control,
    })
}

/// What apt's refusal means.
fn refusal(session: &Session, needs: &[Need], output: &Output) -> Fault {
    for line in output.err.lines() {
        let Some(text) = line.strip_prefix("E: ") else { continue };
        let quoted = |after: &str| {
            text.split_once(after).and_then(|(_, r)| r.split('\'').next()).unwrap_or_default().to_owned()
        };
        if let Some(name) = text.strip_prefix("Unable to locate package ") {
            return not_found(session, name);
        }
        if text.starts_with("Version '") {
            let name = quoted("' for '");
            return Fault::new(FaultKind::NotFound, format!("no source has {name}={}", quoted("Version '")))
                .hint(versions_of(session, &name));
        }
        if text.contains("has no installation candidate")
            || text.starts_with("Can't select candidate version")
            || text.starts_with("Can't find a source")
        {
            let name = quoted("'");
            let name = if name.is_empty() {
                needs.first().map_or(String::new(), |n| n.package.clone())
            } else {
                name
            };
            let providers = providers(&output.out);
            let fault =
                Fault::new(FaultKind::NotFound, format!("{name} is not a package that can be installed"));
            return if providers.is_empty() {
                fault.hint(versions_of(session, &name))
            } else {
                fault.hint(format!("need one of these, which provide it: {}", providers.join(", ")))
            };
        }
    }
    let listed: Vec<String> = needs.iter().map(ToString::to_string).collect();
    let mut fault =
        Fault::new(FaultKind::Invalid, format!("the needs cannot be met together: {}", listed.join(", ")));
    let reasons = output.out.lines().skip_while(|l| !l.contains("unmet dependencies")).skip(1);
    for reason in reasons.chain(output.err.lines()).map(str::trim).filter(|l| !l.is_empty()).take(12) {
        fault = fault.because(reason.trim_start_matches("E: "));
    }
    fault
}

/// The packages that apt names instead of one that cannot be installed.
fn providers(text: &str) -> Vec<&str> {
    let listed =
        text.lines().skip_while(|l| !l.contains("provided by:") && !l.contains("replace it:")).skip(1);
    listed.take_while(|l| l.starts_with("  ")).filter_map(|l| l.split_whitespace().next()).take(8).collect()
}

fn versions_of(session: &Session, name: &str) -> String {
    let shown =
        session.run(Program::AptCache, &["show", name]).map(|o| paragraphs(&o.out)).unwrap_or_default();
    let versions: BTreeSet<&str> = shown.iter().filter_map(|p| p.get("Version")).collect();
    if versions.is_empty() {
        return "no source has it at any version".into();
    }
    format!("the sources have {}", versions.into_iter().take(8).collect::<Vec<_>>().join(", "))
}

fn not_found(session: &Session, name: &str) -> Fault {
    let fault = Fault::new(FaultKind::NotFound, format!("there is no package {name}"));
    let known = session.run(Program::AptCache, &["pkgnames"]).map(|o| o.out).unwrap_or_default();
    let near = near_names(name, known.lines());
    if near.is_empty() {
        fault.hint("the sources are those of /etc/apt on the member; search them with: apt-cache search WORD")
    } else {
        fault.hint(format!("did you mean {}?", near.join(", ")))
    }
}

/// Names within a few typing errors of `name`, nearest first.
pub fn near_names<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let most = (name.len() / 4).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = known
        .filter(|k| k.len().abs_diff(name.len()) <= most || k.starts_with(name))
        .filter_map(|k| {
            let d = distance(name.as_bytes(), k.as_bytes());
            (d <= most).then_some((d, k)).or_else(|| k.starts_with(name).then_some((most + d, k)))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(NEAR_NAMES).map(|(_, k)| k.to_owned()).collect()
}

/// Typing errors between two words: one letter added, missing, wrong, or two neighbours swapped.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let wrong = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (row[j] + 1).min(next[j - 1] + 1).min(row[j - 1] + wrong);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_lines_read() {
        let line = "Inst libgcrypt20 (1.10.1-3+deb12u1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []";
        let chosen = parse_inst(line).unwrap();
        assert_eq!(chosen.origins, ["Debian/oldstable", "Debian-Security/oldstable-security"]);
        assert_eq!(
            (chosen.name.as_str(), chosen.version.as_str(), chosen.arch.as_str()),
            ("libgcrypt20", "1.10.1-3+deb12u1", "amd64")
        );
        assert_eq!(parse_inst("Conf libc6 (2.36 Debian:12/stable [amd64])"), None);
        let uri = "'http://h/pool/a_1%3a2_all.deb' a_1%3a2_all.deb 12 SHA256:ab";
        assert_eq!(parse_uri(uri), Some(("a_1%3a2_all.deb".into(), "http://h/pool/a_1%3a2_all.deb".into())));
        assert_eq!(file_name("a", "1:2", "all"), "a_1%3a2_all.deb");
    }

    #[test]
    fn who_provides_a_virtual_package_is_told() {
        let text = "NOTE: This is only a simulation!\n      apt-get needs root\nPackage httpd is a virtual package provided by:\n  \
            nginx 1.22 (= 1.22)\n  apache2 2.4\nYou should explicitly select one to install.\n";
        assert_eq!(providers(text), ["nginx", "apache2"]);
    }

    #[test]
    fn near_names_are_near() {
        let known = ["nginx", "nginx-common", "ngircd", "redis", "python3"];
        assert_eq!(near_names("ngnix", known.into_iter())[0], "nginx");
        assert_eq!(near_names("pyhton3", known.into_iter()), ["python3"]);
        assert!(near_names("completely-else", known.into_iter()).is_empty());
    }

    #[test]
    fn two_publishers_of_one_name_are_refused() {
        let chosen = Chosen { name: "a".into(), version: "1".into(), arch: "all".into(), origins: vec![] };
        let p = |sha: char| {
            format!(
                "Package: a\nVersion: 1\nArchitecture: all\nSize: 4\nSHA256: {}\n",
                sha.to_string().repeat(64)
            )
        };
        let uri = "http://h/a".to_owned();
        let same = paragraphs(&format!("{}\n{}", p('a'), p('a')));
        assert!(package(&chosen, &same, Some(&uri)).is_ok());
        let different = paragraphs(&format!("{}\n{}", p('a'), p('b')));
        assert_eq!(package(&chosen, &different, Some(&uri)).unwrap_err().kind, FaultKind::Integrity);
    }
}
