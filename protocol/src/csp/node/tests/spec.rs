//! docs/spec/csp.md has the messages with their kinds, bounds and fields, and what people are told, as the code has them.

use super::super::message::Message;
use crate::spec::has_messages;

const SPEC: &str = include_str!("../../../../../docs/spec/csp.md");
const CODE: &str = include_str!("../message.rs");
const RUN: [&str; 3] = [include_str!("../run.rs"), include_str!("../heard.rs"), include_str!("../due.rs")];

#[test]
fn the_page_has_each_message_with_its_kind_and_bound() {
    has_messages(SPEC, Message::TABLE);
}

#[test]
fn the_page_has_each_field_in_its_place() {
    let block = SPEC.split("```").find(|b| b.trim_start().starts_with("Announce = ")).unwrap();
    let mut inside = None;
    for line in CODE.lines() {
        if let Some(name) = line.strip_prefix("pub struct ") {
            let name = name.split([' ', '{']).next().unwrap();
            let text = block.lines().skip_while(|l| !l.starts_with(&format!("{name} ")));
            let first = text.clone().take(1);
            let rest = text.skip(1).take_while(|l| l.starts_with(' '));
            let text: String = first.chain(rest).collect();
            assert!(!text.is_empty(), "{name} is not on the page");
            inside = Some((name, text));
        } else if let (Some((name, text)), Some(field)) = (&mut inside, line.strip_prefix("    pub ")) {
            let field = field.split(':').next().unwrap();
            let at = text.find(field).unwrap_or_else(|| panic!("{name}.{field} is not in its place"));
            *text = text.split_off(at + field.len());
        }
    }
}

#[test]
fn the_page_has_each_kind_of_event() {
    let told = SPEC.split("## What is told").nth(1).unwrap().split("##").next().unwrap();
    let of = |code: &'static str| code.split("self.tell(").skip(1).filter_map(|t| t.split('"').nth(1));
    let mut kinds: Vec<&str> = RUN.into_iter().flat_map(of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let missing: Vec<_> = kinds.iter().filter(|k| !told.contains(&format!("`{k}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(kinds.len() >= 10, "{kinds:?}");
}
