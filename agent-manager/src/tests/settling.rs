//! Outcomes and statuses: what counts, and what is too old.

use agent_api_driver::{Handle, ObjectState};
use agent_api_manager::{Action, Effect};

use super::fake::Fault;
use super::*;

#[test]
fn an_outcome_of_another_operation_is_ignored() {
    let mut world = World::new();
    world.create(spec("a")).unwrap();
    let operation = world.runs[0].clone();
    world.settle_all();
    let before = world.view("a");
    // Again, under another id, and for an object that is not there.
    let mut others = vec![operation.clone(); 3];
    others[1].op_id = agent_api_model::OpId::generate();
    others[2].guid = Guid::generate();
    for operation in others {
        world.settle(Outcome {
            operation,
            result: Err(Error::internal("late")),
            performed: None,
        });
    }
    assert_eq!(world.view("a"), before);
    assert!(world.runs.is_empty() && matches!(operation.action, Action::Start));
}

#[test]
fn an_older_revision_is_ignored() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    let revision = world.fake().revision();
    let old = world.fake().seen(guid, ObjectState::Exited, revision - 1);
    world.observe(old);
    assert_eq!(world.phase("a"), "Running");
    let unknown = world.fake().seen(guid, ObjectState::Unknown, revision + 5);
    world.observe(unknown);
    let since = world.view("a").since;
    assert_eq!(world.phase("a"), "Unknown");
    let again = world.fake().seen(guid, ObjectState::Unknown, revision + 6);
    world.observe(again);
    assert_eq!(world.view("a").since, since, "since when nobody knows stays");
    let old = world.fake().seen(guid, ObjectState::Running, revision + 4);
    world.observe(old);
    assert_eq!(world.phase("a"), "Unknown");
    let new = world.fake().seen(guid, ObjectState::Running, revision + 7);
    world.observe(new);
    assert_eq!(world.phase("a"), "Running");
    let stale = world
        .manager
        .stats()
        .counters
        .iter()
        .find(|(name, _)| *name == "stale_statuses")
        .unwrap()
        .1;
    assert_eq!(stale, 2);
    let stranger = world.fake().seen(Guid::generate(), ObjectState::Exited, 9);
    world.observe(stranger);
}

#[test]
fn nothing_changes_nothing_is_told() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    let events = world.events.len();
    for _ in 0..3 {
        let observed = world.fake().status(guid);
        let now = world.now();
        assert!(world.part(guid).observe(observed, now).is_empty());
    }
    assert_eq!(world.events.len(), events);
    assert_eq!(
        world.view("a").evidence.revision,
        world.fake().revision(),
        "and yet the evidence is newer"
    );
}

#[test]
fn an_end_that_overtakes_the_start_is_not_lost() {
    let mut world = World::new();
    let guid = world.create(spec("a")).unwrap().guid;
    let operation = world.runs.pop_front().unwrap();
    let outcome = world.manager.run(operation).now_or_never().unwrap();
    let observed = world.fake().ends(guid, 3);
    world.observe(observed);
    assert_eq!(
        world.phase("a"),
        "Creating",
        "of which of the two things is it? the outcome tells"
    );
    world.settle(outcome);
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.exit.clone().unwrap().code),
        ("Failed", Some(3))
    );
}

#[test]
fn the_end_of_the_old_thing_is_not_taken_for_the_new_ones() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    let old = world.fake().ends(guid, 9);
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    let operation = world.runs.pop_front().unwrap();
    let outcome = world.manager.run(operation).now_or_never().unwrap();
    world.observe(old);
    world.settle(outcome);
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("Running", 1));
    assert_eq!(world.view("a").exit, None);
}

#[test]
fn a_new_handle_is_collected_from_and_kept() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    world.others.clear();
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    assert_eq!(world.others, ["register a", "collect a"]);
    let handle = world.manager.handle(guid).unwrap();
    assert_eq!(handle.data, json!(2));
    world.crash();
    assert_eq!(world.manager.handle(guid).unwrap(), handle);
    assert!(world.view("a").adopted);
    let audit = world
        .part(guid)
        .audit(&agent_api_model::DriverName::new("fake").unwrap(), 10);
    assert_eq!(audit, vec![vec![(guid, handle)]]);
}

#[test]
fn what_no_longer_runs_is_not_collected_from() {
    let mut world = World::new();
    world.made(spec_with("a", restart_policy("on-failure", "5s")));
    world.others.clear();
    world.exits("a", 1);
    assert_eq!(world.others, ["stop a"]);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.others, ["stop a", "register a", "collect a"]);
    world.others.clear();
    world.delete("a", false).unwrap();
    world.settle_all();
    assert_eq!(world.others, ["stop a", "withdraw a", "gone a"]);
    // Its end comes with a new handle.
    let guid = world.made(spec("b"));
    world.others.clear();
    let mut observed = world.fake().ends(guid, 0);
    observed.handle = Some(Handle::new(1, json!(77)));
    world.observe(observed);
    assert_eq!(world.others, ["stop b"]);
}

