//! docs/spec/hsp.md says what the code does: messages with their kinds, bounds and fields in order, and refusals.

use std::collections::BTreeMap;

use crate::hsp::Refusal;
use crate::hsp::message::Message;
use crate::spec::{has_messages, rows};

const SPEC: &str = include_str!("../../../../docs/spec/hsp.md");
const CODE: &str = include_str!("../message.rs");

#[test]
fn the_page_has_each_message_with_its_kind_and_bound() {
    has_messages(SPEC, Message::TABLE);
}

#[test]
fn the_page_has_each_refusal_with_its_code() {
    let have: Vec<_> = Refusal::TABLE.iter().map(|(n, c)| (c.to_string(), n.to_string())).collect();
    let want = rows(SPEC, "| code | name |");
    let want: Vec<_> = want.iter().map(|r| (r[0].to_owned(), r[1].to_owned())).collect();
    assert_eq!(have, want);
}

/// Names of the fields of each structure on the wire, in the order of their numbers.
pub fn fields_of_code() -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut current: Option<(String, Vec<String>)> = None;
    for line in CODE.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.split([' ', '(']).next().unwrap().to_owned();
            if line.ends_with("{}") {
                all.insert(name, vec![]);
            } else if line.ends_with('{') {
                current = Some((name, vec![]));
            }
        } else if line == "}" {
            all.extend(current.take());
        } else if let (Some((_, fields)), Some(field)) = (&mut current, line.strip_prefix("    pub ")) {
            fields.push(field.split(':').next().unwrap().to_owned());
        }
    }
    all
}

#[test]
fn the_page_has_each_field_in_its_place() {
    let block = SPEC.split("```").find(|b| b.trim_start().starts_with("Hello ")).unwrap();
    let mut page: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in block.lines() {
        let text = match line.split_once(" = ") {
            Some((n, text)) if !line.starts_with(' ') => {
                name = n.trim().to_owned();
                text
            }
            _ => line,
        };
        page.entry(name.clone()).or_default().push_str(text);
    }
    page.remove("");
    let code = fields_of_code();
    assert_eq!(page.keys().collect::<Vec<_>>(), code.keys().collect::<Vec<_>>());
    for (name, fields) in code {
        // A field's name stands behind a bracket or comma and before a colon.
        let words = page[&name].split(['[', ',']).filter_map(|part| part.split_once(':'));
        let named: Vec<_> = words.map(|(n, _)| n.trim().to_owned()).collect();
        assert_eq!(named, fields, "{name}");
    }
}
