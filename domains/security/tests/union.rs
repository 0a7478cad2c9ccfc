//! A union that begins, on a real software TPM.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod played;

use std::path::Path;
use std::sync::Arc;

use gtvp_ipc::security::BeginUnion;
use gtvp_model::fault::FaultKind;
use gtvp_model::union::{Hardware, TpmClass, UnixTime};
use gtvp_model::unionview::UnionBegin;
use gtvp_security::platform::Platform;
use gtvp_security::tpm::actor::Tpm;
use gtvp_security::union::Union;
use played::SoftwareTpm;

const NOW: UnixTime = UnixTime(1_795_000_000);

fn platform(tpm: &SoftwareTpm) -> Arc<Platform> {
    let actor = Tpm::start(tpm.address(), tpm.state()).unwrap();
    Arc::new(Platform::of(TpmClass::Software, Some(actor)))
}

fn open(state: &Path, platform: &Arc<Platform>) -> Union {
    Union::open(state, "m1".parse().unwrap(), platform.clone())
}

fn lab(software_tpms: bool) -> BeginUnion {
    BeginUnion {
        union: UnionBegin { name: "lab".parse().unwrap(), software_tpms, without_tpm: false },
        hardware: Hardware::new(2, 4096, "").unwrap(),
    }
}

#[test]
fn a_union_begins_once_and_is_the_same_after_a_restart() {
    let mut tpm = SoftwareTpm::start();
    let (platform, folder) = (platform(&tpm), tpm.state());
    let union = open(&folder, &platform);
    assert_eq!(union.show().unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(union.members().unwrap()[0].id, None);
    let begun = union.begin(&lab(true), NOW).unwrap();
    assert_eq!(
        (begun.name.as_str(), begun.entries, begun.voters.as_slice()),
        ("lab", 1, &["m1".to_owned()][..])
    );
    assert_eq!(begun.id, begun.head, "the union is named by its first entry");
    assert_eq!(union.begin(&lab(true), NOW).unwrap_err().kind, FaultKind::WrongState);
    tpm.reset();
    let again = open(&folder, &platform);
    assert_eq!(again.show().unwrap(), begun);
    let members = again.members().unwrap();
    assert_eq!((members.len(), members[0].tpm, members[0].own), (1, TpmClass::Software, true));
    assert_eq!(members[0].verdict, "unknown", "the record says who is a member, not who is trusted");
}

#[test]
fn a_software_tpm_is_let_in_only_where_somebody_said_so() {
    let tpm = SoftwareTpm::start();
    let (platform, folder) = (platform(&tpm), tpm.state());
    let union = open(&folder, &platform);
    let refused = union.begin(&lab(false), NOW).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Denied);
    assert!(refused.hint.unwrap().contains("--allow-software-tpm"));
    assert_eq!(union.show().unwrap_err().kind, FaultKind::NotFound, "nothing is left behind");
    assert!(union.begin(&lab(true), NOW).is_ok());
    let none = Arc::new(Platform::of(TpmClass::None, None));
    let mut begin = lab(false);
    assert_eq!(open(Path::new("/nowhere"), &none).begin(&begin, NOW).unwrap_err().kind, FaultKind::Denied);
    begin.union.without_tpm = true;
    assert_eq!(
        open(Path::new("/nowhere"), &none).begin(&begin, NOW).unwrap_err().kind,
        FaultKind::WrongState
    );
}

#[test]
fn threat_22_a_record_that_was_changed_or_cut_is_no_record_and_is_not_written_over() {
    let tpm = SoftwareTpm::start();
    let (platform, folder) = (platform(&tpm), tpm.state());
    let begun = open(&folder, &platform).begin(&lab(true), NOW).unwrap();
    let path = folder.join("record/0");
    let good = std::fs::read(&path).unwrap();
    let step = good.len() / 40;
    let flipped = (0..good.len()).step_by(step.max(1)).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    });
    let cut = (0..good.len()).step_by(step.max(1)).map(|at| good[..at].to_vec());
    for bad in flipped.chain(cut) {
        std::fs::write(&path, &bad).unwrap();
        let union = open(&folder, &platform);
        // One bit of the name, say, is another union of the same founder: its signature does not hold.
        assert_eq!(union.show().unwrap_err().kind, FaultKind::Integrity);
        assert_eq!(union.begin(&lab(true), NOW).unwrap_err().kind, FaultKind::Integrity);
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
    std::fs::write(&path, &good).unwrap();
    // A write that a crash cut off leaves a file beside it.
    std::fs::write(folder.join("record/1.new"), &good[..5]).unwrap();
    assert_eq!(open(&folder, &platform).show().unwrap(), begun);
    std::fs::write(folder.join("record/1"), &good).unwrap();
    assert_eq!(open(&folder, &platform).show().unwrap_err().kind, FaultKind::Integrity);
}
