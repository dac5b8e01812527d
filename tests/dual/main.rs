//! A cluster of two nodes with both families of addresses: pods, Services, names, policies and
//! load balancers in each of them; and a cluster of IPv6 alone.
#![forbid(unsafe_code)]

mod alone;
mod balancer;
mod names;
mod pods;
mod policies;
mod services;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Families, Setup, checks, run};

fn main() -> ExitCode {
    let setup = Setup {
        families: Families::Both,
        balancer_pool: true,
        ..Setup::nodes(2)
    };
    run(&Suite {
        name: "dual",
        setup,
        // The last ones kill what the others would stand on.
        side_by_side: 1,
        checks: checks![
            pods::pods_of_two_nodes_meet_in_both_families,
            pods::a_host_port_is_at_all_addresses_of_its_node,
            services::a_service_gets_the_families_that_it_asks_for,
            services::connections_and_datagrams_go_round_in_both_families,
            services::a_client_of_either_family_keeps_its_pod,
            services::a_further_range_serves_in_both_families,
            names::names_stand_for_addresses_of_both_families,
            policies::policies_hold_in_both_families,
            balancer::addresses_of_both_families_move_when_their_node_dies,
            alone::a_cluster_of_ipv6_alone_works,
        ],
    })
}
