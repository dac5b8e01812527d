//! kubectl against the API server alone: no nodes, no root.
#![forbid(unsafe_code)]

mod backup;
mod bad;
mod commands;
mod manage;
mod permissions;
mod read;

use std::process::ExitCode;

use tests::runner::Suite;
use tests::{Setup, checks, run};

fn main() -> ExitCode {
    run(&Suite {
        name: "api",
        setup: Setup::server(),
        side_by_side: 2,
        checks: checks![
            manage::a_manifest_of_many_documents_is_applied,
            manage::labels_and_annotations_are_set_and_removed,
            manage::patches_of_three_types_are_applied,
            manage::an_object_is_edited,
            manage::a_deployment_is_scaled,
            manage::differences_are_shown,
            manage::a_dry_run_writes_nothing,
            manage::appliers_share_an_object,
            manage::applied_fields_are_pruned,
            manage::objects_are_created_by_subcommands,
            manage::objects_are_replaced,
            manage::deletion_is_waited_for,
            manage::many_are_deleted_by_selector,
            manage::finalizers_hold_a_deletion,
            manage::a_custom_warning_is_shown,
            manage::helm_installs_and_removes_a_chart,
            read::objects_are_shown_in_every_form,
            read::a_watch_shows_changes,
            read::lists_are_selected_sorted_and_paged,
            read::kinds_are_explained,
            read::resources_are_listed,
            read::objects_are_described,
            read::health_version_and_metrics_are_served,
            read::a_watch_goes_on_where_it_stopped,
            commands::rollouts_are_followed_paused_and_undone,
            commands::parts_of_objects_are_set,
            commands::what_was_applied_is_remembered,
            commands::an_object_that_cannot_be_changed_is_made_anew,
            commands::apply_moves_to_the_server,
            commands::a_kustomization_is_built_applied_and_removed,
            commands::conditions_are_waited_for,
            commands::subcommands_create_what_they_say,
            commands::pods_are_run_exposed_and_changed,
            commands::labels_and_annotations_are_guarded,
            commands::outputs_are_chosen,
            commands::deletions_say_what_goes_along,
            commands::rights_are_asked_for_and_reconciled,
            commands::nodes_are_tainted_and_cordoned,
            commands::a_custom_kind_is_used_as_any_other,
            commands::requests_for_certificates_are_decided,
            backup::a_backup_of_a_running_server_is_restored,
            bad::bodies_that_cannot_be_read_are_refused,
            bad::unknown_fields_are_refused_warned_or_ignored,
            bad::invalid_objects_name_their_fields,
            bad::immutable_fields_stay,
            bad::conflicts_are_reported,
            bad::unknown_things_are_not_found,
            bad::bad_requests_are_refused,
            bad::too_large_a_body_is_refused,
            bad::kubectl_says_what_is_wrong,
            permissions::credentials_are_checked,
            permissions::rights_can_be_asked_for,
            permissions::a_service_account_has_what_its_role_grants,
            permissions::nobody_grants_more_than_they_have,
            permissions::tokens_are_made_and_reviewed,
        ],
    })
}
