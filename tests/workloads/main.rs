//! What pods are and do, on two nodes with real containers.
#![forbid(unsafe_code)]

mod balancer;
mod claims;
mod controllers;
mod escapes;
mod events;
mod identity;
mod life;
mod pods;
mod resources;
mod scaling;
mod snapshots;
mod streams;
mod volumes;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

fn main() -> ExitCode {
    let mut setup = Setup::nodes(2);
    // More than the machine may have: what is declared is what the scheduler counts with.
    setup.node_cpu_millis = Some(4000);
    run(&Suite {
        name: "workloads",
        setup,
        side_by_side: 2,
        checks: checks![
            pods::two_containers_share_one_address,
            pods::init_containers_run_first_and_in_order,
            pods::environment_comes_from_everywhere,
            pods::variables_come_from_a_file_that_the_pod_wrote,
            pods::names_resolve_inside_pods,
            pods::a_pod_calls_the_api_with_its_own_token,
            pods::a_seccomp_profile_of_the_node_is_enforced,
            pods::limits_reach_the_kernel,
            pods::a_pod_that_fits_nowhere_says_why,
            pods::a_node_selector_is_followed,
            identity::a_container_may_do_what_its_security_context_says,
            identity::a_pod_has_the_names_that_it_says,
            identity::processes_are_seen_by_whom_the_pod_says,
            identity::a_container_for_debugging_joins_a_running_pod,
            volumes::configuration_and_secrets_are_read,
            volumes::scratch_space_is_shared_and_may_be_memory,
            volumes::a_folder_of_the_node_is_mounted,
            volumes::a_pod_reads_about_itself,
            volumes::sources_are_projected_together,
            volumes::a_changed_config_map_reaches_the_pod,
            volumes::a_race_never_leads_a_sub_path_out_of_its_volume,
            volumes::parts_of_volumes_are_mounted,
            volumes::the_files_of_an_image_are_a_volume,
            volumes::mounts_spread_as_far_as_they_are_let,
            volumes::nothing_is_removed_through_what_a_pod_left_mounted,
            escapes::links_in_volumes_lead_to_nothing_outside,
            escapes::an_exchanged_file_is_mounted,
            escapes::paths_of_files_stay_in_their_volume,
            escapes::host_paths_are_what_their_types_say,
            escapes::logs_and_last_words_are_not_read_through_links,
            escapes::last_words_are_short,
            escapes::devices_and_the_kernels_state_are_out_of_reach,
            escapes::a_copied_archive_stays_in_its_folder,
            claims::a_claim_is_bound_to_a_volume_that_a_person_made,
            claims::a_claim_gets_a_volume_on_its_nodes_disk,
            claims::a_stateful_set_keeps_its_data,
            claims::an_ephemeral_claim_goes_with_its_pod,
            claims::what_a_claim_cannot_have_is_said,
            claims::a_device_gets_a_file_system_and_keeps_it,
            snapshots::snapshots_and_copies_hold_what_was_there,
            snapshots::whether_a_volume_is_held_to_its_size_is_said,
            streams::commands_run_in_containers,
            streams::standard_input_ends,
            streams::a_command_ends_with_its_client,
            streams::a_running_container_is_attached_to,
            streams::files_are_copied_both_ways,
            streams::logs_are_followed_and_cut,
            streams::logs_of_the_last_container_are_kept,
            streams::ports_are_forwarded,
            streams::pods_are_reached_through_the_api_server,
            streams::host_ports_differ_by_address_and_protocol,
            balancer::services_have_the_nodes_addresses,
            life::pods_live_by_their_rules,
            life::a_failed_liveness_probe_restarts_on_the_same_node,
            life::other_probes_wait_for_the_startup_probe,
            life::a_class_of_runtimes_chooses_the_handler,
            life::readiness_follows_its_probe,
            life::readiness_follows_its_gate,
            life::a_pod_that_ends_may_be_unready,
            life::a_container_that_takes_too_much_memory_is_restarted,
            life::a_failing_container_backs_off,
            life::a_hook_that_fails_backs_off,
            life::containers_wait_for_ever_after_a_failed_init_container,
            life::sidecars_end_one_by_one,
            life::all_containers_start_again_for_one_that_ends,
            life::what_others_write_over_a_status_is_repaired,
            life::a_pod_ends_as_its_policy_says,
            life::a_pod_gets_time_to_end,
            life::an_image_that_is_not_there_is_reported,
            events::probes_and_hooks_say_what_they_met,
            events::what_keeps_a_pod_from_running_is_said,
            resources::the_kernel_weighs_pods_by_what_they_ask_for,
            resources::a_pod_is_resized_in_place,
            resources::a_resize_without_room_waits_and_says_so,
            resources::limits_of_the_pod_bind_its_containers,
            resources::too_much_local_storage_evicts,
            resources::what_cannot_be_given_is_refused,
            resources::a_pod_that_does_not_fit_its_node_is_rejected,
            controllers::a_replication_controller_keeps_one_pod,
            controllers::what_a_full_quota_refuses_is_said,
            controllers::a_deployment_rolls_forward_and_back,
            controllers::labels_move_pods_between_services,
            controllers::traffic_stays_where_its_distribution_says,
            controllers::owners_take_their_own_with_them,
            controllers::a_namespace_ends_with_all_in_it,
            controllers::happenings_are_reported_as_events,
            scaling::load_scales_a_deployment_up_and_its_end_down,
        ],
    })
}
