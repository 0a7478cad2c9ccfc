//! models/smp_*.vp have the messages and signed fields that the code has. What the models say is `models/run`'s to check.

use std::collections::{BTreeMap, BTreeSet};

use super::super::message::Message;

const MOVE: &str = include_str!("../../../../models/smp_move.vp");
const TICKET: &str = include_str!("../../../../models/smp_ticket.vp");
const TERMS: &str = include_str!("../../../../models/smp_terms.vp");

/// Messages that the model has not, and why.
const APART: [(&str, &str); 5] = [
    ("Built", "nothing is signed in it, and nothing follows from it but that state is sent"),
    ("Killed", "the channel's other end says it of itself; the record has moved the box before"),
    ("Taken", "the same"),
    ("Lost", "the same; the record decides"),
    ("Abort", "it ends the migration; the channel's"),
];

/// The public fields of each structure of a file.
fn fields(code: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut inside = None;
    for line in code.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            inside = name.split([' ', '(', '<']).next().map(str::to_owned);
        } else if let (Some(name), Some(field)) = (&inside, line.strip_prefix("    pub ")) {
            let field = field.split(':').next().unwrap().to_owned();
            all.entry(name.clone()).or_default().insert(field);
        } else if line == "}" {
            inside = None;
        }
    }
    all
}

fn list(text: &str) -> BTreeSet<String> {
    text.split(',').map(|f| f.trim().to_owned()).filter(|f| !f.is_empty()).collect()
}

#[test]
fn each_message_is_in_the_model_with_all_its_fields_named() {
    let code = fields(include_str!("../message.rs"));
    let mut known: BTreeSet<&str> = APART.iter().map(|(n, _)| *n).collect();
    for line in MOVE.lines().filter_map(|l| l.strip_prefix("// message ")) {
        let (name, words) = line.split_once(':').expect(line);
        let (has, apart) = words.split_once("; apart:").expect(line);
        let (has, apart) = (list(has), list(apart));
        assert!(has.is_disjoint(&apart), "{line}");
        assert_eq!(has.union(&apart).cloned().collect::<BTreeSet<_>>(), code[name], "{name}");
        assert!(known.insert(name), "{name} twice");
    }
    assert_eq!(known, Message::TABLE.iter().map(|(n, ..)| *n).collect());
}

/// Fields that a model leaves out once each, and has in what both sides compute.
fn left_out(model: &str) -> BTreeSet<String> {
    let lines = model.lines().filter_map(|l| l.strip_prefix("// without "));
    let fields: BTreeSet<String> = lines.filter_map(|l| l.split(':').next()).map(str::to_owned).collect();
    for side in ["what_a = ", "what_b = "] {
        let line = model.lines().find(|l| l.trim_start().starts_with(side)).unwrap();
        let words: BTreeSet<String> =
            line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect();
        assert!(fields.is_subset(&words), "{line}");
    }
    fields
}

#[test]
fn each_signed_field_is_left_out_once() {
    let mut ticket = fields(include_str!("../ticket.rs"))["Ticket"].clone();
    // It says how the rest is read; there is one so far.
    assert!(ticket.remove("version"));
    assert_eq!(left_out(TICKET), ticket);
    assert_eq!(left_out(TERMS), fields(include_str!("../../csp/owner.rs"))["Terms"]);
}
