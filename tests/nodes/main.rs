//! A cluster of three nodes: Services across them, failing nodes, a failing control plane, and
//! the life of `up` itself.
#![forbid(unsafe_code)]

mod balancer;
mod claims;
mod drivers;
mod failures;
mod faults;
mod life;
mod policies;
mod pressure;
mod services;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

/// Declared CPU of each node: known, so that what fits can be counted.
pub const NODE_CPU_MILLIS: u64 = 2_000;

/// Declared memory of each node.
pub const NODE_MEMORY_MIB: u64 = 2_048;

fn main() -> ExitCode {
    let setup = Setup {
        node_cpu_millis: Some(NODE_CPU_MILLIS),
        node_memory_mib: Some(NODE_MEMORY_MIB),
        args: vec![format!(
            "--node-arg=--eviction-pressure-transition-period={}",
            pressure::STAYS_SECONDS
        )],
        balancer_pool: true,
        ..Setup::nodes(3)
    };
    run(&Suite {
        name: "nodes",
        setup,
        // One after another: they kill what the others would stand on.
        side_by_side: 1,
        checks: checks![
            services::connections_are_spread_evenly_on_every_node,
            services::a_service_keeps_its_address,
            services::a_pod_reaches_itself_through_its_service,
            services::an_unready_pod_gets_no_traffic,
            services::pods_meet_without_translation,
            services::a_client_keeps_its_pod_where_that_is_asked_for,
            policies::a_pod_is_reached_by_whom_its_policies_allow,
            policies::a_running_connection_ends_with_the_policy_that_allowed_it,
            policies::a_pod_is_protected_from_its_first_packet_on,
            balancer::an_address_of_the_pool_keeps_sources_and_outlives_its_node,
            failures::a_killed_container_is_restarted_and_a_deleted_pod_replaced,
            failures::nodes_are_never_overcommitted,
            pressure::a_node_short_of_memory_gets_no_new_pods,
            failures::a_dead_node_takes_no_other_with_it,
            failures::a_dead_node_is_replaced_and_returns,
            claims::a_stateful_pod_finds_its_data_after_its_node_died,
            failures::a_killed_control_plane_loses_no_write,
            failures::a_killed_agent_leaves_containers_alone,
            failures::a_paused_agent_goes_on,
            drivers::a_drivers_volumes_outlive_driver_and_kubelet,
            drivers::an_attached_volume_is_used_when_it_is_there,
            drivers::devices_of_a_plugin_go_to_pods,
            drivers::claims_are_prepared_and_given_back,
            faults::a_killed_runtime_leaves_containers_alone,
            faults::a_kubelet_killed_at_any_time_leaves_nothing_behind,
            faults::many_pods_come_and_go_at_once,
            faults::a_partitioned_node_goes_on,
            faults::a_full_disk_is_relieved,
            life::a_killed_supervisor_is_taken_up_again,
            life::status_lists_processes_and_nodes,
            life::ranges_in_use_are_refused,
            life::images_are_listed_imported_and_removed,
        ],
    })
}
