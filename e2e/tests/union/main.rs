//! What users do with several servers, told as stories of one union. They follow each other: a union is made in the first one, and what
//! a story changes in it, it says.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod contain;
mod join;
mod record;

use std::process::ExitCode;

fn main() -> ExitCode {
    gtvp_e2e::runner::run(
        "union",
        3,
        &[
            ("servers_join_by_attestation", join::servers_join_by_attestation),
            ("what_does_not_fit_joins_nothing", join::what_does_not_fit_joins_nothing),
            ("every_member_has_the_whole_record", record::every_member_has_the_whole_record),
            ("a_member_that_was_away_catches_up", record::a_member_that_was_away_catches_up),
            (
                "who_is_not_reached_is_known_by_what_others_say",
                contain::who_is_not_reached_is_known_by_what_others_say,
            ),
            ("a_log_that_was_cut_costs_the_verdict", contain::a_log_that_was_cut_costs_the_verdict),
            ("a_tpm_that_was_reset_proves_itself_anew", contain::a_tpm_that_was_reset_proves_itself_anew),
            ("a_member_leaves_and_comes_back", join::a_member_leaves_and_comes_back),
            ("a_member_is_evicted", contain::a_member_is_evicted),
        ],
    )
}