#[test]
fn the_audit_leaves_out_what_is_being_made_or_deleted() {
    let mut world = World::new();
    let driver = agent_api_model::DriverName::new("fake").unwrap();
    for n in 0..5 {
        world.made(spec(&format!("o{n}")));
    }
    assert_eq!(
        world.parts[0]
            .audit(&driver, 2)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [2, 2, 1]
    );
    world.fake().fault("delete", Fault::Hang);
    world.delete("o0", false).unwrap();
    world.exits("o1", 0);
    world.create(spec("new")).unwrap();
    assert_eq!(
        world.parts[0]
            .audit(&driver, 0)
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [3]
    );
    assert!(
        world.parts[0]
            .audit(&agent_api_model::DriverName::new("other").unwrap(), 0)
            .is_empty()
    );
    let count: usize = world.parts[0].count().iter().map(|(_, count)| count).sum();
    assert_eq!(
        (count, world.manager.stats().objects),
        (6, world.parts[0].count())
    );
}

#[test]
fn what_the_driver_leaves_behind_is_told() {
    let mut world = World::new();
    world.made(spec("a"));
    world.delete("a", false).unwrap();
    let operation = world.runs.pop_front().unwrap();
    world.settle(Outcome {
        operation,
        result: Ok(Effect::Deleted(agent_api_driver::Deleted {
            exit: None,
            left: vec!["pid 7 does not die".into()],
        })),
        performed: None,
    });
    let told: Vec<_> = world
        .events
        .iter()
        .map(|event| event.transition.cause.sentence())
        .collect();
    assert!(
        told.iter().any(|told| told.contains("pid 7 does not die")),
        "{told:?}"
    );
    assert_eq!(world.phase("a"), "(gone)");
}

#[test]
fn a_driver_that_fails_all_the_time_is_left_alone_and_the_other_is_not() {
    let mut world = World::new();
    for _ in 0..100 {
        world.fake().fault("apply", Fault::Before(ErrorKind::Unavailable));
    }
    for n in 0..20 {
        world.create(spec(&format!("a{n}"))).unwrap();
    }
    world.settle_all();
    assert_eq!(world.fake().calls("apply").len(), 5, "the breaker is open");
    let mut other = spec("b");
    other.kind = Kind::new("other").unwrap();
    world.made(other);
    assert_eq!(world.phase("b"), "Running");
    let stuck = world.view("a19").operation.clone().unwrap();
    assert!(stuck.last_error.unwrap().contains("left alone"), "it says why");
    assert_eq!(world.phase("a19"), "Creating");
}

#[test]
fn an_outcome_older_than_an_event_does_not_bring_it_back() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    world
        .control(
            "a",
            ControlAction::Signal {
                signal: "TERM".into(),
            },
        )
        .unwrap();
    let operation = world.runs.pop_front().unwrap();
    let outcome = world.manager.run(operation).now_or_never().unwrap();
    let ended = world.fake().ends(guid, 15);
    let revision = ended.status.evidence.revision;
    world.observe(ended);
    assert_eq!(world.phase("a"), "Failed");
    world.settle(outcome);
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.evidence.revision),
        ("Failed", revision)
    );
    // While it runs, too: held still by an event, and an answer from before says that it runs.
    let guid = world.made(spec("b"));
    world
        .control("b", ControlAction::Signal { signal: "HUP".into() })
        .unwrap();
    let operation = world.runs.pop_front().unwrap();
    let outcome = world.manager.run(operation).now_or_never().unwrap();
    let revision = world.fake().revision() + 1;
    let paused = world.fake().seen(guid, ObjectState::Paused, revision);
    world.observe(paused);
    world.settle(outcome);
    assert_eq!(
        (world.phase("b").as_str(), world.view("b").evidence.revision),
        ("Paused", revision)
    );
}

#[test]
fn an_older_event_does_not_bring_its_handle() {
    let mut world = World::new();
    let guid = world.made(spec("a"));
    let handle = world.manager.handle(guid).unwrap();
    let revision = world.fake().revision();
    let mut observed = world.fake().seen(guid, ObjectState::Running, revision - 1);
    observed.handle = Some(agent_api_driver::Handle::new(1, json!(99)));
    world.observe(observed.clone());
    assert_eq!(world.manager.handle(guid).unwrap(), handle);
    world.others.clear();
    observed.status.evidence.revision = revision + 1;
    world.observe(observed);
    assert_eq!(world.manager.handle(guid).unwrap().data, json!(99));
    assert_eq!(world.others, ["collect a"]);
    world.crash();
    assert_eq!(
        world.manager.handle(guid).unwrap().data,
        json!(99),
        "it was written down"
    );
}
