//! Three servers with an etcd member each, three nodes: whichever of them fails, nothing that was
//! acknowledged is lost, and Services answer all the time.
#![forbid(unsafe_code)]

mod failures;
mod leaders;
mod parts;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

fn main() -> ExitCode {
    let setup = Setup {
        servers: Some(3),
        // Room for the 200 pods of a check.
        node_cpu_millis: Some(4_000),
        node_memory_mib: Some(4_096),
        ..Setup::nodes(3)
    };
    run(&Suite {
        name: "ha",
        setup,
        // One after another: each takes away what the others stand on.
        side_by_side: 1,
        checks: checks![
            failures::a_server_is_killed,
            failures::an_etcd_member_is_killed,
            failures::a_machine_loses_its_power,
            failures::a_server_is_cut_off,
            failures::without_a_majority_nothing_is_written,
            leaders::a_leader_that_slept_through_an_update_does_no_harm,
            leaders::a_leader_that_slept_through_a_scale_up_does_no_harm,
        ],
    })
}
