//! Somebody else changes the real thing, or takes it away.

use agent_api_driver::Handle;
use agent_api_model::{Cause, Enforcement, ExitStatus, LifecycleKind, LimitStatus, ResourceField};

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

/// An object that never ends by itself.
fn lasting(world: &World, fields: serde_json::Value) -> ObjectSpec {
    world.fake().can(|can| can.ends = false);
    spec_with("a", fields)
}

fn quick() -> serde_json::Value {
    json!({"restart": {"backoff": {"start": "1s", "jitter": 0.0, "cap": "8s"}}})
}

fn drifts(world: &mut World, stubborn: bool) {
    let guid = world.guid("a");
    let observed = world.fake().drifts(guid, stubborn);
    world.observe(observed);
    world.settle_all();
}

/// How often it was told that it drifted.
fn told(world: &World) -> usize {
    let drift = |event: &&LifecycleEvent| {
        event.kind == LifecycleKind::Updated
            && matches!(event.transition.cause, Cause::Drift { repair: None, .. })
    };
    world.events.iter().filter(drift).count()
}

#[test]
fn what_drifted_is_brought_back_after_the_back_off() {
    let mut world = World::new();
    world.made(spec_with("a", quick()));
    world.fake().forget_calls();
    drifts(&mut world, false);
    assert_eq!(told(&world), 1);
    assert_eq!(
        world.condition("a", "Drifted").unwrap(),
        "Changed: the image is another"
    );
    let waits = world.condition("a", "BackOff").unwrap();
    assert!(
        waits.starts_with("Drifted: the image is another; repair 1 at "),
        "{waits}"
    );
    let explained = world.manager.explain(world.guid("a")).unwrap();
    assert!(
        explained.waiting_for[0].starts_with("the next try: the image"),
        "{:?}",
        explained.waiting_for
    );
    assert!(world.fake().calls("apply").is_empty());
    // The driver says it with each status, and it is told and repaired once.
    for _ in 0..5 {
        let guid = world.guid("a");
        let observed = world.fake().status(guid);
        world.observe(observed);
    }
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_secs(1))
    );
    world.pass(Duration::from_secs(30));
    let calls = world.fake().calls("apply");
    assert_eq!(
        (calls.len(), calls[0].generation, calls[0].maybe_applied),
        (1, 1, false)
    );
    assert_eq!((told(&world), world.fake().made()), (1, 1));
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.restarts),
        ("Running", 1, 0)
    );
    assert!(view.conditions.is_empty(), "{:?}", view.conditions);
    assert_eq!(
        world.history("a")[3..],
        [
            "Running → Updating: repair 1: the image is another",
            "Updating → Running: update done"
        ]
    );
    let counters: BTreeMap<_, _> = world.manager.stats().counters.into_iter().collect();
    assert_eq!(
        (counters["drifts"], counters["repairs"], counters["restarts"]),
        (1, 1, 0)
    );
}

#[test]
fn what_is_only_reported_stays() {
    let mut world = World::new();
    world.made(spec_with("a", json!({"drift": "report"})));
    world.fake().forget_calls();
    for _ in 0..3 {
        drifts(&mut world, true);
    }
    world.pass(Duration::from_secs(600));
    assert_eq!((told(&world), world.fake().calls("apply").len()), (1, 0));
    assert!(world.condition("a", "Drifted").is_some() && world.condition("a", "BackOff").is_none());
    // It goes back by itself, and drifts anew: told again.
    let guid = world.guid("a");
    let observed = world.fake().relents(guid);
    world.observe(observed);
    assert_eq!(world.condition("a", "Drifted"), None);
    drifts(&mut world, false);
    assert_eq!(told(&world), 2);
    // Another policy holds from then on.
    world.update("a", json!({"drift": "repair"})).unwrap();
    world.settle_all();
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.fake().calls("apply").len(), world.condition("a", "Drifted")),
        (1, None)
    );
}

