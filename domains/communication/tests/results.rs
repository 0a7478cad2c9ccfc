//! The results plane between members that talk: what one has found reaches all others, who rests is not asked, and who is suspected is
//! asked at once. TLS, links and HSP's engines are real, `security` is played.

#![allow(clippy::unwrap_used, reason = "a test")]

mod world;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gtvp_ipc::security::OwnResult;
use gtvp_protocol::frame::Frame;
use gtvp_protocol::results::{RESULT, Suspect};
use world::{Member, connected, refused, union, until};

const REST: u64 = 600;

/// Members with a channel between any two.
fn meshed(period: u32, names: &[&str]) -> Vec<Member> {
    let (_world, members) = union(period, names);
    for m in &members {
        members.iter().filter(|o| o.id() != m.id()).for_each(|o| m.hears_of(o));
    }
    for m in &members {
        members.iter().filter(|o| o.id() != m.id()).for_each(|o| connected(m, o));
    }
    members
}

fn result(of: &Member, n: u8) -> OwnResult {
    OwnResult { of: of.id(), ak: vec![n], result: vec![n; 1000], issued: 0, expires: 0 }
}

fn seen(m: &Member) -> usize {
    m.player.appraised.load(Ordering::SeqCst)
}

#[test]
fn what_a_member_has_found_is_told_to_all_by_itself_and_to_who_comes_later() {
    let members = meshed(30_000, &["b", "c"]);
    let [a, b, c] = &members[..] else { panic!("three members") };
    let told = result(c, 7);
    a.player.results.lock().unwrap().push(told.clone());
    let want = (a.id(), told.ak.clone(), told.result.clone());
    for m in [b, c] {
        until("it has heard it", || m.player.heard.lock().unwrap().contains(&want).then_some(()));
    }
    // Nobody passes it on: each has heard it once, of a.
    a.player.results.lock().unwrap().push(result(b, 8));
    until("it has heard the next", || (b.player.heard.lock().unwrap().len() == 2).then_some(()));
    assert!(a.player.heard.lock().unwrap().is_empty());
    // What is newer takes the place of what was there.
    a.player.results.lock().unwrap().push(result(c, 9));
    until("and the one after", || (b.player.heard.lock().unwrap().len() == 3).then_some(()));
    // A channel that opens later hears what counts now.
    b.player.heard.lock().unwrap().clear();
    let link = b.runtime.engine().channel(a.id()).unwrap();
    b.runtime.switch.note(link, gtvp_communication::switch::Note::End("a test"));
    until("it is told again", || {
        let heard = b.player.heard.lock().unwrap();
        let of_a = heard.iter().filter(|h| h.0 == a.id()).map(|h| h.1[0]);
        let mut of_a: Vec<_> = of_a.collect();
        of_a.sort_unstable();
        (of_a == [8, 9]).then_some(())
    });
}

/// A result as it is played: about whom, and since when.
fn fresh(of: &Member, ak: &[u8]) -> OwnResult {
    let issued = gtvp_communication::clock::wall().0;
    let result = [of.id().as_bytes().as_slice(), &issued.to_be_bytes(), &[7; 900]].concat();
    OwnResult { of: of.id(), ak: ak.to_vec(), result, issued, expires: issued + 60 }
}

#[test]
fn a_result_reaches_who_has_no_channel_with_its_verifier_by_a_third() {
    let (_world, members) = union(REST as u32, &["b", "c", "d"]);
    let [a, b, c, d] = &members[..] else { panic!("four members") };
    for (m, o) in [(b, c), (c, b)] {
        m.player.blind.lock().unwrap().insert(o.id());
    }
    for m in [b, c, d] {
        m.hears_of(a);
        a.hears_of(m);
    }
    for m in [b, c, d] {
        connected(m, a);
    }
    let told = fresh(d, b"AK of b");
    b.player.results.lock().unwrap().push(told.clone());
    let want = (b.id(), told.ak.clone(), told.result.clone());
    until("c has heard it of a third", || c.player.heard.lock().unwrap().contains(&want).then_some(()));
    assert!(b.runtime.engine().channel(c.id()).is_none(), "and not of b");
    // What a third does not believe it passes on to nobody; the control came the same way.
    let forged = fresh(d, b"forged");
    b.player.results.lock().unwrap().push(forged.clone());
    let next = fresh(a, b"AK of b");
    b.player.results.lock().unwrap().push(next.clone());
    until("the control", || {
        c.player.heard.lock().unwrap().iter().any(|(_, _, result)| *result == next.result).then_some(())
    });
    std::thread::sleep(Duration::from_millis(4 * REST));
    assert!(c.player.heard.lock().unwrap().iter().all(|(_, ak, _)| *ak != forged.ak));
}

