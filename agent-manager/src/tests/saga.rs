//! Each step of create, update, restart and delete fails once in each way, and is done twice: the effect is there
//! once. What decides is what is on the fake's substrate.

use super::fake::Fault;
use super::*;

const LOST: [Fault; 5] = [
    Fault::Before(ErrorKind::Unavailable),
    Fault::After(ErrorKind::Timeout),
    Fault::Hang,
    Fault::HangAfter,
    Fault::Panic,
];

/// Until nothing is to be done any more, with deadlines for what hangs.
fn finish(world: &mut World) {
    for _ in 0..20 {
        world.settle_all();
        world.time_out();
        world.settle_all();
        world.pass(Duration::from_secs(40));
    }
    assert!(world.runs.is_empty() && world.hanging.is_empty());
}

#[test]
fn a_create_has_one_effect_however_it_fails() {
    for fault in LOST {
        let mut world = World::new();
        world.fake().fault("apply", fault.clone());
        let accepted = world.create(spec("a")).unwrap();
        finish(&mut world);
        assert_eq!(world.phase("a"), "Running", "{fault:?}");
        assert_eq!((world.fake().made(), world.fake().alive()), (1, 1), "{fault:?}");
        let calls = world.fake().calls("apply");
        assert_eq!(calls.len(), 2, "{fault:?}");
        assert!(
            calls.iter().all(|call| call.op_id == accepted.op_id),
            "{fault:?}: the same operation"
        );
        assert!(!calls[0].maybe_applied);
        assert!(calls[1].maybe_applied, "{fault:?}");
    }
}

#[test]
fn a_create_that_is_lost_with_the_agent_has_one_effect() {
    for fault in LOST {
        let mut world = World::new();
        world.fake().fault("apply", fault.clone());
        let accepted = world.create(spec("a")).unwrap();
        world.run_one();
        world.crash();
        finish(&mut world);
        assert_eq!(world.phase("a"), "Running", "{fault:?}");
        assert_eq!((world.fake().made(), world.fake().alive()), (1, 1), "{fault:?}");
        assert!(
            world
                .fake()
                .calls("apply")
                .iter()
                .all(|call| call.op_id == accepted.op_id)
        );
        let again = world.fake().calls("apply");
        assert!(again.last().unwrap().maybe_applied || again.len() == 1);
    }
}