#[test]
fn a_fight_goes_on_slowly() {
    let mut world = World::new();
    world.made(spec_with("a", quick()));
    world.fake().forget_calls();
    drifts(&mut world, true);
    world.pass(Duration::from_secs(15));
    // After 1, 2, 4, 8 s.
    assert_eq!(world.fake().calls("apply").len(), 4);
    world.pass(Duration::from_secs(80));
    assert_eq!(world.fake().calls("apply").len(), 14, "every 8 s");
    assert_eq!(told(&world), 1, "it never ceased");
    assert!(world.condition("a", "Drifted").is_some());
    // It wins, and has peace for a while: the count begins anew.
    world.fake().drifts(world.guid("a"), false);
    world.pass(Duration::from_secs(70));
    assert_eq!(
        (world.fake().calls("apply").len(), world.condition("a", "Drifted")),
        (15, None)
    );
    drifts(&mut world, false);
    assert_eq!(
        world.wake_in("a", WakeReason::Retry),
        Some(Duration::from_secs(1))
    );
}

#[test]
fn a_fight_without_back_off_is_bounded_too_and_a_maximum_ends_it() {
    let mut world = World::new();
    world.made(spec_with(
        "a",
        json!({"restart": {"max": 3, "backoff": {"start": "0s"}}}),
    ));
    world.fake().forget_calls();
    drifts(&mut world, true);
    assert_eq!(world.fake().calls("apply").len(), 1, "the first at once");
    world.pass(Duration::from_millis(100));
    assert_eq!(world.fake().calls("apply").len(), 2);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.fake().calls("apply").len(), 3);
    assert_eq!(
        world.condition("a", "NotRepaired").unwrap(),
        "Exhausted: the image is another; repaired 3 times in a row, as often as may be"
    );
    world.pass(Duration::from_secs(60));
    drifts(&mut world, false);
    assert_eq!(world.fake().calls("apply").len(), 4);
    assert_eq!(world.condition("a", "NotRepaired"), None);
}

#[test]
fn one_repair_at_a_time_and_none_beside_what_is_asked_for() {
    let mut world = World::new();
    world.made(spec_with("a", json!({"restart": {"backoff": {"start": "0s"}}})));
    world.fake().forget_calls();
    world.fake().fault("apply", Fault::Hang);
    drifts(&mut world, true);
    let operation = world.view("a").operation.clone().unwrap();
    assert_eq!(
        (operation.verb.as_str(), world.phase("a").as_str()),
        ("update", "Updating")
    );
    for _ in 0..3 {
        drifts(&mut world, true);
    }
    world.pass(Duration::from_secs(5));
    assert_eq!(world.fake().calls("apply").len(), 1);
    // What is asked for waits behind it, and goes before the next.
    world.update("a", json!({"spec": {"x": 1}})).unwrap();
    world.time_out();
    world.pass(Duration::from_secs(5));
    let calls = world.fake().calls("apply");
    assert_eq!(calls[0].op_id, calls[1].op_id, "tried again as the same");
    assert_eq!(calls[2].generation, 2);
    // Deleted while it drifts: nothing but the delete.
    world.fake().forget_calls();
    world.fake().fault("delete", Fault::Hang);
    world.delete("a", false).unwrap();
    world.settle_all();
    drifts(&mut world, true);
    world.pass(Duration::from_secs(60));
    assert_eq!(
        (
            world.fake().calls("apply").len(),
            world.fake().calls("delete").len()
        ),
        (0, 1)
    );
}

#[test]
fn an_update_or_an_end_in_the_wait_takes_the_place_of_the_repair() {
    let mut world = World::new();
    world.made(spec_with("a", quick()));
    world.fake().forget_calls();
    drifts(&mut world, false);
    world.update("a", json!({"spec": {"x": 1}})).unwrap();
    world.settle_all();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.fake().calls("apply").len(), 1, "the update's");
    drifts(&mut world, false);
    world.exits("a", 0);
    world.pass(Duration::from_secs(60));
    assert_eq!(
        (world.phase("a").as_str(), world.fake().calls("apply").len()),
        ("Succeeded", 1)
    );
    assert_eq!(world.condition("a", "BackOff"), None);
}