#[test]
fn a_status_comes_to_all_and_a_forged_one_to_nobody_by_others() {
    let (_world, members) = union(REST as u32, &["b", "c"]);
    let [a, b, c] = &members[..] else { panic!("three members") };
    for (m, o) in [(b, c), (c, b)] {
        m.player.blind.lock().unwrap().insert(o.id());
    }
    for m in [b, c] {
        m.hears_of(a);
        a.hears_of(m);
        connected(m, a);
    }
    let status = |n: u64, signature: &[u8]| {
        let version = gtvp_communication::clock::wall().0 * 1000 + n;
        Box::new(gtvp_protocol::gossip::Entry {
            author: b.id(),
            kind: gtvp_protocol::gossip::Kind::Status,
            subject: b.id(),
            version,
            expires: version + 30_000,
            body: vec![1].try_into().unwrap(),
            public: vec![2].try_into().unwrap(),
            signature: signature.to_vec().try_into().unwrap(),
        })
    };
    let has = |m: &Member, version| m.player.statuses.lock().unwrap().iter().any(|e| e.version == version);
    let good = status(0, b"good");
    gtvp_communication::gossip::spread(&b.runtime, good.clone());
    for m in [a, c] {
        until("it has come", || has(m, good.version).then_some(()));
    }
    gtvp_communication::gossip::spread(&b.runtime, status(1, b"bad"));
    std::thread::sleep(Duration::from_millis(4 * REST));
    assert!([a, c].iter().all(|m| !has(m, good.version + 1)));
    // Whose communication passes on such a thing is not listened to for a while; its channel stays.
    connected(a, b);
}

#[test]
fn who_rests_has_a_channel_and_no_rounds_until_it_is_to_ask() {
    let members = meshed(REST as u32, &["b"]);
    let [a, b] = &members[..] else { panic!("two members") };
    [a, b].iter().for_each(|m| m.player.rests.store(REST, Ordering::SeqCst));
    let before = seen(a) + seen(b);
    // What was asked already may still come; nobody asks after that.
    std::thread::sleep(Duration::from_millis(REST * 4));
    assert!(seen(a) + seen(b) <= before + 2, "{} rounds", seen(a) + seen(b) - before);
    connected(a, b);
    [a, b].iter().for_each(|m| m.player.rests.store(0, Ordering::SeqCst));
    let before = (seen(a), seen(b));
    until("the control", || (seen(a) > before.0 + 1 && seen(b) > before.1 + 1).then_some(()));
}

#[test]
fn who_was_tampered_with_is_out_everywhere_within_a_period_though_only_one_appraises_it() {
    const PERIOD: u64 = 1_000;
    let members = meshed(PERIOD as u32, &["b", "c", "d"]);
    let [a, b, c, d] = &members[..] else { panic!("four members") };
    // Only b has to look at anybody; the longest rest there is.
    for m in [a, c, d] {
        m.player.rests.store(u64::MAX, Ordering::SeqCst);
    }
    std::thread::sleep(Duration::from_millis(PERIOD));
    let since = Instant::now();
    d.player.measure("rootkit");
    for m in [a, b, c] {
        refused(m, d.id(), "rootkit");
    }
    let took = since.elapsed();
    assert!(took < Duration::from_millis(PERIOD + 2_000), "{took:?}");
    for (x, y) in [(a, b), (a, c), (b, c)] {
        connected(x, y);
    }
}

#[test]
fn a_flood_of_suspicions_and_results_costs_a_question_a_second_and_nobody_loses_anything() {
    let members = meshed(30_000, &["b", "c"]);
    let [a, b, c] = &members[..] else { panic!("three members") };
    let (before, since) = (seen(a), Instant::now());
    for _ in 0..5_000 {
        b.runtime.switch.send(a.id(), Suspect { member: c.id() }.frame());
        b.runtime.switch.send(a.id(), Suspect { member: b.id() }.frame());
        b.runtime.switch.send(a.id(), Suspect { member: a.id() }.frame());
        b.runtime.switch.send(a.id(), Suspect { member: [9; 32].into() }.frame());
    }
    until("it has asked them", || (seen(a) >= before + 2).then_some(()));
    for _ in 0..3_000 {
        let told = gtvp_protocol::results::Told::frame(vec![1], vec![2; 100]).unwrap();
        b.runtime.switch.send(a.id(), told);
    }
    std::thread::sleep(Duration::from_millis(1_500));
    let most = 2 * (2 + usize::try_from(since.elapsed().as_secs()).unwrap());
    assert!(seen(a) <= before + most, "{} rounds", seen(a) - before);
    let heard = a.player.heard.lock().unwrap().len();
    assert!(heard < 3_000, "{heard} of 3,000 results were looked at");
    // What they show is good, and so are their channels; nobody believed a word.
    connected(a, b);
    connected(a, c);
    // What is no message ends the channel of who sends it.
    c.runtime.switch.send(a.id(), Frame { kind: RESULT, body: vec![0xFF; 10] });
    refused(a, c.id(), "malformed");
    connected(a, b);
}
