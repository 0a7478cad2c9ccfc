//! Boxes that start from a template: what each has of its own, what is said of it, and what happens when the template is no good.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use gtvp_e2e::{Lab, SOON, START_WITHIN, until};
use serde_json::Value;

use crate::attest::verify;

/// Boxes of one template.
const CLONES: usize = 6;
/// Tuples of which a box's TCP sequence numbers are looked at.
const TUPLES: usize = 4;
/// What a sequence number's clock (64 ns a tick) may have gone on between sending and looking: 0.6 s.
const JITTER: u32 = 10_000_000;

/// What a box draws, as JSON. A sequence number is the secret's hash of the connection plus the clock, so without the clock the same
/// connection shows the same hash again: `isn` and `again` are two looks at the same connections.
const DRAW: &str = r#"
import hashlib, json, os, secrets, socket, struct, time, uuid
text = lambda path: open(path).read().strip()
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
packets.bind(("lo", 0))
packets.settimeout(10)
def connect(port, source=0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", source)) if source else None
    try: s.connect(("127.0.0.1", port))
    except ConnectionRefusedError: pass
    while True:
        p = packets.recv(2048)
        ip = p[14:]
        tcp = ip[(ip[0] & 15) * 4:]
        sport, dport, seq = struct.unpack("!HHI", tcp[:8])
        if ip[9] == 6 and dport == port and tcp[13] & 18 == 2:
            return sport, (seq - (time.time_ns() >> 6)) % 2**32
isns = lambda: [connect(9, 40000 + n)[1] for n in range(TUPLES)]
print(json.dumps({
    "urandom": os.urandom(16).hex(), "getrandom": os.getrandom(16).hex(), "secret": secrets.token_hex(16), "uuid": str(uuid.uuid4()),
    "key": hashlib.sha256(secrets.token_bytes(32)).hexdigest(), "hash": str(hash("x")),
    "kernel_uuid": text("/proc/sys/kernel/random/uuid"), "boot_id": text("/proc/sys/kernel/random/boot_id"),
    "machine_id": text("/etc/machine-id"), "hostname": socket.gethostname(), "mac": text("/sys/class/net/eth0/address"),
    "ports": str([connect(10 + n)[0] for n in range(8)]), "isn": isns(), "again": isns(), "time": time.time(),
}))
"#;

fn draw(lab: &Lab, name: &str) -> Value {
    let script = DRAW.replace("TUPLES", &TUPLES.to_string());
    let out = lab.ok(&["exec", name, "--", "python3", "-c", &script]);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{name}: {e}: {out}"))
}

fn numbers(drawn: &Value, what: &str) -> Vec<u32> {
    drawn[what].as_array().unwrap().iter().map(|n| u32::try_from(n.as_u64().unwrap()).unwrap()).collect()
}

/// Whether two looks show the same secret: of chance, once in some 10^9.
fn same_secret(a: &[u32], b: &[u32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.wrapping_sub(*b).min(b.wrapping_sub(*a)) < JITTER)
}

/// The one template for [`Lab::idle_box`], once it is there.
fn template(lab: &Lab) -> Value {
    until("a template is booted", START_WITHIN, || {
        let all = lab.json(&["template", "ls"]);
        all.as_array().unwrap().iter().find(|t| t["memory_bytes"] == 384 << 20).cloned()
    })
}

/// Boots a box and waits for the template that is made after it.
fn first(lab: &Lab) -> Value {
    for view in lab.json(&["template", "ls"]).as_array().unwrap() {
        lab.ok(&["template", "rm", view["digest"].as_str().unwrap()]);
    }
    lab.idle_box("first");
    assert_eq!(lab.json(&["box", "show", "first"])["template"], Value::Null, "the first of its shape boots");
    let template = template(lab);
    lab.remove("first");
    template
}

/// Every AK in a file of evidence: the contents of byte strings that stand under the key `ak`.
fn keys(evidence: &[u8]) -> BTreeSet<Vec<u8>> {
    let after = |at: usize| match evidence.get(at..)? {
        [0x58, n, rest @ ..] => rest.get(..usize::from(*n)),
        [0x59, a, b, rest @ ..] => rest.get(..usize::from(u16::from_be_bytes([*a, *b]))),
        _ => None,
    };
    let found = evidence.windows(3).enumerate().filter(|(_, w)| *w == b"\x62ak");
    found.filter_map(|(at, _)| after(at + 3)).map(<[u8]>::to_vec).collect()
}

pub fn boxes_of_one_template_have_nothing_of_each_others(lab: &Lab) {
    let template = first(lab);
    let names: Vec<String> = (1..=CLONES).map(|n| format!("clone-{n}")).collect();
    let mut drawn = Vec::new();
    let mut aks = Vec::new();
    for name in &names {
        lab.idle_box(name);
        let shown = lab.json(&["box", "show", name]);
        assert_eq!(shown["template"], template["digest"], "{name} started from it");
        drawn.push(draw(lab, name));
        let nonce = "7a".repeat(32);
        let attested = lab.command(&["box", "attest", name, "--nonce", &nonce]).output().unwrap();
        assert!(attested.status.success(), "{}", String::from_utf8_lossy(&attested.stderr));
        let evidence = attested.stdout;
        let (code, found) = verify(&evidence, &["--nonce", &nonce]);
        assert_eq!((code, &found["conclusion"]), (0, &"consistent".into()), "{found}");
        assert_eq!(found["box"]["template"], template["digest"], "and its evidence says so");
        assert!(found["not_made"].to_string().contains("memory of the template"), "{found}");
        aks.push(keys(&evidence));
    }
    for (n, a) in drawn.iter().enumerate() {
        let (isn, again) = (numbers(a, "isn"), numbers(a, "again"));
        assert!(same_secret(&isn, &again), "the control: a box has one secret: {isn:?} {again:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((a["time"].as_f64().unwrap() - now).abs() < 120.0, "its clock is the host's: {a}");
        for (m, b) in drawn.iter().enumerate().skip(n + 1) {
            let pair = format!("{} and {}", names[n], names[m]);
            assert!(!same_secret(&isn, &numbers(b, "isn")), "{pair} have one secret for TCP");
            for (what, value) in a.as_object().unwrap().iter().filter(|(_, v)| v.is_string()) {
                assert_ne!(*value, b[what], "{pair} have the same {what}");
            }
        }
    }
    let members: BTreeSet<_> = aks[0].intersection(&aks[1]).cloned().collect();
    assert_eq!(members.len(), 1, "what two have in common is their member's");
    let own: BTreeSet<_> = aks.iter().flat_map(|a| a.difference(&members)).collect();
    assert_eq!(own.len(), CLONES, "each has a vTPM of its own");
    names.iter().for_each(|name| lab.remove(name));
    let listed = lab.json(&["template", "ls"]);
    assert_eq!(listed[0]["starts"], CLONES, "{listed}");
}

/// The files of the member's templates with this extension.
fn files(lab: &Lab, extension: &str) -> Vec<PathBuf> {
    let folder = lab.state().join("drivers/templates");
    let all = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    all.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect()
}

/// Starts a box, which must boot; gives the events about it.
fn boots(lab: &Lab, name: &str) -> String {
    lab.idle_box(name);
    assert_eq!(lab.json(&["box", "show", name])["template"], Value::Null, "{name} booted");
    assert!(lab.ok(&["exec", name, "--", "python3", "-c", "print(6*7)"]).contains("42"));
    let events = lab.ok(&["events", "--tail", "40"]);
    lab.remove(name);
    events.lines().filter(|l| l.contains("template_failed") && l.contains(name)).collect()
}

pub fn a_template_that_is_no_good_never_fails_a_start(lab: &Lab) {
    // One whose image was changed.
    let template = first(lab);
    let image = std::fs::OpenOptions::new().read(true).write(true).open(&files(lab, "image")[0]).unwrap();
    let mut byte = [0];
    let at = image.metadata().unwrap().len() / 3;
    image.read_exact_at(&mut byte, at).unwrap();
    image.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let told = boots(lab, "changed");
    assert!(told.contains("is not what was saved"), "{told}");
    // One that another QEMU has saved, or says so.
    let again = self::template(lab);
    assert_ne!(again["created_ms"], template["created_ms"], "it was booted anew");
    let record = files(lab, "json").remove(0);
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"qemu\": \"", "\"qemu\": \"1.")).unwrap();
    let told = boots(lab, "elder");
    assert!(told.contains("QEMU is") && told.contains("saved it"), "{told}");

    // Whoever wants no template gets none, and what nobody wants is removed.
    let digest = self::template(lab)["digest"].as_str().unwrap().to_owned();
    let options =
        ["run", "--detach", "--quiet", "--cold", "--name", "cold", "--needs", "python3", "--memory", "384M"];
    lab.ok(&[&options[..], &["--", "python3", "-c", "import time; time.sleep(10**6)"]].concat());
    let shown = lab.json(&["box", "show", "cold"]);
    assert_eq!((&shown["template"], &shown["spec"]["cold"]), (&Value::Null, &true.into()));
    lab.remove("cold");
    lab.ok(&["template", "rm", &digest[..12]]);
    assert!(lab.refused(&["template", "rm", &digest[..12]]).contains("no template"));

    // One by hand.
    let built = lab.json(&["template", "build", "--quiet", "--memory", "384M"]);
    assert_eq!(built["digest"], self::template(lab)["digest"]);
    lab.idle_box("by-hand");
    assert_eq!(lab.json(&["box", "show", "by-hand"])["template"], built["digest"]);
    lab.remove("by-hand");
    until("nothing of it runs", SOON, || lab.processes(&["qemu-system-x86_64"]).is_empty().then_some(()));
}
