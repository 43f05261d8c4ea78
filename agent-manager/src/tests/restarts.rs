//! Restart policies and their back-off.

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

#[test]
fn restarts_back_off_and_begin_anew() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("on-failure", "100ms")));
    world.exits("a", 1);
    assert_eq!(world.phase("a"), "Pending");
    let condition = world.condition("a", "BackOff").unwrap();
    assert!(
        condition.starts_with("Exited: exited with code 1; restart 1 at "),
        "{condition}"
    );
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_millis(100))
    );
    world.pass(Duration::from_millis(100));
    assert_eq!(
        (world.phase("a").as_str(), world.condition("a", "BackOff")),
        ("Running", None)
    );
    assert_eq!(
        world.history("a")[3..],
        [
            "Running → Pending: exited with code 1",
            "Pending → Creating: restart 1 in 100 ms",
            "Creating → Running: restart done"
        ]
    );
    for delay in [200, 400, 800] {
        world.exits("a", 1);
        assert_eq!(
            world.wake_in("a", WakeReason::Retry),
            Some(Duration::from_millis(delay))
        );
        world.pass(Duration::from_millis(delay));
    }
    // It ran long enough: the count begins anew.
    world.pass(Duration::from_secs(61));
    world.exits("a", 1);
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_millis(100))
    );
    assert_eq!(world.view("a").restarts, 5);
    world.pass(Duration::from_secs(1));
    world.exits("a", 0);
    assert_eq!(
        (
            world.phase("a").as_str(),
            world.view("a").exit.clone().unwrap().code
        ),
        ("Succeeded", Some(0))
    );
}

#[test]
fn without_a_wait_it_is_restarted_at_once() {
    let mut world = World::new();
    let guid = world.made(spec_with("a", restart_policy("always", "0s")));
    let observed = world.fake().ends(guid, 0);
    let now = world.now();
    let out = world.part(guid).observe(observed, now);
    assert!(
        matches!(&out[0], FollowUp::Run(operation) if operation.after > 0),
        "the call comes first"
    );
    assert!(
        !out.iter().any(|follow_up| matches!(follow_up, FollowUp::Wake(_))),
        "no timer"
    );
    world.perform(out);
    world.settle_all();
    assert_eq!(
        (
            world.phase("a").as_str(),
            world.fake().alive(),
            world.view("a").restarts
        ),
        ("Running", 1, 1)
    );
}

#[test]
fn exempt_codes_the_maximum_and_never() {
    let mut world = World::new();
    world.made(spec_with(
        "a",
        json!({"restart": {"policy": "always", "max": 2, "exempt": [7], "backoff": {"start": "0s"}}}),
    ));
    world.exits("a", 1);
    world.exits("a", 1);
    assert_eq!(world.phase("a"), "Running");
    world.exits("a", 1);
    assert_eq!(
        (world.phase("a").as_str(), world.view("a").restarts),
        ("Failed", 2)
    );
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    world.exits("a", 7);
    assert_eq!(world.phase("a"), "Succeeded");
    world.made(spec("never"));
    world.exits("never", 1);
    assert_eq!(world.phase("never"), "Failed");
}

#[test]
fn what_is_gone_counts_as_failed() {
    let mut world = World::new();
    let guid = world.made(spec_with("a", restart_policy("on-failure", "0s")));
    world.fake().vanish(guid);
    let observed = world.fake().status(guid);
    world.observe(observed);
    world.settle_all();
    let view = world.view("a");
    assert_eq!((view.phase.as_str(), view.restarts), ("Running", 1));
    assert_eq!(
        view.exit.clone().unwrap().to_string(),
        "ended, exit code unknown (gone)"
    );
}

#[test]
fn one_end_that_is_told_twice_restarts_once() {
    let mut world = World::new();
    let guid = world.made(spec_with("a", restart_policy("always", "1s")));
    let observed = world.fake().ends(guid, 1);
    world.observe(observed.clone());
    world.observe(observed.clone());
    let later = world.fake().status(guid);
    world.observe(later);
    world.pass(Duration::from_secs(1));
    world.observe(observed);
    world.settle_all();
    assert_eq!((world.view("a").restarts, world.fake().made()), (1, 2));
}

#[test]
fn a_restart_by_hand_ends_the_back_off() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("always", "60s")));
    world.exits("a", 1);
    assert_eq!(world.phase("a"), "Pending");
    let accepted = world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("Running", 1));
    assert_eq!(world.fake().calls("apply").last().unwrap().op_id, accepted.op_id);
    assert_eq!(world.wake_in("a", WakeReason::Retry), None);
    world.pass(Duration::from_secs(100));
    world.crash();
    world.settle_all();
    assert_eq!(
        world.fake().made(),
        2,
        "the start that gave way is not made up for"
    );
}

#[test]
fn a_delete_ends_the_back_off() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("always", "60s")));
    world.exits("a", 1);
    world.delete("a", false).unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("a").as_str(), world.wakes.len(), world.fake().made()),
        ("(gone)", 0, 1)
    );
}

#[test]
fn an_update_during_the_back_off_holds_from_the_next_start() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("always", "60s")));
    world.exits("a", 1);
    world.fake().forget_calls();
    world.update("a", json!({"spec": {"x": 1}})).unwrap();
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.observed_generation),
        ("Pending", 2, 1)
    );
    assert!(world.fake().calls("apply").is_empty());
    world.pass(Duration::from_secs(60));
    assert_eq!(
        (world.phase("a").as_str(), world.view("a").observed_generation),
        ("Running", 2)
    );
    assert_eq!(world.fake().calls("apply").len(), 1);
}

#[test]
fn an_end_is_on_disk_before_it_is_acted_on() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    let guid = world.made(spec_with("a", restart_policy("always", "0s")));
    disk.breaks();
    world.exits("a", 1);
    assert_eq!(
        (world.phase("a").as_str(), world.fake().alive()),
        ("Pending", 0),
        "not started"
    );
    assert!(world.condition("a", "BackOff").unwrap().starts_with("Journal"));
    world.pass(Duration::from_secs(3));
    assert_eq!(world.fake().alive(), 0);
    disk.works();
    world.pass(Duration::from_secs(3));
    assert_eq!(
        (world.phase("a").as_str(), world.fake().things(guid)),
        ("Running", 1)
    );
    assert_eq!((world.fake().made(), world.view("a").restarts), (2, 1));
}

#[test]
fn a_crash_between_end_and_start_starts_once() {
    for stage in 0..3 {
        let mut world = World::new();
        let guid = world.made(spec_with("a", restart_policy("always", "0s")));
        if stage == 2 {
            world.fake().fault("apply", Fault::HangAfter);
        }
        let observed = world.fake().ends(guid, 1);
        if stage > 0 {
            world.observe(observed);
            // The record is on disk once somebody waited for it.
            world.run_one();
        }
        world.crash();
        world.settle_all();
        let view = world.view("a");
        assert_eq!(
            (view.phase.as_str(), view.restarts, world.fake().made()),
            ("Running", 1, 2),
            "stage {stage}"
        );
    }
}
