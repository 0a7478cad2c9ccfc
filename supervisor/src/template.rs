//! What a domain asks for when it spawns from a template, checked and turned into arguments. Pure.

use std::collections::BTreeMap;

use gtvp_ipc::supervisor::Param;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::topology::{ParamType, TemplateRow};

/// First number of the named descriptors.
const FIRST_FD: i32 = 3;
/// The listening socket of a process that is restarted: the supervisor's, never the owner's.
pub const KEEPER: &str = "keeper";

/// A checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// Arguments.
    pub argv: Vec<String>,
    /// Name of each descriptor that becomes a number, with it.
    pub numbers: Vec<(String, i32)>,
    /// Name of each descriptor that becomes a file, with its path.
    pub files: Vec<(String, String)>,
}

/// Checks names, types and completeness, and expands the arguments. `given` are the names of the descriptors that came.
pub fn expand(
    row: &TemplateRow,
    params: &BTreeMap<String, Param>,
    given: &[String],
) -> Result<Expanded, Fault> {
    let invalid = |message: String| Fault::new(FaultKind::Invalid, message);
    for (name, value) in params {
        let kind = row.params.get(name).ok_or_else(|| invalid(format!("there is no parameter {name:?}")))?;
        check(kind, value).map_err(|why| invalid(format!("parameter {name}: {why}")))?;
    }
    let files: Vec<(String, String)> = row
        .files
        .iter()
        .filter(|(name, _)| given.contains(name))
        .map(|(n, p)| (n.clone(), p.clone()))
        .collect();
    let mut numbers = Vec::new();
    for (n, declared) in row.fds.iter().enumerate() {
        let (name, optional) = declared.strip_suffix('?').map_or((declared.as_str(), false), |n| (n, true));
        let number = FIRST_FD + i32::try_from(n).map_err(|_| invalid("too many descriptors".into()))?;
        if given.iter().any(|g| g == name) || (row.restart && name == KEEPER) {
            numbers.push((name.to_owned(), number));
        } else if !optional {
            return Err(invalid(format!("descriptor {name} is missing")));
        }
    }
    for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        if given.iter().any(|g| g == name) {
            numbers.push(((*name).to_owned(), i32::try_from(number).unwrap_or(0)));
        }
    }
    if let Some(missing) = row.files.keys().find(|name| !given.contains(name)) {
        return Err(invalid(format!("descriptor {missing} is missing")));
    }
    for (i, name) in given.iter().enumerate() {
        let known = numbers.iter().any(|(n, _)| n == name) || files.iter().any(|(n, _)| n == name);
        if !known || (row.restart && name == KEEPER) {
            return Err(invalid(format!("there is no descriptor {name:?} to hand over")));
        }
        if given[..i].contains(name) {
            return Err(invalid(format!("descriptor {name} came twice")));
        }
    }
    let expander = Expander { params, numbers: &numbers };
    let mut argv = Vec::new();
    for argument in &row.argv {
        expander.push(argument, &mut argv)?;
    }
    for group in &row.group {
        if expander.holds(&group.when, given) {
            for argument in &group.argv {
                expander.push(argument, &mut argv)?;
            }
        }
    }
    Ok(Expanded { argv, numbers, files })
}

fn check(kind: &ParamType, value: &Param) -> Result<(), String> {
    match (kind, value) {
        (ParamType::Int([low, high]), Param::Int(n)) if (low..=high).contains(&n) => Ok(()),
        (ParamType::Int([low, high]), _) => Err(format!("it must be a number from {low} to {high}")),
        (ParamType::OneOf(words), Param::Word(w)) if words.contains(w) => Ok(()),
        (ParamType::OneOf(words), _) => Err(format!("it must be one of {}", words.join(", "))),
        (ParamType::Word(most), Param::Word(w)) => word(w, *most),
        (ParamType::Words(most), Param::Words(words)) => {
            if words.len() > *most {
                return Err(format!("more than {most} words"));
            }
            words.iter().try_for_each(|w| word(w, MAX_WORD))
        }
        _ => Err("it has another type".into()),
    }
}

/// Longest word of a list of words: a package's name and version.
const MAX_WORD: usize = 512;

fn word(w: &str, most: usize) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".+-_:~=/".contains(&b);
    if w.is_empty() || w.len() > most {
        return Err(format!("a word has 1 to {most} characters"));
    }
    if w.starts_with('-') || !w.bytes().all(allowed) {
        return Err("a word has letters, digits and .+-_:~=/ and does not begin with -".into());
    }
    Ok(())
}

struct Expander<'a> {
    params: &'a BTreeMap<String, Param>,
    numbers: &'a [(String, i32)],
}

