//! models/ has the messages that the code has. What the models say is `models/run`'s to check.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::fields_of_code;
use crate::hsp::message::Message;

const MODELS: [(&str, &str); 5] = [
    ("session", include_str!("../../../../models/hsp_session.vp")),
    ("binding", include_str!("../../../../models/hsp_binding.vp")),
    ("join", include_str!("../../../../models/hsp_join.vp")),
    ("credential", include_str!("../../../../models/hsp_credential.vp")),
    ("token", include_str!("../../../../models/hsp_token.vp")),
];

/// Messages that no model has, and why.
const APART: [(&str, &str); 4] = [
    ("LogPiece", "what evidence says is appraisal's: it has to replay to what was quoted"),
    ("NoEvidence", "a member without a TPM proves nothing"),
    ("Challenge", "a round is a session's quote again, with another transcript"),
    ("Refuse", "it ends the connection"),
];

fn list(text: &str) -> BTreeSet<String> {
    text.split(',').map(|f| f.trim().to_owned()).filter(|f| !f.is_empty()).collect()
}

#[test]
fn each_message_is_in_a_model_with_all_its_fields_named() {
    let code = fields_of_code();
    let mut modelled = BTreeMap::new();
    for line in MODELS.iter().flat_map(|(_, text)| text.lines()).filter_map(|l| l.strip_prefix("// message "))
    {
        let (name, fields) = line.split_once(':').expect(line);
        let (has, apart) = fields.split_once("; apart:").expect(line);
        let (has, apart) = (list(has), list(apart));
        assert!(has.is_disjoint(&apart), "{line}");
        let all: BTreeSet<String> = code.get(name).expect(line).iter().cloned().collect();
        assert_eq!(has.union(&apart).cloned().collect::<BTreeSet<_>>(), all, "{name}");
        modelled.insert(name.to_owned(), has);
    }
    let known: BTreeSet<&str> = modelled.keys().map(String::as_str).chain(APART.map(|(n, _)| n)).collect();
    assert_eq!(known, Message::TABLE.iter().map(|(n, ..)| *n).collect());
    assert_eq!(known.len(), modelled.len() + APART.len());
}

#[test]
fn each_field_of_a_binding_is_left_out_once() {
    let code = include_str!("../binding.rs");
    let fields =
        code.lines().skip_while(|l| !l.starts_with("pub struct Binding")).skip(1).take_while(|l| *l != "}");
    let fields: BTreeSet<&str> =
        fields.filter_map(|l| l.strip_prefix("    pub ")).filter_map(|l| l.split(':').next()).collect();
    let model = MODELS.iter().find(|(n, _)| *n == "binding").unwrap().1;
    let left_out: BTreeSet<&str> = model
        .lines()
        .filter_map(|l| l.strip_prefix("// without "))
        .filter_map(|l| l.split(':').next())
        .collect();
    assert_eq!(left_out, fields);
    // And each is in what both ends compute.
    for leaf in ["leaf_a = ", "leaf_b = "] {
        let line = model.lines().find(|l| l.trim_start().starts_with(leaf)).unwrap();
        let words: BTreeSet<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        assert!(fields.is_subset(&words), "{line}");
    }
}
