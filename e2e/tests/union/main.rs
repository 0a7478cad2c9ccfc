//! What users do with several servers, told as stories of one union. They follow each other: a union is made in the first one, and what
//! a story changes in it, it says.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod contain;
mod fence;
mod join;
mod record;
mod recover;
mod vouch;

use std::process::ExitCode;

fn main() -> ExitCode {
    gtvp_e2e::runner::run(
        "union",
        3,
        &[
            ("servers_join_by_attestation", join::servers_join_by_attestation),
            ("what_does_not_fit_joins_nothing", join::what_does_not_fit_joins_nothing),
            (
                "applications_on_two_servers_prove_themselves_to_each_other",
                vouch::applications_on_two_servers_prove_themselves_to_each_other,
            ),
            ("every_member_has_the_whole_record", record::every_member_has_the_whole_record),
            (
                "a_member_gives_fresh_evidence_of_another_as_a_file",
                record::a_member_gives_fresh_evidence_of_another_as_a_file,
            ),
            ("every_member_says_how_it_is", record::every_member_says_how_it_is),
            ("a_member_that_was_away_catches_up", record::a_member_that_was_away_catches_up),
            (
                "a_member_restored_from_an_old_disk_catches_up",
                record::a_member_restored_from_an_old_disk_catches_up,
            ),
            (
                "who_is_not_reached_is_known_by_what_others_say",
                contain::who_is_not_reached_is_known_by_what_others_say,
            ),
            ("a_log_that_was_cut_costs_the_verdict", contain::a_log_that_was_cut_costs_the_verdict),
            ("a_tpm_that_was_reset_proves_itself_anew", contain::a_tpm_that_was_reset_proves_itself_anew),
            (
                "a_replaced_program_costs_the_verdict_until_it_is_accepted",
                contain::a_replaced_program_costs_the_verdict_until_it_is_accepted,
            ),
            ("a_changed_topology_costs_the_verdict", contain::a_changed_topology_costs_the_verdict),
            (
                "an_extend_that_no_log_has_costs_the_verdict",
                contain::an_extend_that_no_log_has_costs_the_verdict,
            ),
            (
                "who_is_cut_off_grants_nothing_new_and_what_runs_goes_on",
                fence::who_is_cut_off_grants_nothing_new_and_what_runs_goes_on,
            ),
            (
                "who_was_given_up_leaves_by_force_and_joins_again",
                recover::who_was_given_up_leaves_by_force_and_joins_again,
            ),
            ("a_member_leaves_and_comes_back", join::a_member_leaves_and_comes_back),
            ("a_member_is_evicted", contain::a_member_is_evicted),
        ],
    )
}
