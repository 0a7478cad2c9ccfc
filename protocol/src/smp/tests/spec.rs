//! docs/spec/smp.md has the tables, messages, refusals, events and ways out that the code has. `GTVP_BLESS=1` writes the tables anew.

use super::super::table::{End, Told, render};
use super::super::*;
use crate::spec::has_messages;

const SPEC: &str = include_str!("../../../../docs/spec/smp.md");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/spec/smp.md");

fn section(name: &str) -> &'static str {
    let start = format!("<!-- {name} -->\n");
    let rest = SPEC.split_once(&start).unwrap_or_else(|| panic!("no {start}")).1;
    rest.split_once("<!-- end -->").unwrap().0
}

fn ways<S: End>() -> String {
    let rows: String = S::ALL.iter().map(|s| format!("| {s:?} | {} |\n", s.way_out())).collect();
    format!("| in | way out |\n|---|---|\n{rows}")
}

#[test]
fn the_page_has_the_tables_as_they_are() {
    let want = [
        ("source", render::<Source>()),
        ("target", render::<Target>()),
        ("source, ways out", ways::<Source>()),
        ("target, ways out", ways::<Target>()),
    ];
    if std::env::var_os("GTVP_BLESS").is_some() {
        let mut page = SPEC.to_owned();
        for (name, text) in &want {
            page = page
                .replace(&format!("<!-- {name} -->\n{}", section(name)), &format!("<!-- {name} -->\n{text}"));
        }
        std::fs::write(PATH, page).unwrap();
        return;
    }
    for (name, text) in &want {
        assert_eq!(section(name), text, "{name}: GTVP_BLESS=1 writes it anew");
    }
}

#[test]
fn the_page_has_each_message_with_its_kind_and_bound() {
    has_messages(SPEC, Message::TABLE);
}

#[test]
fn the_page_has_each_field_in_its_place() {
    let block = SPEC.split("```").find(|b| b.trim_start().starts_with("Ticket ")).unwrap();
    for code in [include_str!("../ticket.rs"), include_str!("../message.rs")] {
        let mut inside: Option<(&str, String)> = None;
        for line in code.lines() {
            if let Some(name) = line.strip_prefix("pub struct ").filter(|l| l.ends_with(" {")) {
                let name = name.split([' ', '{', '<']).next().unwrap();
                let text = block.lines().skip_while(|l| !l.starts_with(&format!("{name} ")));
                let text: String =
                    text.clone().take(1).chain(text.skip(1).take_while(|l| l.starts_with(' '))).collect();
                inside = (name != "Known").then_some((name, text));
            } else if let (Some((name, text)), Some(field)) = (&mut inside, line.strip_prefix("    pub ")) {
                if field.starts_with("fn ") {
                    continue;
                }
                let field = field.split(':').next().unwrap();
                let at = text.find(field).unwrap_or_else(|| panic!("{name}.{field} is not in its place"));
                *text = text.split_off(at + field.len());
            } else if line == "}" {
                inside = None;
            }
        }
    }
}

#[test]
fn the_page_has_each_refusal_and_each_event() {
    let enums = [
        (include_str!("../ticket.rs"), "pub enum TicketRefusal"),
        (include_str!("../message.rs"), "pub enum Why"),
        (include_str!("../../csp/owner.rs"), "pub enum BoxRefusal"),
    ];
    for (code, name) in enums {
        let body = code.split(name).nth(1).unwrap().split("\n}").next().unwrap();
        let variants =
            body.lines().filter_map(|l| l.strip_prefix("    ")).filter(|l| l.starts_with(char::is_uppercase));
        for variant in variants {
            let variant = variant.split([',', '(', ' ']).next().unwrap();
            assert!(SPEC.contains(&format!("`{variant}`")), "{name}::{variant} is not on the page");
        }
    }
    for told in [
        Told::Began,
        Told::Returned,
        Told::Waiting,
        Told::Arrived,
        Told::Departed,
        Told::Dropped,
        Told::Held,
        Told::Down,
        Told::Fenced,
        Told::SourceSilent,
        Told::Lost,
    ] {
        assert!(SPEC.contains(&format!("`{}`", told.kind())), "{told:?}");
    }
}

fn somebody_can_do_something<S: End>() {
    for state in S::ALL.iter().filter(|s| !s.is_over()) {
        let wish = |on: &On| {
            use On::*;
            matches!(on, Begin | Cancel | Retry | Without | Adopt | Forget | Tick)
        };
        let from_outside = |on: &On| matches!(on, On::Heard(Say::Offer));
        let out = S::table()
            .iter()
            .any(|r| r.from.contains(state) && r.on.iter().any(|o| wish(o) || from_outside(o)));
        assert!(out && !state.way_out().is_empty(), "{state:?}");
    }
}

#[test]
fn no_state_is_without_a_way_out() {
    somebody_can_do_something::<Source>();
    somebody_can_do_something::<Target>();
}
