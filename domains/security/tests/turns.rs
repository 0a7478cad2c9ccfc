//! Members that appraise each other in turns, on real software TPMs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[allow(dead_code, reason = "what other tests need of it")]
mod played;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gtvp_appraisal::ownlog::EntryKind;
use gtvp_ipc::security::{Due, DueReply, HearResult, Wish};
use gtvp_model::union::MemberId;
use gtvp_protocol::rota::{Shift, about, verifiers};
use gtvp_security::peers::Now;
use played::server::{Server, appraise_at, at, measured};
use played::union::{PERIOD, appraises, is, result, row, tell, union};

/// Members in turns: who asks whom when, and what everybody is told.
struct Turns {
    all: Vec<Server>,
    next: BTreeMap<(usize, usize), u64>,
    told: Vec<u64>,
    silent: Option<usize>,
    /// How far each one's clock is off, milliseconds.
    skew: Vec<i64>,
    /// What was not believed of what was told.
    refused: Vec<(usize, String)>,
    /// Who appraised whom, when, and whether it was believed.
    done: Vec<(usize, usize, u64, bool)>,
}

impl Turns {
    fn new(names: &[&'static str]) -> Self {
        Self::skewed(names, &vec![0; names.len()])
    }

    fn skewed(names: &[&'static str], skew: &[i64]) -> Self {
        let all = union(names);
        let pairs = (0..all.len()).flat_map(|v| (0..names.len()).map(move |s| (v, s)));
        let next: BTreeMap<_, _> = pairs.filter(|(v, s)| v != s).map(|pair| (pair, 0)).collect();
        // Their channels open: each appraises each.
        let mut turns = Self {
            told: vec![0; all.len()],
            all,
            next,
            silent: None,
            skew: skew.to_vec(),
            refused: Vec::new(),
            done: Vec::new(),
        };
        turns.next.clone().keys().for_each(|(v, s)| turns.appraise(*v, *s, 0));
        turns.tell(0);
        turns.done.clear();
        turns
    }

    /// What time a member thinks it is.
    fn now(&self, of: usize, ms: u64) -> Now {
        let now = at(ms);
        Now { wall_ms: now.wall_ms.checked_add_signed(self.skew[of]).unwrap(), ..now }
    }

    fn appraise(&mut self, v: usize, s: usize, ms: u64) {
        let evidence = self.all[s].evidence(&self.all[v], 1);
        let believed = appraise_at(&self.all[v], &evidence, self.now(v, ms)).is_ok();
        self.done.push((v, s, ms, believed));
        // As `communication` does: towards the end of the period, that it is not late.
        self.next.insert((v, s), ms + PERIOD - 300);
    }

    fn tell(&mut self, ms: u64) {
        for from in 0..self.all.len() {
            let (new, upto) = self.all[from].peers.results_after(self.told[from], Duration::ZERO);
            self.told[from] = upto;
            for result in new {
                for to in (0..self.all.len()).filter(|to| *to != from) {
                    let told = HearResult {
                        from: self.all[from].id(),
                        ak: result.ak.clone(),
                        result: result.result.clone(),
                    };
                    let heard = self.all[to].peers.hear(&told, self.now(to, ms));
                    self.refused.extend(heard.err().map(|why| (from, why)));
                }
            }
        }
    }

    fn step(&mut self, ms: u64) {
        for ((v, s), at_ms) in self.next.clone() {
            if at_ms > ms {
                continue;
            }
            match self.all[v].peers.due(&Due { member: self.all[s].id() }, self.now(v, ms)).unwrap() {
                DueReply::Rest(rest) => drop(self.next.insert((v, s), ms + rest)),
                DueReply::Ask(_) if self.silent == Some(s) => drop(self.next.insert((v, s), ms + PERIOD)),
                DueReply::Ask(_) => self.appraise(v, s, ms),
            }
        }
        self.tell(ms);
    }

    fn verdicts(&self, of: usize, ms: u64) -> Vec<String> {
        let others = (0..self.all.len()).filter(|v| *v != of);
        let row = |v: usize| {
            let rows = self.all[v].peers.members(self.now(v, ms)).unwrap();
            rows.into_iter().find(|r| r.name == self.all[of].name).unwrap().verdict
        };
        others.map(row).collect()
    }
}

#[test]
fn in_turns_two_appraise_a_member_and_all_trust_it_until_it_is_silent_or_tampered_with() {
    const STEP: u64 = 100;
    let mut turns = Turns::new(&["m1", "m2", "m3", "m4", "m5", "m6"]);
    let periods = 12;
    let (mut ms, mut by_others) = (0, false);
    while ms < periods * PERIOD {
        ms += STEP;
        turns.step(ms);
        for of in 0..6 {
            assert!(turns.verdicts(of, ms).iter().all(|v| v == "trusted"), "m{} at {ms}", of + 1);
        }
        // Of a member with which there is no round of one's own it is said who has appraised it.
        by_others |= (0..5).any(|v| row(&turns.all[v], "m6", ms).1.contains(", "));
    }
    assert!(by_others);
    // Two of five, and some more where a result came late.
    let two = 6 * 2 * periods as usize;
    assert!(turns.done.len() <= two * 5 / 4, "{} appraisals, {two} are needed", turns.done.len());
    assert!(turns.done.len() >= two * 3 / 4, "{} appraisals", turns.done.len());
    let verifiers = |of: usize| {
        let mut by: Vec<_> = turns.done.iter().filter(|d| d.1 == of).map(|d| d.0).collect();
        by.sort_unstable();
        by.dedup();
        by.len()
    };
    assert!((0..6).all(|of| verifiers(of) >= 4), "they take turns");
    let quotes: BTreeSet<_> = turns.done.iter().map(|d| (d.1, d.2)).collect();
    assert!(
        quotes.len() <= 6 * (periods as usize + 2),
        "{} moments at which somebody is asked",
        quotes.len()
    );

    // Tampered with: its next verifiers see it within a period, by no hook but its evidence.
    turns.done.clear();
    turns.all[5].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    let tampered = ms;
    while turns.done.iter().all(|d| d.3) {
        ms += STEP;
        turns.step(ms);
    }
    assert!(ms - tampered <= PERIOD + STEP, "seen after {} ms", ms - tampered);
    // They say so, and whoever hears it asks at once: nobody is believed, all see it.
    let suspects: Vec<usize> = (0..5).collect();
    suspects.iter().for_each(|v| turns.appraise(*v, 5, ms));
    assert!(turns.verdicts(5, ms).iter().all(|v| v == "untrusted"));
    let heard = (0..5).map(|v| turns.all[v].peers.results_after(0, Duration::ZERO).0);
    let last = heard.flatten().filter(|r| r.of == turns.all[5].id()).count();
    assert!(last > 0, "what was said before is still around");
    turns.tell(ms);
    assert!(turns.verdicts(5, ms).iter().all(|v| v == "untrusted"), "and counts nowhere");

    // Silent: unknown to all, and untrusted to nobody.
    turns.silent = Some(4);
    let silent = ms;
    while ms < silent + 4 * PERIOD {
        ms += STEP;
        turns.step(ms);
        assert!(turns.verdicts(4, ms).iter().take(4).all(|v| v != "untrusted"));
    }
    assert!(turns.verdicts(4, ms).iter().take(4).all(|v| v == "unknown"), "{:?}", turns.verdicts(4, ms));
    assert!(turns.verdicts(3, ms).iter().take(3).all(|v| v == "trusted"), "the control");
}

#[test]
fn a_verdict_that_goes_on_ends_with_the_trust_in_those_by_whom_it_does() {
    for evicts in [false, true] {
        let mut turns = Turns::new(&["m1", "m2", "m3", "m4", "m5"]);
        let rests = |turns: &Turns, ms| {
            let pairs = (0..5).flat_map(|v| (0..5).map(move |s| (v, s))).filter(|(v, s)| v != s);
            pairs.into_iter().find_map(|(v, s)| {
                let (verdict, by) = row(&turns.all[v], turns.all[s].name, ms);
                let by: Vec<_> = by.split(", ").map(str::to_owned).collect();
                // m1 alone votes, and is not the one to go.
                let gone = by.iter().find(|name| *name != "m1").cloned()?;
                (verdict == "trusted" && by.len() == 2 && v != 0 && s != 0).then_some((v, s, gone))
            })
        };
        let mut ms = 0;
        let (v, s, gone) = loop {
            ms += 100;
            turns.step(ms);
            if let Some(found) = rests(&turns, ms) {
                break found;
            }
        };
        let x = turns.all.iter().position(|m| m.name == gone).unwrap();
        if evicts {
            let evict =
                turns.all[0].wish(Wish::Evict { member: gone.parse().unwrap(), reason: "test".into() });
            let all: Vec<&Server> = turns.all.iter().collect();
            Server::decide(&evict.unwrap().entry, &all[..1], &[&turns.all[0], &turns.all[v]]).unwrap();
        } else {
            turns.all[x].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
            turns.appraise(v, x, ms);
            assert!(!turns.done.last().unwrap().3);
        }
        let (verdict, by) = row(&turns.all[v], turns.all[s].name, ms);
        let id = turns.all[x].id().short();
        assert!(!by.contains(&gone) && !by.contains(&id), "{verdict} by {by}, though {gone} is gone");
        // It proves itself as before.
        turns.appraise(v, s, ms);
        assert_eq!(row(&turns.all[v], turns.all[s].name, ms), is("trusted", turns.all[v].name));
    }
}

#[test]
fn threat_70_clocks_that_are_off_cost_appraisals_and_never_a_verdict() {
    let names = ["m1", "m2", "m3", "m4", "m5"];
    // A part of a period; more than one; an hour.
    let mut turns = Turns::skewed(&names, &[0, 700, -700, 3_000, 3_600_000]);
    let mut ms = 0;
    while ms < 8 * PERIOD {
        ms += 100;
        turns.step(ms);
        for (of, name) in names.iter().enumerate() {
            let verdicts = turns.verdicts(of, ms);
            assert!(verdicts.iter().all(|v| v == "trusted"), "{name} at {ms}: {verdicts:?}");
            for v in (0..5).filter(|v| *v != of) {
                let rows = turns.all[v].peers.members(turns.now(v, ms)).unwrap();
                let by = rows.into_iter().find(|r| r.name == *name).unwrap().attested_by.unwrap();
                assert!(by == names[v] || by.contains(", "), "{} trusts {name} by {by} alone", names[v]);
            }
        }
    }
    let told =
        |from: usize, words: &str| turns.refused.iter().any(|(f, why)| *f == from && why.contains(words));
    assert!(told(4, "it was issued at"), "what is from the future is refused");
    assert!(told(0, "it ended at"), "and so is what has ended, by who is ahead");
    turns.done.clear();
    turns.all[1].actor.measure(measured(EntryKind::Binary, "security", 66)).unwrap();
    let tampered = ms;
    while turns.done.iter().all(|d| d.3) {
        ms += 100;
        turns.step(ms);
    }
    assert!(ms - tampered <= PERIOD + 100, "seen after {} ms", ms - tampered);
}

#[test]
fn only_two_whose_turn_it_is_spare_the_others_a_look() {
    let names = ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"];
    let all = union(&names);
    let (own, others) = (&all[0], &all[1..]);
    others.iter().for_each(|m| appraises(own, m, 0));
    let members: BTreeSet<MemberId> = all.iter().map(Server::id).collect();
    // Somebody whose turn it is not to be looked at by this member, and two others whose it is neither.
    let times = (2_000..4_000).step_by(250).flat_map(|ms| others.iter().map(move |s| (ms, s)));
    let found = times.filter_map(|(ms, s)| {
        let shift = Shift::at(&s.id(), at(ms).wall_ms, PERIOD);
        let (now, near) =
            (verifiers(&s.id(), shift.number, &members), about(&s.id(), shift.number, &members));
        let whose = |not: bool, of: &BTreeSet<MemberId>| -> Vec<&Server> {
            others.iter().filter(|m| m.id() != s.id() && of.contains(&m.id()) != not).collect()
        };
        let (turns, strangers) = (whose(false, &now), whose(true, &near));
        let fits = !now.contains(&own.id()) && turns.len() == 2 && strangers.len() >= 2;
        fits.then_some((ms, s, turns, strangers))
    });
    let (ms, subject, turns, strangers) = { found }.next().expect("one in a hundred and more");
    let tells = |verifier: &Server| {
        appraises(verifier, subject, ms);
        tell(own, verifier, &result(verifier, subject), ms).unwrap();
        own.peers.due(&Due { member: subject.id() }, at(ms)).unwrap()
    };
    for stranger in strangers {
        assert!(matches!(tells(stranger), DueReply::Ask(_)), "{}: it is not its turn", stranger.name);
    }
    assert!(matches!(tells(turns[0]), DueReply::Ask(_)), "one alone may lie");
    let rest = tells(turns[1]);
    assert!(matches!(rest, DueReply::Rest(1..=PERIOD)), "the control: {rest:?}");
    // Its TPM is reset, and it proves itself to these two anew: what this member has seen was another life.
    let place = |of: &Server| all.iter().position(|m| m.id() == of.id()).unwrap();
    let (subject, turns) = (place(subject), [place(turns[0]), place(turns[1])]);
    let mut all = all;
    all[subject].tpm.reset();
    all[subject].boot();
    let (own, subject) = (&all[0], &all[subject]);
    for verifier in turns.map(|v| &all[v]) {
        subject.evidence(verifier, 0).appraised_by(verifier, ms).unwrap();
        tell(own, verifier, &result(verifier, subject), ms).unwrap();
    }
    assert!(matches!(own.peers.due(&Due { member: subject.id() }, at(ms)).unwrap(), DueReply::Ask(_)));
}

#[test]
fn a_clock_that_is_set_back_does_not_put_off_the_next_look() {
    let all = union(&["m1", "m2"]);
    let ahead = |ms| Now { wall_ms: at(ms).wall_ms + 3_600_000, ..at(ms) };
    appraise_at(&all[0], &all[1].evidence(&all[0], 1), ahead(0)).unwrap();
    let due = |now| all[0].peers.due(&Due { member: all[1].id() }, now).unwrap();
    assert!(matches!(due(ahead(1)), DueReply::Rest(_)), "it has just been looked at");
    assert!(matches!(due(at(PERIOD)), DueReply::Ask(_)));
}