#[test]
fn a_repair_that_is_refused_is_told_and_tried_again_later() {
    let mut world = World::new();
    world.made(spec_with("a", quick()));
    world.control("a", ControlAction::Pause {}).unwrap();
    world.settle_all();
    world.fake().forget_calls();
    world.fake().fault("apply", Fault::Before(ErrorKind::Denied));
    drifts(&mut world, false);
    world.pass(Duration::from_secs(1));
    assert!(
        world
            .condition("a", "OperationFailed")
            .unwrap()
            .starts_with("denied: update: ")
    );
    world.pass(Duration::from_secs(2));
    let calls = world.fake().calls("apply");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0].op_id, calls[1].op_id);
    assert_eq!(
        (world.phase("a").as_str(), world.condition("a", "Drifted")),
        ("Paused", None)
    );
}

#[test]
fn a_repair_is_on_disk_before_it_is_begun() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    world.made(spec_with("a", json!({"restart": {"backoff": {"start": "0s"}}})));
    world.fake().forget_calls();
    disk.breaks();
    drifts(&mut world, false);
    world.pass(Duration::from_millis(300));
    assert_eq!(
        (world.fake().calls("apply").len(), world.phase("a").as_str()),
        (0, "Running")
    );
    disk.works();
    world.pass(Duration::from_secs(5));
    assert_eq!(
        (world.fake().calls("apply").len(), world.condition("a", "Drifted")),
        (1, None)
    );
}

#[test]
fn a_crash_in_a_repair_repeats_it_as_the_same() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        let mut world = World::new();
        world.made(spec_with("a", json!({"restart": {"backoff": {"start": "0s"}}})));
        world.fake().forget_calls();
        world.fake().fault("apply", fault.clone());
        drifts(&mut world, false);
        world.crash();
        world.pass(Duration::from_secs(10));
        world.settle_all();
        let calls = world.fake().calls("apply");
        assert_eq!(calls.len(), 2, "{fault:?}");
        assert_eq!((calls[0].op_id, calls[1].maybe_applied), (calls[1].op_id, true));
        assert_eq!(
            (world.phase("a").as_str(), world.condition("a", "Drifted")),
            ("Running", None)
        );
        assert_eq!(world.fake().made(), 1);
        world.crash();
        world.pass(Duration::from_secs(10));
        assert_eq!(world.fake().calls("apply").len(), 2, "and that was it");
    }
}

#[test]
fn drift_while_the_agent_was_down_is_found() {
    let mut world = World::new();
    let guid = world.made(spec_with("a", quick()));
    world.fake().drifts(guid, false);
    world.crash();
    assert_eq!(told(&world), 1);
    world.settle_all();
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.phase("a").as_str(), world.condition("a", "Drifted")),
        ("Running", None)
    );
}

#[test]
fn what_was_taken_away_is_made_anew_whatever_the_restart_policy_says() {
    let mut world = World::new();
    let spec = lasting(&world, quick());
    let guid = world.made(spec);
    for (round, seconds) in [(1, 1), (2, 2), (3, 4)] {
        world.fake().vanish(guid);
        let observed = world.fake().status(guid);
        world.observe(observed.clone());
        world.observe(observed);
        world.settle_all();
        assert_eq!(world.phase("a"), "Pending");
        assert!(
            world.manager.handle(guid).is_none(),
            "the handle leads to nothing"
        );
        let waits = world.condition("a", "BackOff").unwrap();
        assert!(
            waits.starts_with("Drifted: it was taken away (gone); restart "),
            "{waits}"
        );
        assert_eq!(
            world.wake_in("a", WakeReason::Retry),
            Some(Duration::from_secs(seconds))
        );
        world.pass(Duration::from_secs(seconds));
        assert_eq!(
            (world.phase("a").as_str(), world.fake().things(guid)),
            ("Running", 1)
        );
        assert_eq!(world.view("a").restarts, round);
    }
    let history = world.history("a");
    assert!(
        history.contains(&"Running → Pending: repair 3: it was taken away (gone)".into()),
        "{history:?}"
    );
}