impl Expander<'_> {
    fn holds(&self, when: &str, given: &[String]) -> bool {
        if let Some(name) = when.strip_prefix("fd:") {
            return given.iter().any(|g| g == name);
        }
        let Some(param) = when.strip_prefix("param:") else { return false };
        match param.split_once('=') {
            None => self.params.contains_key(param),
            Some((name, wanted)) => match self.params.get(name) {
                Some(Param::Int(n)) => n.to_string() == wanted,
                Some(Param::Word(w)) => w == wanted,
                Some(Param::Words(_)) | None => false,
            },
        }
    }

    fn push(&self, argument: &str, argv: &mut Vec<String>) -> Result<(), Fault> {
        let whole = argument.strip_prefix('{').and_then(|a| a.strip_suffix('}'));
        if let Some(Param::Words(words)) = whole.and_then(|name| self.params.get(name)) {
            argv.extend(words.iter().cloned());
            return Ok(());
        }
        let mut out = String::new();
        let mut rest = argument;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').map(|n| open + n);
            let close =
                close.ok_or_else(|| Fault::new(FaultKind::Internal, format!("{argument:?} has no }}")))?;
            out.push_str(&rest[..open]);
            out.push_str(&self.value(&rest[open + 1..close])?);
            rest = &rest[close + 1..];
        }
        out.push_str(rest);
        argv.push(out);
        Ok(())
    }

    fn value(&self, name: &str) -> Result<String, Fault> {
        if let Some(fd) = name.strip_prefix("fd:") {
            let number = self.numbers.iter().find(|(n, _)| n == fd).map(|(_, number)| number.to_string());
            return number
                .ok_or_else(|| Fault::new(FaultKind::Invalid, format!("descriptor {fd} is missing")));
        }
        match self.params.get(name) {
            Some(Param::Int(n)) => Ok(n.to_string()),
            Some(Param::Word(w)) => Ok(w.clone()),
            Some(Param::Words(_)) => Err(Fault::new(
                FaultKind::Internal,
                format!("{name} is a list and stands inside an argument"),
            )),
            None => Err(Fault::new(FaultKind::Invalid, format!("parameter {name} is missing"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> TemplateRow {
        toml::from_str(&format!("purpose='t'\nowner='drivers'\nprogram='p'\nuid='box:0'\n{text}\n[jail]\n"))
            .unwrap()
    }

    fn params(list: &[(&str, Param)]) -> BTreeMap<String, Param> {
        list.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect()
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn arguments_and_groups_are_filled_in() {
        let row = row("fds=['a','b?']\nfiles={kernel='/kernel'}\nargv=['-m','{n}M','fd={fd:a}','{words}']\n\
             group=[{when='fd:b',argv=['b={fd:b}']},{when='param:mode=x',argv=['x']}]\n\
             [params]\nn={int=[1,9]}\nwords={words=3}\nmode={one_of=['x','y']}");
        let given = params(&[
            ("n", Param::Int(5)),
            ("words", Param::Words(names(&["p", "q"]))),
            ("mode", Param::Word("x".into())),
        ]);
        let e = expand(&row, &given, &names(&["kernel", "a", "stderr"])).unwrap();
        assert_eq!(e.argv, ["-m", "5M", "fd=3", "p", "q", "x"]);
        assert_eq!(e.numbers, [("a".to_owned(), 3), ("stderr".to_owned(), 2)]);
        assert_eq!(e.files, [("kernel".to_owned(), "/kernel".to_owned())]);
        let e = expand(&row, &given, &names(&["kernel", "a", "b"])).unwrap();
        assert_eq!(e.argv[5], "b=4");
    }

    #[test]
    fn what_a_template_does_not_say_is_refused() {
        let row = row("fds=['a']\nargv=['{w}']\n[params]\nw={word=4}\nn={int=[1,9]}");
        let a = names(&["a"]);
        let word = |w: &str| params(&[("w", Param::Word(w.into()))]);
        assert!(expand(&row, &word("ok"), &a).is_ok());
        for bad in ["", "-x", "a b", "a,b", "longer", "a\n", "{w}"] {
            assert!(expand(&row, &word(bad), &a).is_err(), "{bad:?} was accepted");
        }
        assert!(expand(&row, &params(&[]), &a).is_err(), "a missing parameter was accepted");
        assert!(expand(&row, &word("ok"), &[]).is_err(), "a missing descriptor was accepted");
        assert!(
            expand(&row, &word("ok"), &names(&["a", "c"])).is_err(),
            "an unknown descriptor was accepted"
        );
        assert!(expand(&row, &word("ok"), &names(&["a", "a"])).is_err(), "a doubled descriptor was accepted");
        let high = params(&[("w", Param::Word("ok".into())), ("n", Param::Int(10))]);
        assert!(expand(&row, &high, &a).is_err(), "a number out of range was accepted");
        let unknown = params(&[("w", Param::Word("ok".into())), ("z", Param::Int(1))]);
        assert!(expand(&row, &unknown, &a).is_err(), "an unknown parameter was accepted");
    }

    #[test]
    fn the_keeper_is_never_the_owners() {
        let row = row("fds=['keeper','vhost?']\nrestart=true");
        let e = expand(&row, &params(&[]), &names(&["vhost"])).unwrap();
        assert_eq!(e.numbers, [("keeper".to_owned(), 3), ("vhost".to_owned(), 4)]);
        assert!(expand(&row, &params(&[]), &names(&["keeper"])).is_err());
    }
}
