//! A cluster of three nodes: Services across them, failing nodes, a failing control plane, and
//! the life of `up` itself.
#![forbid(unsafe_code)]

mod administrators;
mod balancer;
mod claims;
mod critical;
mod databases;
mod distress;
mod drivers;
mod extended;
mod extension;
mod failures;
mod faults;
mod life;
mod names;
mod partition;
mod policies;
mod pressure;
mod puzzles;
mod services;
mod static_pods;
mod streams;
mod traffic;

use std::process::ExitCode;

use tests::runner::{Check, Suite};
use tests::{Setup, checks, run};

/// Declared CPU of each node: known, so that what fits can be counted.
pub const NODE_CPU_MILLIS: u64 = 2_000;

/// Declared memory of each node.
pub const NODE_MEMORY_MIB: u64 = 2_048;

/// The configuration of its kubelets.
const KUBELET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nodes/kubelet.yaml");

fn main() -> ExitCode {
    let mut checks = CHECKS.to_vec();
    if tests::is_soak() || std::env::args().any(|a| a.contains("databases")) {
        checks.extend(DATABASES);
    }
    let setup = Setup {
        node_cpu_millis: Some(NODE_CPU_MILLIS),
        node_memory_mib: Some(NODE_MEMORY_MIB),
        args: vec![
            format!(
                "--node-arg=--eviction-pressure-transition-period={}",
                pressure::STAYS_SECONDS
            ),
            format!("--node-arg=--config={KUBELET}"),
            "--node-arg=--clock-shift-file=/run/clock-shift".into(),
        ],
        balancer_pool: true,
        ..Setup::nodes(3)
    };
    run(&Suite {
        name: "nodes",
        setup,
        // One after another: they kill what the others would stand on.
        side_by_side: 1,
        checks: checks.leak(),
    })
}

/// What needs packages that the other checks do not.
const DATABASES: &[Check] = checks![databases::databases_keep_what_they_acknowledged];

const CHECKS: &[Check] = checks![
    services::connections_are_spread_evenly_on_every_node,
    services::a_service_keeps_its_address,
    services::a_pod_reaches_itself_through_its_service,
    services::an_unready_pod_gets_no_traffic,
    services::pods_meet_without_translation,
    services::a_client_keeps_its_pod_where_that_is_asked_for,
    services::annotations_limit_what_a_pod_receives_and_sends,
    services::a_further_range_serves_until_it_is_empty,
    services::a_service_of_sctp_has_rules_or_says_why_nobody_answers,
    extension::a_service_leads_to_webhooks_and_an_extension_server,
    traffic::a_rolling_update_loses_no_request,
    traffic::datagrams_go_to_the_pods_in_turn,
    traffic::endpoints_that_flap_lose_no_request,
    traffic::an_agent_killed_while_it_programs_leaves_whole_rules,
    traffic::a_command_in_a_pod_stays_connected_while_proxies_restart,
    traffic::tables_that_others_removed_come_back,
    traffic::a_full_table_of_connections_lets_new_ones_in,
    names::a_corefile_leads_questions,
    policies::a_pod_is_reached_by_whom_its_policies_allow,
    policies::a_running_connection_ends_with_the_policy_that_allowed_it,
    policies::a_pod_is_protected_from_its_first_packet_on,
    administrators::administrators_have_the_first_and_the_last_word,
    balancer::an_address_of_the_pool_keeps_sources_and_outlives_its_node,
    failures::a_killed_container_is_restarted_and_a_deleted_pod_replaced,
    failures::nodes_are_never_overcommitted,
    pressure::a_node_short_of_memory_gets_no_new_pods,
    critical::a_critical_pod_ends_another_one,
    failures::a_dead_node_takes_no_other_with_it,
    failures::a_dead_node_is_replaced_and_returns,
    claims::a_stateful_pod_finds_its_data_after_its_node_died,
    failures::a_killed_control_plane_loses_no_write,
    failures::a_killed_agent_leaves_containers_alone,
    failures::a_paused_agent_goes_on,
    failures::what_others_write_over_a_nodes_status_is_repaired,
    drivers::a_drivers_volumes_outlive_driver_and_kubelet,
    drivers::an_attached_volume_is_used_when_it_is_there,
    drivers::devices_of_a_plugin_go_to_pods,
    drivers::claims_are_prepared_and_given_back,
    drivers::a_claim_goes_its_whole_way,
    extended::an_amount_of_a_class_comes_from_its_driver,
    static_pods::files_of_a_node_are_its_pods,
    streams::streams_that_nobody_uses_end,
    streams::a_followed_log_is_rotated_without_a_gap,
    faults::a_killed_runtime_leaves_containers_alone,
    faults::a_kubelet_killed_at_any_time_leaves_nothing_behind,
    faults::a_rebooted_node_goes_on_with_its_pods,
    faults::many_pods_come_and_go_at_once,
    distress::clocks_that_jump_restart_nothing,
    distress::a_runtime_that_answers_badly_loses_nothing,
    distress::what_the_runtime_forgot_is_ended,
    partition::a_partitioned_node_goes_on,
    partition::a_node_out_of_service_gives_its_identities_up,
    faults::a_full_disk_is_relieved,
    puzzles::why_names_the_one_true_cause,
    puzzles::why_says_what_stays_and_what_would_be,
    puzzles::why_says_what_is_wrong_with_a_question,
    life::a_killed_supervisor_is_taken_up_again,
    life::status_lists_processes_and_nodes,
    life::ranges_in_use_are_refused,
    life::images_are_listed_imported_and_removed,
];