#[test]
fn what_ends_and_was_taken_away_by_the_drivers_own_word_is_made_anew() {
    let mut world = World::new();
    let guid = world.made(spec_with("a", quick()));
    world.fake().vanish(guid);
    let mut observed = world.fake().status(guid);
    let told = agent_api_model::Condition::new("Drifted", true, "Deleted", "it was deleted by someone else");
    observed.status.conditions.push(told);
    world.observe(observed);
    world.settle_all();
    assert_eq!(world.phase("a"), "Pending");
    world.pass(Duration::from_secs(1));
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Running", 2));
}

#[test]
fn what_was_taken_away_and_is_only_reported_has_failed() {
    let mut world = World::new();
    let spec = lasting(&world, json!({"drift": "report", "restart": "always"}));
    let guid = world.made(spec);
    world.fake().vanish(guid);
    let observed = world.fake().status(guid);
    world.observe(observed);
    world.pass(Duration::from_secs(600));
    let view = world.view("a");
    assert_eq!((view.phase.as_str(), world.fake().made()), ("Failed", 1));
    assert_eq!(view.exit.clone().unwrap().reason.as_deref(), Some("gone"));
    assert!(
        world
            .history("a")
            .last()
            .unwrap()
            .ends_with("drifted: it was taken away (gone)")
    );
    // By hand it is made anew, also after a crash.
    world.crash();
    assert_eq!(world.phase("a"), "Failed");
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Running", 2));
}

#[test]
fn what_was_taken_away_while_the_agent_was_down_is_made_anew() {
    let mut world = World::new();
    let spec = lasting(&world, quick());
    let guid = world.made(spec);
    world.fake().vanish(guid);
    world.crash();
    assert_eq!(world.phase("a"), "Pending");
    assert!(world.manager.handle(guid).is_none());
    // Another crash while it is being made: the old handle does not come back.
    world.fake().fault("apply", Fault::Hang);
    world.pass(Duration::from_secs(1));
    world.crash();
    assert!(world.manager.handle(guid).is_none());
    world.pass(Duration::from_secs(5));
    world.settle_all();
    assert_eq!(
        (
            world.phase("a").as_str(),
            world.fake().things(guid),
            world.fake().made()
        ),
        ("Running", 1, 2)
    );
}

#[test]
fn what_a_driver_shows_is_compared_as_people_see_it() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    let mut seen = world.fake().drifts(guid, true);
    seen.status.limits.push(LimitStatus {
        field: ResourceField::Memory,
        value: "64Mi".into(),
        enforcement: Enforcement::Enforced,
        by: String::new(),
    });
    seen.status.exit = Some(ExitStatus::with_code(3));
    world.update("a", json!({"drift": "report"})).unwrap();
    world.settle_all();
    seen.status.evidence.revision = world.fake().revision() + 10;
    world.observe(seen.clone());
    let shows = |change: fn(&mut Observed)| {
        let mut other = seen.clone();
        change(&mut other);
        world.manager.shows(&other)
    };
    assert!(shows(|_| {}));
    // Nobody would see a difference, or it is of long ago.
    assert!(shows(|seen| seen.status.conditions[0].since = Timestamp::EPOCH));
    assert!(shows(|seen| seen.status.evidence.at = Timestamp::EPOCH));
    assert!(shows(|seen| seen.status.exit.as_mut().unwrap().at = None));
    assert!(shows(|seen| seen.status.exit = None), "the last one stays");
    assert!(shows(|seen| {
        seen.status.evidence.revision -= 1;
        seen.status.details = json!(null);
    }));
    assert!(
        shows(|seen| seen.guid = Guid::generate()),
        "there is none to learn it"
    );
    // All of the same revision.
    assert!(!shows(|seen| seen.status.conditions.clear()));
    assert!(!shows(|seen| seen.status.conditions[0].status = false));
    assert!(!shows(
        |seen| seen.status.conditions[0].message = "the volume".into()
    ));
    assert!(!shows(|seen| seen.status.details = json!({"id": 7})));
    assert!(!shows(|seen| seen.status.limits.clear()));
    assert!(!shows(|seen| seen.status.exit = Some(ExitStatus::with_code(4))));
    assert!(!shows(|seen| seen.handle = Some(Handle::new(1, json!(9)))));
    let handle = (*world.manager.handle(guid).unwrap()).clone();
    seen.handle = Some(handle);
    assert!(world.manager.shows(&seen));
}
