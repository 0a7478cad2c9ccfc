//! What a user can do with one member, told as stories. Each is independent of the others and leaves no box behind.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod attest;
mod boxes;
mod faults;
mod integrity;
mod life;
mod platform;
mod refusals;
mod running;
mod templates;
mod union;

use std::process::ExitCode;

fn main() -> ExitCode {
    gtvp_e2e::runner::run(
        "e2e",
        1,
        &[
            (
                "nginx_starts_with_a_fraction_of_its_closure",
                running::nginx_starts_with_a_fraction_of_its_closure,
            ),
            ("an_application_ends_with_its_own_status", running::an_application_ends_with_its_own_status),
            (
                "output_is_passed_on_at_once_and_its_reader_ends_it",
                running::output_is_passed_on_at_once_and_its_reader_ends_it,
            ),
            ("a_detached_box_that_ends_at_once_is_told", running::a_detached_box_that_ends_at_once_is_told),
            ("redis_answers_on_its_published_port", running::redis_answers_on_its_published_port),
            ("a_box_can_be_a_file", running::a_box_can_be_a_file),
            ("a_second_box_shares_what_the_first_has", running::a_second_box_shares_what_the_first_has),
            (
                "a_box_lives_through_stop_start_pause_and_change",
                life::a_box_lives_through_stop_start_pause_and_change,
            ),
            ("commands_run_beside_the_application", life::commands_run_beside_the_application),
            ("bad_input_is_refused_and_leaves_nothing", refusals::bad_input_is_refused_and_leaves_nothing),
            ("ctrl_c_leaves_nothing", refusals::ctrl_c_leaves_nothing),
            (
                "a_kernel_that_panics_is_told_with_its_last_words",
                faults::a_kernel_that_panics_is_told_with_its_last_words,
            ),
            ("a_box_serves_while_each_process_is_killed", faults::a_box_serves_while_each_process_is_killed),
            ("a_source_that_cannot_be_reached_is_named", faults::a_source_that_cannot_be_reached_is_named),
            (
                "a_software_tpm_is_marked_and_its_reset_shows",
                platform::a_software_tpm_is_marked_and_its_reset_shows,
            ),
            (
                "attest_gives_evidence_that_is_checked_without_the_member",
                attest::attest_gives_evidence_that_is_checked_without_the_member,
            ),
            (
                "attested_evidence_outlives_security_and_grows_only_by_what_is_new",
                attest::attested_evidence_outlives_security_and_grows_only_by_what_is_new,
            ),
            ("a_box_proves_what_it_runs", boxes::a_box_proves_what_it_runs),
            (
                "a_union_is_begun_by_choice_and_outlives_security",
                union::a_union_is_begun_by_choice_and_outlives_security,
            ),
            (
                "boxes_of_one_template_have_nothing_of_each_others",
                templates::boxes_of_one_template_have_nothing_of_each_others,
            ),
            (
                "a_template_that_is_no_good_never_fails_a_start",
                templates::a_template_that_is_no_good_never_fails_a_start,
            ),
            ("a_flipped_byte_is_never_served", integrity::a_flipped_byte_is_never_served),
        ],
    )
}
