//! What is let in, and what is refused.

use super::fake::Fault;
use super::*;

fn refused<T>(result: Result<T>) -> (ErrorKind, String) {
    match result {
        Ok(_) => panic!("it was let in"),
        Err(error) => (error.kind(), error.to_string()),
    }
}

#[test]
fn a_create_runs_and_tells_its_story() {
    let mut world = World::new();
    let accepted = world.create(spec("a")).unwrap();
    assert_eq!((accepted.generation, accepted.repeated), (1, false));
    assert_eq!(world.phase("a"), "Creating");
    assert!(world.view("a").operation.is_some());
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (
            view.phase.as_str(),
            view.observed_generation,
            view.operation.is_none()
        ),
        ("Running", 1, true)
    );
    assert_eq!(
        world.history("a"),
        [
            "- → Pending: create requested",
            "Pending → Creating: create requested",
            "Creating → Running: create done"
        ]
    );
    assert_eq!(world.others, ["register a", "collect a"]);
    let sequences: Vec<_> = world.events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let call = &world.fake().calls("apply")[0];
    assert_eq!((call.op_id, call.maybe_applied), (accepted.op_id, false));
}

#[test]
fn refused_commands_change_nothing() {
    let mut world = World::new();
    world.made(spec("a"));
    let before = (
        world.view("a"),
        world.events.len(),
        world.manager.stats().journal.records,
    );
    let (kind, text) = refused(world.ask(
        "again",
        Guid::generate(),
        CommandBody::Create(Arc::new(spec("a"))),
    ));
    assert_eq!((kind, text.contains("already")), (ErrorKind::AlreadyExists, true));
    let mut unknown = spec("b");
    unknown.kind = Kind::new("moon").unwrap();
    let (kind, text) = refused(world.create(unknown));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("fake, other"), "{text}");
    let (kind, _) = refused(world.ask(
        "x",
        Guid::generate(),
        CommandBody::Delete(DeleteRequest::default()),
    ));
    assert_eq!(kind, ErrorKind::NotFound);
    let guid = world.guid("a");
    let mut late = meta("late");
    late.deadline = Some(Timestamp::from_micros(1));
    let now = world.now();
    let body = CommandBody::Delete(DeleteRequest::default());
    let result = world.part(guid).admit(
        Command {
            meta: late,
            guid,
            body,
        },
        now,
    );
    assert_eq!(refused(result).0, ErrorKind::Expired);
    let next = Arc::new(spec_with("a", json!({"spec": {"x": 1}})));
    let body = CommandBody::Update {
        next,
        action: PlanAction::InPlace,
        against: 7,
    };
    assert_eq!(refused(world.ask("u", guid, body)).0, ErrorKind::Conflict);
    assert_eq!(
        refused(world.control("a", ControlAction::Resume {})).0,
        ErrorKind::Conflict
    );
    world.fake().can(|can| can.probe = false);
    let probed = spec_with("p", json!({"health": {"tcp": "localhost:1"}}));
    assert_eq!(refused(world.create(probed)).0, ErrorKind::Unsupported);
    assert_eq!(
        before,
        (
            world.view("a"),
            world.events.len(),
            world.manager.stats().journal.records
        )
    );
    assert!(world.runs.is_empty());
    assert_eq!(world.manager.list(&Default::default()).len(), 1);
}

#[test]
fn the_same_key_gets_the_same_reply_and_has_no_effect() {
    let mut world = World::with(4, Arc::new(RealVfs::new()), |_| {});
    let first = world.create(spec("a")).unwrap();
    // From another shard, with another GUID, before and after it is done, and after it is gone.
    for n in 0..8 {
        let again = world.create(spec("a")).unwrap();
        assert_eq!(
            again,
            Accepted {
                repeated: true,
                ..first.clone()
            },
            "{n}"
        );
        world.settle_all();
    }
    assert_eq!(
        world.manager.replied(meta("create-a").key()).unwrap().guid,
        first.guid
    );
    world.crash();
    world.settle_all();
    assert_eq!(world.create(spec("a")).unwrap().op_id, first.op_id);
    world.delete("a", false).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "(gone)");
    assert_eq!(world.create(spec("a")).unwrap().op_id, first.op_id);
    world.crash();
    assert_eq!(world.create(spec("a")).unwrap().op_id, first.op_id);
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("(gone)", 1));
}

#[test]
fn a_refused_request_may_come_again_under_its_key() {
    let mut world = World::new();
    world.made(spec("a"));
    let guid = Guid::generate();
    let create = CommandBody::Create(Arc::new(spec("a")));
    assert!(world.ask("k", guid, create.clone()).is_err());
    world.delete("a", false).unwrap();
    world.settle_all();
    assert!(!world.ask("k", guid, create).unwrap().repeated);
}

#[test]
fn operations_wait_in_order_and_sixteen_of_them() {
    let mut world = World::new();
    world.made(spec("a"));
    world.fake().fault("signal", Fault::Hang);
    let signal = || ControlAction::Signal { signal: "HUP".into() };
    let first = world.control("a", signal()).unwrap();
    world.settle_all();
    let mut asked: Vec<_> = (0..16)
        .map(|_| world.control("a", signal()).unwrap().op_id)
        .collect();
    assert_eq!(refused(world.control("a", signal())).0, ErrorKind::Busy);
    assert!(world.runs.is_empty(), "one at a time");
    let stuck = world.view("a").operation.clone().unwrap();
    assert_eq!(stuck.op_id, first.op_id);
    asked.insert(0, first.op_id);
    world.fake().forget_calls();
    world.time_out();
    world.pass(Duration::from_secs(60));
    let called: Vec<_> = world
        .fake()
        .calls("signal")
        .iter()
        .map(|call| call.op_id)
        .collect();
    assert_eq!(called, asked);
    assert!(world.view("a").operation.is_none());
}

