//! The one list of cases: group, name, and the line of the contract. Tests and the runner are made from it.

/// One test for each case of the suite, each on a runtime of its own.
///
/// Takes an expression that makes a [`Subject`](crate::Subject); it is evaluated once in each test. With a name before
/// it the tests go into a module of that name: so a driver of several kinds has one subject for each in one file.
///
/// ```ignore
/// agent_driver_testkit::conformance!(deployments, Kubernetes::of("deployment"));
/// agent_driver_testkit::conformance!(jobs, Kubernetes::of("job"));
/// ```
#[macro_export]
macro_rules! conformance {
    ($name:ident, $subject:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $crate::conformance!($subject);
        }
    };
    ($subject:expr $(,)?) => {
        $crate::__table! { [$crate::__tests] run_test, $subject }
    };
}

/// The same tests as [`conformance!`] makes, under chaos: see the [crate's documentation](crate#under-chaos).
///
/// Takes the subject and a seed, and a name for a module before them where there are several.
///
/// ```ignore
/// agent_driver_testkit::conformance_with_chaos!(under_chaos, MySubject, 1);
/// ```
#[macro_export]
macro_rules! conformance_with_chaos {
    ($name:ident, $subject:expr, $seed:expr $(,)?) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $crate::conformance_with_chaos!($subject, $seed);
        }
    };
    ($subject:expr, $seed:expr $(,)?) => {
        $crate::__table! { [$crate::__tests] run_test_with_chaos, $subject, $seed }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ([$run:ident, $subject:expr $(, $seed:expr)?] $($group:ident { $($name:ident: $behavior:literal,)* })*) => {
        $crate::__groups! { ($run, $subject $(, $seed)?) $($group { $($name: $behavior,)* })* }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __groups {
    ($run:tt $($group:ident $cases:tt)*) => {
        $(mod $group {
            #[allow(unused_imports)]
            use super::*;
            $crate::__cases! { $run $group $cases }
        })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($run:tt $group:ident { $($name:ident: $behavior:literal,)* }) => {
        $($crate::__case! { $run $group $name $behavior })*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __case {
    (($run:ident, $subject:expr $(, $seed:expr)?) $group:ident $name:ident $behavior:literal) => {
        #[doc = $behavior]
        #[test]
        fn $name() {
            $crate::$run($subject, stringify!($group), stringify!($name) $(, $seed)?);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __table {
    ([$($then:tt)+] $($extra:tt)*) => { $($then)+! { [$($extra)*]
        factory {
            names_the_driver_and_its_kinds_without_building_it: "The kinds it will manage, known without building it.",
            has_a_valid_configuration_schema: "The JSON Schema of its configuration.",
            check_accepts_the_configuration_and_changes_nothing: "What is wrong with a configuration, found offline.",
            check_refuses_a_configuration_that_is_no_map: "What is wrong with a configuration, found offline.",
        }
        info {
            is_constant_and_has_schema_and_capabilities_for_each_kind: "The kinds it manages. Constant.",
            a_kind_it_does_not_manage_has_neither_schema_nor_capabilities: "None for a kind it does not manage.",
            capabilities_and_extensions_agree: "Extensions are there where the capabilities name them.",
            limits_and_fields_are_named_once: "What is so of each limit and field, stated once.",
            each_method_has_a_name_a_summary_and_a_schema: "Methods that only objects of this kind have, by name (lower-case letters, digits and `_`).",
        }
        health {
            a_built_driver_is_not_unavailable: "How its substrate is, now.",
        }
        handle {
            is_written_in_the_version_it_names: "The version of handles it writes. Constant.",
            a_newer_version_is_not_read: "A driver answers an unknown version with Invalid.",
        }
        schema {
            is_valid_json_schema_2020_12: "The JSON Schemas (draft 2020-12) of a kind.",
            accepts_the_samples: "The schema of the `spec` part of an object.",
            refuses_unknown_fields_and_wrong_values: "The schema of the `spec` part of an object.",
            describes_the_details_of_a_status: "The schema of the `details` part of a view.",
        }
        validate {
            changes_nothing: "Changes nothing.",
            accepts_the_samples: "A spec without an error diagnostic is one that `apply` does not answer with Invalid.",
            refuses_with_paths_that_begin_with_spec_or_resources: "Paths begin with `spec` or `resources`.",
            a_spec_without_an_error_is_not_invalid_for_apply: "A spec without an error diagnostic is one that `apply` does not answer with Invalid.",
            what_it_refuses_apply_refuses_too: "A spec with an error diagnostic makes nothing.",
        }
        plan {
            changes_nothing: "Changes nothing.",
            the_same_spec_twice_is_no_op: "The same spec twice: NoOp.",
            no_previous_spec_is_create: "No previous spec: Create.",
            no_op_is_what_apply_does: "What it says is what `apply` does then.",
            in_place_is_what_apply_does: "What it says is what `apply` does then.",
            restart_is_what_apply_does: "What it says is what `apply` does then.",
            recreate_is_what_apply_does: "What it says is what `apply` does then.",
            infeasible_is_refused_by_apply_and_changes_nothing: "What it says is what `apply` does then.",
        }
        apply {
            returns_when_the_handle_finds_the_real_thing: "Returns when the real thing exists and its handle would find it again.",
            the_object_runs_soon_after: "Evidence that it runs may follow as an event.",
            the_same_op_id_never_has_its_effect_twice: "The same `op_id` never has its effect twice: a second call returns the same real thing.",
            the_same_op_id_without_the_handle_finds_the_real_thing: "The same `op_id` never has its effect twice: a second call returns the same real thing.",
            maybe_applied_holds_after_a_restart_of_the_driver: "With `maybe_applied` that holds also for a driver that was built anew since.",
            maybe_applied_holds_after_a_crash_of_the_driver: "With `maybe_applied` that holds also for a driver that was built anew since.",
            maybe_applied_creates_where_nothing_was_made: "With `maybe_applied` the driver looks for the mark before it makes anything.",
            an_update_with_the_same_op_id_restarts_once: "The same `op_id` never has its effect twice.",
            what_it_makes_bears_the_mark: "What it makes bears the Mark wherever the substrate lets it.",
            what_ended_starts_again_with_a_new_handle: "With the handle of something that ended it starts it again and returns a new handle.",
            an_error_leaves_nothing_behind: "On an error nothing is left behind, or the error's context says what.",
            dropped_at_any_await_the_same_op_id_ends_it: "Cancelled by drop at any await it has happened or has not; calling again with the same `op_id` brings it to its end.",
            many_objects_at_once_stay_apart: "The manager calls it with many objects at once.",
        }
        delete {
            removes_the_object: "Removes the object.",
            not_there_is_success: "\"Not there\" is success.",
            a_second_call_is_success: "So is a second call.",
            without_a_handle_finds_what_an_unanswered_create_made: "No handle where a create may have had its effect and its handle was never known: then the driver looks for the mark.",
            something_that_ended_is_removed_too: "Removes the object.",
            what_ends_when_asked_is_not_waited_for: "First asked to end, then after `grace` ended.",
            what_does_not_end_when_asked_is_ended_after_grace: "First asked to end, then after `grace` ended, with all that it started.",
            returns_by_the_deadline: "Returns by the deadline; what could not be removed is in `left` or in a Timeout.",
            dropped_at_any_await_a_second_call_ends_it: "Cancelled by drop at any await it has happened or has not.",
            orphaned_goes_on_and_is_no_longer_discovered: "With `orphan` the real thing goes on and is no longer reported or discovered.",
            something_foreign_is_not_touched_and_that_is_success: "Something that is not ours under that handle is not touched, and that is success.",
            the_handle_of_another_object_is_not_followed: "Something that is not ours under that handle is not touched, and that is success.",
            an_unreadable_handle_touches_nothing: "Something that is not ours under that handle is not touched.",
            logs_are_removed_too: "Logs and other files kept for the object are removed too.",
        }
        recover {
            answers_each_target_once: "One answer for each target, in any order.",
            adopts_after_a_restart_of_the_driver: "Objects outlive the agent and can be adopted.",
            adopts_after_a_crash_of_the_driver: "Objects outlive the agent and can be adopted.",
            what_is_adopted_is_observed_and_can_be_deleted: "What is adopted is reported by `observe` from then on.",
            what_is_adopted_is_reported_by_events: "What is adopted is reported by `events` from then on.",
            a_revision_is_never_older_than_before: "The revision grows with every change the driver saw of this object.",
            what_ended_meanwhile_is_exited: "It ended while the agent was away; the status has the exit as far as is known.",
            what_vanished_meanwhile_is_not_adopted: "It is not there, and nobody can say how it ended.",
            something_foreign_is_foreign_and_not_touched: "Something else under that reference is Foreign and never touched.",
            the_handle_of_another_object_is_not_adopted: "Something else under that reference is Foreign and never touched.",
            an_unreadable_handle_is_lost_and_no_error_of_the_call: "A handle that cannot be read is Lost with the reason, and never an error of the whole call.",
        }
        discover {
            finds_what_apply_made: "Finds what `apply` made.",
            finds_what_another_run_of_the_agent_made: "Finds what `apply` made, whatever run of the agent made it.",
            finds_not_what_was_deleted: "Not what was deleted.",
            finds_not_what_another_agent_made: "What bears the mark of this agent.",
        }
        observe {
            adds_one_entry_for_each_target: "Adds one entry for each target to `out`, in any order.",
            asks_the_substrate: "Asks the substrate; never answers from what was reported before.",
            what_is_not_there_is_gone: "What is not there is Gone, or Exited where its end is known.",
            what_ended_shows_its_exit_code: "Exited where its end is known.",
            an_unreadable_handle_is_no_error_of_the_call: "What cannot be asked is Unknown.",
            shows_each_limit_that_is_set: "One entry for each limit of the object's resources.",
        }
        events {
            each_change_comes_with_a_growing_revision_or_a_gap: "Each change of state comes, in order per object, with a growing revision; or a Gap comes instead.",
            an_end_comes_with_its_exit_code: "How it ended, where it did.",
            an_end_from_outside_comes_too: "Each change of state comes; or a Gap comes instead.",
            a_restart_goes_on_with_growing_revisions: "The revision grows over restarts of the real thing too.",
            a_slow_reader_gets_a_gap: "Bounded: a reader that is slow gets a Gap, never an unbounded queue.",
            the_stream_ends_only_after_shutdown: "Ends only after `shutdown`.",
            a_dropped_stream_stops_nothing: "The stream may be dropped; the driver goes on.",
        }
        collect {
            metrics_come_where_they_are_promised: "Adds metrics of many objects to `out`, in one pass.",
            brings_only_what_was_asked_for: "What to collect.",
            targets_that_are_gone_are_passed_over: "Targets that are gone are passed over.",
            counters_only_grow: "Counters only grow while the object lives.",
            counters_only_grow_over_a_restart: "Counters only grow over restarts of the real thing, or with a loss noted.",
            log_lines_come_once_within_the_limit: "At most `max_log_bytes` of lines; the rest comes with the next call.",
            from_start_without_a_cursor_begins_at_the_oldest_line: "Where logs begin without a cursor: at the oldest line kept.",
            without_a_cursor_begins_with_what_is_written_from_now_on: "No cursor begins with what is written from now on.",
            what_was_lost_is_in_losses: "What was lost is in `losses`.",
        }
        shutdown {
            returns_by_the_deadline_with_its_tasks_joined: "Returns by the deadline, with all its tasks and threads joined.",
            leave_running_leaves_objects_running: "With LeaveRunning objects go on.",
            stop_objects_stops_them: "With StopObjects they are stopped.",
            later_calls_answer_unavailable: "Later calls answer Unavailable.",
            a_second_shutdown_is_success: "A second shutdown is success.",
        }
        control {
            what_capabilities_do_not_name_is_unsupported: "An action that Capabilities does not name: Unsupported.",
            pause_holds_and_resume_lets_go: "Does what is asked and returns the handle and status as they are then.",
            pausing_what_is_paused_and_resuming_what_runs_change_nothing: "Pausing what is paused and resuming what runs succeed and change nothing.",
            an_object_that_has_ended_is_a_conflict: "An object that has ended: Conflict.",
            restart_starts_what_has_ended: "Except for restart, which starts it.",
            restart_returns_a_running_object_with_a_new_handle: "A restart returns a running object with a new handle.",
            the_same_op_id_restarts_once: "The same `op_id` restarts once.",
            a_signal_that_is_not_known_is_invalid: "A signal that is not known: Invalid at `signal`.",
            signals_are_known_by_number_and_with_and_without_sig: "Signal 0 and names with and without SIG are known.",
            resize_returns_the_limits_in_force: "A resize returns the limits in force.",
            a_refused_resize_changes_nothing: "One that the substrate refuses changes none: Invalid or Conflict.",
            scale_changes_the_number_of_copies: "Change the number of copies.",
            what_is_gone_is_not_found: "A handle whose thing is gone: NotFound, and nothing is touched.",
            something_foreign_is_not_found_and_not_touched: "A handle that is not ours: NotFound, and nothing is touched.",
        }
        methods {
            one_that_is_not_named_is_unsupported: "A call of a method that Capabilities does not name: Unsupported.",
            arguments_that_do_not_fit_are_invalid: "Arguments that do not fit: Invalid at `arguments`.",
        }
        crash {
            in_a_create_the_same_op_id_ends_it: "The same `op_id` never has its effect twice; with `maybe_applied` that holds also for a driver that was built anew since.",
            in_a_change_in_place_the_same_op_id_ends_it: "The same `op_id` never has its effect twice; with `maybe_applied` that holds also for a driver that was built anew since.",
            in_a_change_by_restart_the_same_op_id_ends_it: "The same `op_id` never has its effect twice; with `maybe_applied` that holds also for a driver that was built anew since.",
            in_a_restart_the_same_op_id_ends_it: "A restart returns a running object with a new handle; the same `op_id` restarts once.",
            in_a_delete_a_second_call_ends_it: "\"Not there\" is success; so is a second call.",
        }
        drift {
            a_change_from_outside_is_shown_and_apply_takes_it_back: "The condition by which a driver says that the real thing is not what the spec wants.",
            what_vanished_is_made_anew_by_apply: "Brings it to a spec, or starts it again where it had ended.",
        }
        redact {
            takes_the_secrets_out_and_leaves_all_else: "Values that are secret by the spec's own rules are replaced by a word that says so; all else stays.",
            no_secret_is_in_what_the_driver_says: "Holds no secret.",
        }
        logs {
            each_line_comes_once_and_whole: "Each line comes once and whole.",
            going_on_from_a_cursor_gives_the_next_line: "Going on from a chunk's cursor gives the next line.",
            a_cursor_survives_rotation: "Going on from a chunk's cursor gives the next line, also after rotation.",
            a_cursor_survives_a_restart_of_the_agent: "Also after a restart of the agent.",
            a_cursor_survives_a_restart_of_the_object: "Also after a restart of the object.",
            what_was_rotated_away_is_counted: "Lines that were rotated away before they were read are counted in `lost_bytes`.",
            tail_gives_the_last_lines_fewer_where_there_are_fewer: "`tail` gives the last lines, fewer where there are fewer.",
            without_follow_the_stream_ends: "Without `follow` the stream ends at the present end.",
            a_last_line_without_an_end_comes_too: "A last line without an end comes too.",
            follow_brings_what_is_written_later: "Go on with what is written later.",
            following_ends_when_the_object_is_deleted: "The stream ends when the object is deleted.",
            only_the_streams_asked_for_come: "Only these streams; all where empty.",
            a_long_line_comes_in_pieces: "A line longer than 64 KiB comes in pieces.",
            a_cursor_of_something_else_is_invalid: "A cursor that is not of this object: Invalid at `cursor`.",
        }
        exec {
            exit_is_the_last_item_after_all_output: "The last item is Exit; all output comes before it.",
            standard_input_is_passed_on_and_closed: "The end of the stream closes it.",
            the_environment_of_the_request_is_set: "Environment on top of the object's own.",
            dropping_the_stream_kills_the_command: "Dropping the stream kills the command and what it started.",
            the_timeout_kills_the_command: "So does the timeout, with Timeout as last item.",
            a_terminal_has_the_size_that_was_asked_for: "Give it a terminal of this size.",
            a_terminal_that_cannot_be_given_is_unsupported: "A terminal that the driver cannot give: Unsupported, before the stream.",
            a_command_that_does_not_exist_is_not_found: "A command that does not exist: NotFound, before the stream.",
            an_object_that_does_not_run_is_a_conflict: "An object that does not run: Conflict.",
        }
        probe {
            a_healthy_object_is_healthy: "Tries once.",
            an_unhealthy_object_is_no_error: "An error is returned only where the probe itself could not be made.",
            no_answer_in_time_is_unhealthy: "Returns within the timeout, whatever the other side does; too late is Unhealthy.",
            what_is_gone_is_never_healthy: "The object is well.",
        }
    } };
}
