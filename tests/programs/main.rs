//! Programs of others against a cluster: an operator by kube-rs, the clients of Python and
//! JavaScript, Helm. They find out what no test of ours asks.
#![forbid(unsafe_code)]

mod helm;
mod hooks;
mod javascript;
mod operator;
mod python;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

fn main() -> ExitCode {
    run(&Suite {
        name: "programs",
        setup: Setup::nodes(1),
        side_by_side: 2,
        checks: checks![
            operator::sites_are_kept_in_order_whoever_leads,
            helm::a_chart_of_thirty_kinds_lives_through_its_life,
            python::an_informer_survives_what_the_server_forgot,
            python::an_election_has_one_winner,
            python::kinds_found_at_run_time_are_applied,
            python::streams_reach_into_pods,
            javascript::an_informer_sees_all_changes,
        ],
    })
}
