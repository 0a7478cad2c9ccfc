//! A member's evidence, and what somebody far away finds out from the file alone.

use std::path::PathBuf;

use gtvp_e2e::{Lab, SOON, build_dir, until};
use serde_json::Value;

/// A file of this run, gone with it.
struct Kept(PathBuf);

impl Kept {
    fn new(bytes: &[u8]) -> Self {
        let name = format!("gtvp-e2e-evidence-{}.cbor", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        std::fs::write(&file.0, bytes).unwrap();
        file
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn attest(lab: &Lab, words: &[&str]) -> Vec<u8> {
    let out = lab.command(&[&["member", "attest"], words].concat()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Exit status and findings of `gtvp verify`, on a machine that has never heard of the member.
pub fn verify(bytes: &[u8], words: &[&str]) -> (i32, Value) {
    let file = Kept::new(bytes);
    let mut command = std::process::Command::new(build_dir().join("gtvp"));
    command.arg("verify").arg(&file.0).args(["-o", "json"]).args(words);
    let out = command.env("GTVP_SOCKET", "/nonexistent").output().unwrap();
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
}

pub fn has(list: &Value, word: &str) -> bool {
    list.as_array().is_some_and(|l| l.iter().any(|v| v.to_string().contains(word)))
}

/// Entries of GTVP's own log, as `--explain` shows them.
fn own_log(lab: &Lab) -> Vec<String> {
    let text = lab.ok(&["member", "attest", "--explain"]);
    let own = text.lines().skip_while(|l| !l.starts_with("GTVP log")).skip(1);
    own.take_while(|l| l.starts_with(' ')).map(str::to_owned).collect()
}

pub fn attest_gives_evidence_that_is_checked_without_the_member(lab: &Lab) {
    let nonce = "5e".repeat(32);
    let evidence = attest(lab, &["--nonce", &nonce]);
    let (code, found) = verify(&evidence, &["--nonce", &nonce]);
    assert_eq!((code, &found["conclusion"], &found["verdict"]), (0, &"consistent".into(), &"unknown".into()));
    assert_eq!(found["claims"]["tpm"], "software");
    assert!(has(&found["passed"], "signature") && has(&found["passed"], "own_replay"), "{found}");
    assert!(has(&found["not_made"], "files executed after boot: not measured"), "{found}");
    assert!(has(&found["not_made"], "software TPM") && !has(&found["not_made"], "quote is new"), "{found}");
    assert_eq!(found["claims"]["endorsement_key"], lab.json(&["member", "show"])["tpm"]["ek"]);

    // Whoever chose another nonce sees that it is not the answer; whoever chose none, that it may be old.
    let (code, found) = verify(&evidence, &["--nonce", &"5f".repeat(32)]);
    assert_eq!((code, &found["failed"][0]["name"]), (1, &"bound-elsewhere".into()));
    let (code, found) = verify(&evidence, &[]);
    assert!(code == 0 && has(&found["not_made"], "quote is new"), "{found}");

    // A byte anywhere, a cut anywhere, one too many: refused.
    for at in (0..evidence.len()).step_by(1 + evidence.len() / 150).chain([evidence.len() - 1]) {
        for bit in [0x01, 0x80] {
            let mut changed = evidence.clone();
            changed[at] ^= bit;
            assert_eq!(verify(&changed, &[]).0, 1, "byte {at} of {} may be changed", evidence.len());
        }
    }
    for end in (0..evidence.len()).step_by(1 + evidence.len() / 20) {
        assert_eq!(verify(&evidence[..end], &[]).0, 1, "it may be cut at {end}");
    }
    assert_eq!(verify(&[&evidence[..], &[0]].concat(), &[]).0, 1);
}

pub fn attested_evidence_outlives_security_and_grows_only_by_what_is_new(lab: &Lab) {
    let before = own_log(lab);
    for entry in ["binary security", "binary components", "topology topology.toml", "template tpm"] {
        assert!(before.iter().any(|l| l.contains(entry)), "{entry} is not measured: {before:#?}");
    }
    let first = verify(&attest(lab, &[]), &[]).1;
    for domain in ["security", "components", "drivers"] {
        lab.kill_domain(domain);
        let evidence = until("evidence can be had", SOON, || {
            let out = lab.command(&["member", "attest"]).output().unwrap();
            out.status.success().then_some(out.stdout)
        });
        let (code, found) = verify(&evidence, &[]);
        assert_eq!(code, 0, "after {domain} was killed: {found}");
        assert_eq!(found["attestation_key"], first["attestation_key"]);
        // The same program again is nothing new: it was measured before it was started, and found to be the same.
        assert_eq!(own_log(lab), before, "after {domain} was killed");
    }
    // A box is: its composition is in the log before it starts.
    lab.ok(&[
        "run", "--rm", "--name", "measured", "--needs", "python3", "--memory", "384M", "--", "python3", "-c",
        "0",
    ]);
    let after = own_log(lab);
    assert_eq!(after[..before.len()], before[..]);
    assert!(after[before.len()..].iter().any(|l| l.contains("composition measured")), "{after:#?}");
    assert_eq!(verify(&attest(lab, &[]), &[]).0, 0);
}
