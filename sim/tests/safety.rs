//! Some seeds of each story; `gtvp-sim soak` runs as many as there is time for. A failure says which command replays it.

use gtvp_sim::{Config, Story, run};

fn seeds(name: &str, story: Story, count: u64) {
    // Without optimization a run takes seconds.
    let count = if cfg!(debug_assertions) { 2 } else { count };
    for seed in 0..count {
        let outcome = run(&Config::of(seed, story));
        assert_eq!(outcome.violation, None, "gtvp-sim run {seed} {name} -v");
    }
}

#[test]
fn members_that_keep_to_the_protocol_have_one_record_and_go_on() {
    seeds("honest", Story::Honest, 30);
}

#[test]
fn a_voter_whose_communication_lies_fools_nobody() {
    seeds("liar", Story::Liar, 10);
}

#[test]
fn one_voter_of_four_with_its_keys_fools_nobody() {
    seeds("traitor", Story::Traitor, 10);
}

#[test]
fn a_voter_whose_disk_has_gone_back_fools_nobody() {
    seeds("rollback", Story::Rollback, 10);
}

#[test]
fn members_join_and_prove_themselves_among_attacks_and_all_are_trusted_in_the_end() {
    seeds("union", Story::Union, 60);
}