#[test]
fn control_verbs_fit_the_kind_and_the_phase() {
    let mut world = World::new();
    world.made(spec("a"));
    let (kind, text) = refused(world.control("a", ControlAction::Scale { replicas: 2 }));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.contains("pause, resume, restart, signal, resize"), "{text}");
    world.control("a", ControlAction::Pause {}).unwrap();
    // Decided by what will be, not only by what is.
    world.control("a", ControlAction::Resume {}).unwrap();
    world.control("a", ControlAction::Pause {}).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Paused");
    let (kind, text) = refused(world.control("a", ControlAction::Pause {}));
    assert!(kind == ErrorKind::Conflict && text.contains("Paused"), "{text}");
    world.control("a", ControlAction::Resume {}).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Running");
    world.exits("a", 0);
    assert_eq!(world.phase("a"), "Succeeded");
    let (_, text) = refused(world.control("a", ControlAction::Signal { signal: "HUP".into() }));
    assert!(text.contains("Succeeded"), "{text}");
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("a").as_str(), world.view("a").restarts),
        ("Running", 0)
    );
}

#[test]
fn resize_changes_the_spec() {
    let mut world = World::new();
    world.made(spec_with("a", json!({"resources": {"cpu": "1", "pids": 5}})));
    let resources = serde_json::from_value(json!({"cpu": "2"})).unwrap();
    let accepted = world.control("a", ControlAction::Resize { resources }).unwrap();
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (accepted.generation, view.generation, view.observed_generation),
        (2, 2, 2)
    );
    assert_eq!(view.resources.wanted.cpu.unwrap().millis(), 2_000);
    assert_eq!(view.resources.wanted.pids, Some(5), "what is not set stays");
    assert_eq!(
        world.manager.spec(view.guid).unwrap().resources,
        view.resources.wanted
    );
    // The driver refuses one: it stays wanted, and the view says that it is not so.
    world.fake().fault("resize", Fault::Before(ErrorKind::Conflict));
    let resources = serde_json::from_value(json!({"cpu": "3"})).unwrap();
    world.control("a", ControlAction::Resize { resources }).unwrap();
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.observed_generation),
        ("Running", 3, 2)
    );
    assert!(
        world
            .condition("a", "UpdateFailed")
            .unwrap()
            .starts_with("conflict")
    );
}

#[test]
fn updates() {
    let mut world = World::new();
    world.made(spec("a"));
    let accepted = world.update("a", json!({"spec": {"x": 1}})).unwrap();
    assert_eq!((accepted.generation, world.phase("a").as_str()), (2, "Updating"));
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.observed_generation),
        ("Running", 2, 2)
    );
    // Labels are the manager's own: the driver is not asked.
    world.fake().forget_calls();
    world.update("a", json!({"labels": {"app": "web"}})).unwrap();
    world.settle_all();
    assert!(world.fake().calls("apply").is_empty());
    let view = world.view("a");
    assert_eq!((view.observed_generation, view.labels.len()), (3, 1));
    let list = agent_api_model::ListRequest {
        selector: "app=web".parse().unwrap(),
        ..Default::default()
    };
    assert_eq!(world.manager.list(&list).len(), 1);
    // A refused one: what is wanted stays, what is so stays too.
    world.fake().fault("apply", Fault::Before(ErrorKind::Invalid));
    world.update("a", json!({"spec": {"x": 2}})).unwrap();
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.observed_generation),
        ("Running", 4, 3)
    );
    assert!(world.condition("a", "UpdateFailed").is_some());
    world.update("a", json!({"spec": {"x": 3}})).unwrap();
    world.settle_all();
    assert_eq!(
        (
            world.view("a").observed_generation,
            world.condition("a", "UpdateFailed")
        ),
        (5, None)
    );
    // What has ended starts again with a new spec.
    world.exits("a", 1);
    assert_eq!(world.phase("a"), "Failed");
    world.update("a", json!({"spec": {"x": 4}})).unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("a").as_str(), world.view("a").observed_generation),
        ("Running", 6)
    );
}

#[test]
fn a_delete_waits_for_the_create_in_flight() {
    let mut world = World::new();
    world.fake().fault("apply", Fault::HangAfter);
    world.create(spec("a")).unwrap();
    world.settle_all();
    let first = world.delete("a", false).unwrap();
    assert_eq!(world.phase("a"), "Deleting");
    let again = world.delete("a", false).unwrap();
    assert_eq!(first.op_id, again.op_id, "another delete is the same");
    assert_eq!(
        refused(world.control("a", ControlAction::Pause {})).0,
        ErrorKind::Conflict
    );
    assert!(world.runs.is_empty());
    world.time_out();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("(gone)", 0));
    assert_eq!(world.others.last().unwrap(), "gone a");
    assert_eq!(world.fake().calls("delete").len(), 1);
}

#[test]
fn the_name_is_free_once_it_is_gone() {
    let mut world = World::new();
    let first = world.made(spec("a"));
    world.delete("a", false).unwrap();
    assert_eq!(
        refused(world.ask("n", Guid::generate(), CommandBody::Create(Arc::new(spec("a"))))).0,
        ErrorKind::AlreadyExists
    );
    world.settle_all();
    let accepted = world
        .ask("n2", Guid::generate(), CommandBody::Create(Arc::new(spec("a"))))
        .unwrap();
    assert_ne!(accepted.guid, first);
}