#[test]
fn a_delete_has_its_effect_however_it_fails() {
    let mut faults = LOST.to_vec();
    faults.push(Fault::Before(ErrorKind::Denied));
    for fault in faults {
        for crash in [false, true] {
            let mut world = World::new();
            world.made(spec("a"));
            world.fake().fault("delete", fault.clone());
            let accepted = world.delete("a", false).unwrap();
            world.run_one();
            assert_eq!(world.phase("a"), "Deleting", "{fault:?}");
            if crash {
                world.crash();
            }
            finish(&mut world);
            assert_eq!(
                (world.phase("a").as_str(), world.fake().alive()),
                ("(gone)", 0),
                "{fault:?}"
            );
            let calls = world.fake().calls("delete");
            assert!(
                calls.len() == 2 && calls.iter().all(|call| call.op_id == accepted.op_id),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn a_restart_has_one_effect_however_it_fails() {
    for can_restart in [true, false] {
        for fault in LOST {
            for crash in [false, true] {
                let what = format!("{fault:?}, own restart {can_restart}, crash {crash}");
                let mut world = World::new();
                world.fake().can(|can| can.restart = can_restart);
                world.made(spec("a"));
                let method = if can_restart { "restart" } else { "apply" };
                world.fake().fault(method, fault.clone());
                let accepted = world
                    .control("a", ControlAction::Restart { grace: None })
                    .unwrap();
                world.run_one();
                if crash {
                    world.crash();
                }
                finish(&mut world);
                assert_eq!(
                    (world.phase("a").as_str(), world.fake().alive()),
                    ("Running", 1),
                    "{what}"
                );
                assert_eq!(world.fake().things(accepted.guid), 1, "{what}");
                // A replacement of what the driver removed is made once; what it made before it was lost is found.
                assert!(world.fake().made() <= 3, "{what}: {}", world.fake().made());
                if can_restart {
                    assert_eq!(world.fake().made(), 2, "{what}");
                    let ids: Vec<_> = world
                        .fake()
                        .calls("restart")
                        .iter()
                        .map(|call| call.op_id)
                        .collect();
                    assert!(ids.iter().all(|op_id| *op_id == accepted.op_id), "{what}");
                }
            }
        }
    }
}

#[test]
fn an_update_has_its_effect_however_it_fails() {
    for fault in &LOST[..4] {
        let mut world = World::new();
        world.made(spec("a"));
        world.fake().fault("apply", fault.clone());
        world.fake().forget_calls();
        let accepted = world.update("a", json!({"spec": {"x": 1}})).unwrap();
        finish(&mut world);
        let view = world.view("a");
        assert_eq!(
            (view.phase.as_str(), view.observed_generation),
            ("Running", 2),
            "{fault:?}"
        );
        assert_eq!(world.fake().made(), 1);
        assert!(
            world
                .fake()
                .calls("apply")
                .iter()
                .all(|call| call.op_id == accepted.op_id && call.generation == 2)
        );
    }
}

#[test]
fn what_fails_for_good_is_said() {
    let mut world = World::new();
    world.fake().fault("apply", Fault::Before(ErrorKind::Denied));
    world.made(spec("a"));
    assert_eq!(world.phase("a"), "Failed");
    assert_eq!(
        world.condition("a", "OperationFailed").unwrap(),
        "denied: create: a: apply was told to fail"
    );
    assert_eq!(
        world.fake().calls("apply").len(),
        1,
        "the driver's refusal is the evidence"
    );
    world.crash();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Failed", 0));
    assert!(world.fake().calls("recover").is_empty());
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Running");
}

#[test]
fn what_nobody_can_tell_is_unknown_and_found_out() {
    let mut world = World::new();
    for _ in 0..5 {
        world.fake().fault("apply", Fault::After(ErrorKind::Internal));
    }
    world.create(spec("a")).unwrap();
    finish(&mut world);
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Unknown", 1));
    assert_eq!(world.fake().calls("apply").len(), 5);
    assert!(world.manager.handle(world.guid("a")).is_none());
    world.crash();
    finish(&mut world);
    assert_eq!(
        world.phase("a"),
        "Unknown",
        "and still after a restart of the agent"
    );
    // A new start must not make a second one beside what may be there.
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    finish(&mut world);
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("Running", 1));
    world.delete("a", false).unwrap();
    finish(&mut world);
    assert_eq!(world.fake().alive(), 0);
}

#[test]
fn a_delete_of_what_may_have_been_made_looks_for_the_mark() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("always", "0s")));
    // The restart makes a new one, and its handle is lost with the answer.
    world.fake().fault("apply", Fault::After(ErrorKind::Timeout));
    let guid = world.guid("a");
    let observed = world.fake().ends(guid, 1);
    world.observe(observed);
    world.run_one();
    assert_eq!((world.fake().alive(), world.phase("a").as_str()), (1, "Creating"));
    world.delete("a", false).unwrap();
    finish(&mut world);
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("(gone)", 0));
}

#[test]
fn retries_back_off_and_are_seen() {
    let mut world = World::new();
    for _ in 0..3 {
        world.fake().fault("apply", Fault::Before(ErrorKind::Busy));
    }
    let accepted = world.create(spec("a")).unwrap();
    world.settle_all();
    let view = world.view("a");
    let operation = view.operation.clone().unwrap();
    assert_eq!((operation.op_id, operation.retries), (accepted.op_id, 1));
    assert_eq!(operation.last_error.as_deref(), Some("a: apply was told to fail"));
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_millis(100))
    );
    let waiting = world.manager.explain(view.guid).unwrap().waiting_for;
    assert!(waiting[0].contains("next try of create"), "{waiting:?}");
    world.pass(Duration::from_millis(100));
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_millis(200))
    );
    world.pass(Duration::from_millis(200));
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_millis(400))
    );
    world.pass(Duration::from_millis(400));
    let view = world.view("a");
    assert_eq!((view.phase.as_str(), view.operation.is_none()), ("Running", true));
    assert_eq!(world.condition("a", "Retrying"), None);
    assert!(
        world.fake().calls("apply").iter().all(|call| !call.maybe_applied),
        "nothing was done"
    );
}

#[test]
fn a_control_verb_gives_up() {
    let mut world = World::with(1, Arc::new(RealVfs::new()), |config| {
        config.breaker_failures = 100
    });
    world.made(spec("a"));
    for _ in 0..9 {
        world.fake().fault("pause", Fault::Before(ErrorKind::Unavailable));
    }
    world.control("a", ControlAction::Pause {}).unwrap();
    finish(&mut world);
    assert_eq!(world.fake().calls("pause").len(), 5);
    assert_eq!(world.phase("a"), "Running");
    assert!(world.condition("a", "OperationFailed").unwrap().contains("pause"));
    world.fake().no_faults();
    world.pass(Duration::from_secs(60));
    world
        .control("a", ControlAction::Signal { signal: "HUP".into() })
        .unwrap();
    finish(&mut world);
    assert_eq!(world.condition("a", "OperationFailed"), None);
}
