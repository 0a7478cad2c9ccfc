//! What `security` decides. Pure: it is given a key, it opens nothing.

use gtvp_ipc::security::{AppraiseComponent, Permit, PermitRun, Signature, VerdictReply};
use gtvp_model::boxview::Appraisal;
use gtvp_model::digest::Digest;
use gtvp_model::fault::{Fault, FaultKind};
use gtvp_model::hex::{hex, unhex};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature as Ecdsa, SigningKey, VerifyingKey};

/// Stands in front of every manifest digest that is signed: a signature made for one purpose holds for no other.
const MANIFEST_LABEL: &[u8] = b"gtvp-manifest-v1\0";
const ALGORITHM: &str = "ES256";
/// What no verdict of this version rests on.
const TPM_EVIDENCE: &str = "TPM evidence";

/// The decisions.
pub struct Engine {
    key: SigningKey,
    key_id: Digest,
    api_group: Option<String>,
}

impl Engine {
    /// With this member's key and the group that may use the API socket.
    pub fn new(key: SigningKey, api_group: Option<String>) -> Self {
        let point = VerifyingKey::from(&key).to_encoded_point(false);
        Self { key, key_id: Digest::of(point.as_bytes()), api_group }
    }

    /// Signs a manifest's digest.
    pub fn sign_manifest(&self, digest: Digest) -> Signature {
        let signature: Ecdsa = self.key.sign(&labelled(digest));
        let value = hex(&signature.to_bytes());
        Signature { algorithm: ALGORITHM.into(), key: self.key_id, value }
    }

    /// Appraises a component: its manifest must be signed by this member.
    pub fn appraise(&self, component: &AppraiseComponent) -> Result<Appraisal, Fault> {
        let refuse = |why: &str| {
            Fault::new(FaultKind::Integrity, format!("{} is not as it was signed", component.reference))
                .because(why)
                .hint(format!("import it again: gtvp component import {}", component.reference))
        };
        let signature = &component.signature;
        if signature.algorithm != ALGORITHM {
            return Err(refuse("its signature is of an algorithm that this member does not use"));
        }
        if signature.key != self.key_id {
            return Err(refuse("its signature is by a key that is not this member's"));
        }
        // 64 bytes of r ‖ s; longer text is refused before it is decoded.
        let fits = Some(&signature.value).filter(|text| text.len() == 128);
        let bytes = fits.and_then(unhex).ok_or_else(|| refuse("its signature is not hexadecimal"))?;
        let parsed = Ecdsa::from_slice(&bytes).map_err(|_| refuse("its signature has the wrong form"))?;
        VerifyingKey::from(&self.key)
            .verify(&labelled(component.manifest), &parsed)
            .map_err(|_| refuse("its manifest's signature does not hold"))?;
        let mut checked = component.checked_before.clone();
        checked.push("manifest signature".into());
        Ok(Appraisal { checked, not_checked: vec![TPM_EVIDENCE.into()] })
    }

    /// The built-in rule: whoever the API socket lets in may run a box at level 0. Labels and a written policy replace it.
    pub fn permit_run(&self, request: &PermitRun) -> Result<Permit, Fault> {
        let rule = match (&self.api_group, request.operator_uid) {
            (_, 0) => "built-in: root of this member may run boxes".to_owned(),
            (Some(group), _) => format!("built-in: group {group} of this member may run boxes"),
            (None, uid) => {
                return Err(Fault::new(FaultKind::Denied, format!("uid {uid} may not run boxes"))
                    .because("built-in rule: only root, or the group api_group of member.toml, may")
                    .hint("run it as root, or set api_group in member.toml"));
            }
        };
        Ok(Permit { rule, not_checked: vec![TPM_EVIDENCE.into(), "labels: no policy is loaded".into()] })
    }

    /// The same rule for who may change the union.
    pub fn permit_union(&self, uid: u32) -> Result<(), Fault> {
        match (&self.api_group, uid) {
            (_, 0) | (Some(_), _) => Ok(()),
            (None, uid) => Err(Fault::new(FaultKind::Denied, format!("uid {uid} may not change the union"))
                .because("built-in rule: only root, or the group api_group of member.toml, may")
                .hint("run it as root, or set api_group in member.toml")),
        }
    }

    /// What this member can say of itself. Nothing has been appraised, so it is unknown, never trusted.
    pub fn verdict(&self) -> VerdictReply {
        VerdictReply {
            verdict: "unknown".into(),
            not_checked: vec![TPM_EVIDENCE.into(), "boot log".into(), "files executed after boot".into()],
        }
    }
}

fn labelled(digest: Digest) -> Vec<u8> {
    [MANIFEST_LABEL, &digest.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(seed: u8) -> Engine {
        Engine::new(SigningKey::from_slice(&[seed; 32]).unwrap(), None)
    }

    fn component(signature: Signature, manifest: Digest) -> AppraiseComponent {
        AppraiseComponent {
            reference: "deb:x=1:amd64".into(),
            manifest,
            signature,
            checked_before: vec!["digest".into()],
            link: None,
        }
    }

    #[test]
    fn what_was_signed_here_holds_and_nothing_else_does() {
        let (ours, other) = (engine(1), engine(2));
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let good = ours.appraise(&component(ours.sign_manifest(a), a)).unwrap();
        assert_eq!(good.checked, ["digest", "manifest signature"]);
        assert_eq!(good.not_checked, ["TPM evidence"]);
        let refused = |c| ours.appraise(&c).unwrap_err().kind;
        assert_eq!(refused(component(ours.sign_manifest(a), b)), FaultKind::Integrity);
        assert_eq!(refused(component(other.sign_manifest(a), a)), FaultKind::Integrity);
        let mut forged = ours.sign_manifest(a);
        forged.value.replace_range(0..1, if forged.value.starts_with('0') { "1" } else { "0" });
        assert_eq!(refused(component(forged, a)), FaultKind::Integrity);
        let mut relabelled = other.sign_manifest(a);
        relabelled.key = ours.sign_manifest(a).key;
        assert_eq!(refused(component(relabelled, a)), FaultKind::Integrity);
    }

    #[test]
    fn without_a_group_only_root_runs_boxes() {
        let spec = gtvp_model::boxspec::BoxSpec::new(
            "w".parse().unwrap(),
            vec!["nginx".parse().unwrap()],
            vec!["nginx".into()],
        );
        let ask =
            |engine: &Engine, uid| engine.permit_run(&PermitRun { spec: spec.clone(), operator_uid: uid });
        assert!(ask(&engine(1), 0).is_ok());
        assert_eq!(ask(&engine(1), 1000).unwrap_err().kind, FaultKind::Denied);
        let grouped = Engine::new(SigningKey::from_slice(&[1; 32]).unwrap(), Some("gtvp".into()));
        assert!(ask(&grouped, 1000).unwrap().rule.contains("gtvp"));
    }

    #[test]
    fn an_unappraised_member_is_unknown() {
        assert_eq!(engine(1).verdict().verdict, "unknown");
    }
}
