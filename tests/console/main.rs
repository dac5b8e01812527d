//! What a person sees of a cluster: the console in a real browser, also by the keyboard, on a phone,
//! in the dark, and with few rights; and the commands that show it in a terminal.
#![forbid(unsafe_code)]

mod browser;
mod many;
mod page;
mod rights;
mod story;
mod terminal;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

fn main() -> ExitCode {
    run(&Suite {
        name: "console",
        setup: Setup::nodes(1),
        side_by_side: 1,
        checks: checks![
            terminal::status_says_what_is_wrong_first,
            terminal::top_prints_once_in_a_pipe_and_lives_in_a_terminal,
            terminal::logs_of_several_pods_are_followed_over_restarts,
            terminal::shells_complete_and_pages_are_made,
            terminal::a_terminal_has_colours_and_a_pipe_has_none,
            terminal::programs_read_what_commands_answer,
            story::a_person_sees_scales_and_repairs,
            story::yaml_is_changed_with_its_mistakes_shown_in_place,
            rights::everybody_can_use_it_in_light_and_dark_and_on_a_phone,
            rights::who_may_see_one_namespace_sees_just_that,
            many::thousands_of_pods_stay_smooth,
        ],
    })
}
