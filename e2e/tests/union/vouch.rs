//! Applications on different servers that ask their own members about each other.

use gtvp_e2e::{Lab, Member, SOON, signal, until};
use rustix::process::Signal;
use serde_json::Value;

use gtvp_e2e::union::made;

/// From inside the box: the exit status and the answer.
fn ask(member: &Member, from: &str, words: &[&str]) -> (i32, Value) {
    let ran = member.gtvp(&[&["exec", from, "--", "gtvp-peer"], words].concat());
    (ran.code, serde_json::from_str(&ran.out).unwrap_or(Value::String(ran.err)))
}

fn refused(member: &Member, words: &[&str], why: &str) {
    // The channel may be beginning anew.
    until(&format!("{words:?} is refused: {why}"), SOON, || {
        let (code, answer) = ask(member, "shop", words);
        assert_eq!(code, 1, "{answer}");
        answer["fault"].as_str().unwrap_or_default().contains(why).then_some(())
    });
}

pub fn applications_on_two_servers_prove_themselves_to_each_other(lab: &Lab) {
    made(lab);
    let (m1, m2) = (lab.member(1), lab.member(2));
    std::thread::scope(|both| {
        both.spawn(|| m1.idle_box("shop"));
        both.spawn(|| m2.idle_box("web"));
    });
    let nonce = "5e".repeat(32);
    let (code, answer) = ask(m1, "shop", &["m2/web", &nonce]);
    assert_eq!((code, &answer["verdict"]), (0, &"trusted".into()), "{answer}");
    assert_eq!((&answer["member"], &answer["box"]), (&"m2".into(), &"web".into()));
    assert_eq!(answer["composition"], m2.json(&["box", "show", "web"])["composition"]);
    assert!(answer["result"].as_str().unwrap().len() > 1000);
    for open in ["there is no policy yet", "software TPM", "files executed after boot: not measured"] {
        assert!(answer["not_checked"].to_string().contains(open), "{open}: {answer}");
    }
    // The other way, within one server, and by a process without rights.
    let (code, answer) = ask(m2, "web", &["m1/shop"]);
    assert_eq!((code, &answer["member"]), (0, &"m1".into()), "{answer}");
    let (code, answer) = ask(m1, "shop", &["shop"]);
    assert!(code == 0 && answer["not_checked"].to_string().contains("speaks for itself"), "{answer}");
    let script = format!("echo '{{\"peer\":\"m2/web\",\"nonce\":\"{nonce}\"}}'");
    let python = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect('/run/gtvp/attest.sock')\n\
                  s.sendall(sys.stdin.buffer.read())\nprint(s.makefile().readline())";
    let by_hand = format!("{script} | python3 -c \"{python}\"");
    let said = m1.ok(&["exec", "--user", "nobody", "shop", "--", "sh", "-c", &by_hand]);
    assert!(said.contains("\"verdict\":\"trusted\""), "{said}");

    refused(m1, &["m2/none"], "no box is called");
    refused(m1, &["m9/web"], "no member m9");
    assert_eq!(ask(m1, "shop", &["M2/web"]).0, 2);
    assert_eq!(ask(m1, "shop", &["m2/web", "00"]).0, 2, "a nonce that can be guessed");

    // Whoever was killed meanwhile is back, and the question is answered.
    for (member, domain) in [(m1, "drivers"), (m1, "management"), (m2, "management"), (m1, "security")] {
        member.kill_domain(domain);
        until(&format!("it is answered after {domain} was killed"), SOON, || {
            (ask(m1, "shop", &["m2/web"]).0 == 0).then_some(())
        });
    }

    // A box that cannot prove what it runs, and one that does not run.
    let [vtpm] = m2.processes(&["swtpm", "dir=/tmp,"])[..] else { panic!("a running box has one vTPM") };
    signal(vtpm, Signal::KILL);
    until("it is gone", SOON, || m2.processes(&["swtpm", "dir=/tmp,"]).is_empty().then_some(()));
    refused(m1, &["m2/web"], "the vTPM of box web has ended");
    m2.ok(&["box", "stop", "--grace", "1", "web"]);
    refused(m1, &["m2/web"], "does not run");
    m1.remove("shop");
    m2.remove("web");
}
