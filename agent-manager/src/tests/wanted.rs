//! Methods of a kind's own, and specs that they make.

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

fn call(world: &mut World, object: &str) -> Result<Accepted> {
    let action = ControlAction::Call {
        method: "rollback".into(),
        arguments: json!({"revision": 1, "token": "hush"}),
    };
    world.control(object, action)
}

/// The object's spec as it was before.
fn earlier() -> ObjectSpec {
    spec_with("a", json!({"labels": {"app": "old"}, "spec": {"image": "v1"}}))
}

fn rolled_out(world: &mut World) -> Guid {
    world.made(spec_with(
        "a",
        json!({"labels": {"app": "new"}, "spec": {"image": "v2"}}),
    ))
}

fn shown(world: &World) -> String {
    let view = world.view("a");
    format!(
        "{} {} {} {:?} {}",
        view.phase,
        view.generation,
        view.observed_generation,
        view.labels["app"],
        world.manager.spec(view.guid).unwrap().spec
    )
}

#[test]
fn a_method_is_called_where_there_is_one_and_it_runs() {
    let mut world = World::new();
    let guid = rolled_out(&mut world);
    let accepted = call(&mut world, "a").unwrap();
    assert_eq!(accepted.generation, 1, "not changed by asking");
    assert_eq!(world.runs[0].lane, agent_api_manager::Lane::Control);
    world.settle_all();
    let calls = world.fake().calls("call");
    assert_eq!((calls.len(), calls[0].op_id), (1, accepted.op_id));
    assert_eq!(shown(&world), r#"Running 1 1 "new" {"image":"v2"}"#);
    let mut refused = |method: &str, arguments: serde_json::Value| {
        let method = method.into();
        world
            .control("a", ControlAction::Call { method, arguments })
            .unwrap_err()
    };
    let error = refused("undo", json!(null));
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Unsupported, Some("method"))
    );
    assert_eq!(
        error.message(),
        "it has no method \"undo\"; its methods are rollback"
    );
    let error = refused("rollback", json!([1]));
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Invalid, Some("arguments"))
    );
    world.fake().forget_calls();
    let action = ControlAction::Call {
        method: "rollback".into(),
        arguments: json!(null),
    };
    world.control("a", action).unwrap();
    world.settle_all();
    // Not of what has ended or goes.
    world.exits("a", 0);
    assert_eq!(call(&mut world, "a").unwrap_err().kind(), ErrorKind::Conflict);
    world.delete("a", false).unwrap();
    assert_eq!(call(&mut world, "a").unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        (world.fake().calls("call").len(), world.fake().things(guid)),
        (1, 1)
    );
    world.fake().can(|can| can.methods.clear());
    world.settle_all();
    world.made(spec("b"));
    let error = call(&mut world, "b").unwrap_err();
    assert!(error.message().contains("cannot call"), "{error}");
}

#[test]
fn the_spec_that_a_call_made_is_a_new_generation() {
    let mut world = World::new();
    rolled_out(&mut world);
    world.fake().returns(earlier());
    world.others.clear();
    call(&mut world, "a").unwrap();
    world.settle_all();
    let expected = r#"Running 2 2 "old" {"image":"v1"}"#;
    assert_eq!(shown(&world), expected);
    assert_eq!(world.events.last().unwrap().generation, 2);
    assert!(world.others.contains(&"collect a".into()), "{:?}", world.others);
    // It stands on the disk, and is not called again.
    world.crash();
    world.settle_all();
    assert_eq!(
        (shown(&world).as_str(), world.fake().calls("call").len()),
        (expected, 1)
    );
    // Changes go on from there.
    world.update("a", json!({"spec": {"image": "v3"}})).unwrap();
    world.settle_all();
    assert_eq!(shown(&world), r#"Running 3 3 "old" {"image":"v3"}"#);
    // The same spec once more is nothing new.
    let same = (*world.manager.spec(world.guid("a")).unwrap()).clone();
    world.fake().returns(same);
    call(&mut world, "a").unwrap();
    world.settle_all();
    assert_eq!(world.view("a").generation, 3);
}

#[test]
fn a_crash_between_the_call_and_its_outcome_ends_in_the_same_state() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        let mut world = World::new();
        rolled_out(&mut world);
        world.fake().returns(earlier());
        world.fake().fault("call", fault.clone());
        let accepted = call(&mut world, "a").unwrap();
        world.settle_all();
        for _ in 0..2 {
            world.crash();
            world.settle_all();
            assert_eq!(shown(&world), r#"Running 2 2 "old" {"image":"v1"}"#, "{fault:?}");
        }
        let calls = world.fake().calls("call");
        assert_eq!(calls.len(), 2, "{fault:?}");
        assert!(calls.iter().all(|call| call.op_id == accepted.op_id) && calls[1].maybe_applied);
    }
}

#[test]
fn what_is_asked_for_later_counts_more_than_what_a_call_made() {
    for crashes in [false, true] {
        let mut world = World::new();
        rolled_out(&mut world);
        world.fake().returns(earlier());
        world.fake().fault("call", Fault::HangAfter);
        call(&mut world, "a").unwrap();
        world.settle_all();
        world.update("a", json!({"labels": {"app": "mine"}})).unwrap();
        world.fake().forget_calls();
        if crashes {
            world.crash();
        } else {
            world.time_out();
        }
        world.pass(Duration::from_secs(60));
        world.settle_all();
        assert_eq!(shown(&world), r#"Running 2 2 "mine" {"image":"v2"}"#, "{crashes}");
        let calls = world.fake().calls("apply");
        assert_eq!(
            (calls.len(), calls[0].generation),
            (1, 2),
            "{crashes}: all of it is applied again"
        );
        world.crash();
        world.settle_all();
        assert_eq!(shown(&world), r#"Running 2 2 "mine" {"image":"v2"}"#);
    }
}

#[test]
fn a_spec_of_another_object_is_the_drivers_fault() {
    let mut world = World::new();
    rolled_out(&mut world);
    let mut other_kind = earlier();
    other_kind.kind = Kind::new("other").unwrap();
    for wrong in [spec("b"), other_kind] {
        world.fake().returns(wrong);
        call(&mut world, "a").unwrap();
        world.settle_all();
        let failed = world.condition("a", "OperationFailed").unwrap();
        assert!(
            failed.starts_with("internal: call: ") && failed.contains("returned a spec of"),
            "{failed}"
        );
        assert!(!failed.contains("hush"), "{failed}");
        assert_eq!(shown(&world), r#"Running 1 1 "new" {"image":"v2"}"#);
    }
}

#[test]
fn dependencies_that_would_be_a_circle_are_left_out() {
    let mut world = World::new();
    rolled_out(&mut world);
    world.made(spec_with("b", json!({"depends_on": [{"name": "a"}]})));
    let mut next = earlier();
    next.depends_on = spec_with("x", json!({"depends_on": [{"name": "b"}]})).depends_on;
    world.fake().returns(next);
    call(&mut world, "a").unwrap();
    world.settle_all();
    assert_eq!(shown(&world), r#"Running 2 2 "old" {"image":"v1"}"#);
    assert!(world.manager.spec(world.guid("a")).unwrap().depends_on.is_empty());
}

#[test]
fn a_call_that_cannot_be_written_down_is_not_made() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    rolled_out(&mut world);
    disk.breaks();
    assert!(call(&mut world, "a").is_err());
    world.settle_all();
    assert!(world.fake().calls("call").is_empty());
    // The outcome that cannot be written is found out anew.
    disk.works();
    world.fake().returns(earlier());
    call(&mut world, "a").unwrap();
    disk.breaks();
    world.settle_all();
    assert_eq!(shown(&world), r#"Running 2 2 "old" {"image":"v1"}"#);
    disk.works();
    world.crash();
    world.settle_all();
    assert_eq!(shown(&world), r#"Running 2 2 "old" {"image":"v1"}"#);
}

#[test]
fn what_is_collected_follows_labels_and_telemetry() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    world.made(spec("a"));
    let collects = |world: &mut World| {
        let seen = std::mem::take(&mut world.others);
        seen.iter().filter(|line| *line == "collect a").count()
    };
    collects(&mut world);
    let before = world.fake().calls("apply").len();
    world
        .update("a", json!({"monitor": {"signals": ["logs"]}}))
        .unwrap();
    world.settle_all();
    assert_eq!(collects(&mut world), 1, "its own telemetry");
    world.update("a", json!({"labels": {"app": "web"}})).unwrap();
    world.settle_all();
    assert_eq!(collects(&mut world), 1, "what selectors choose by");
    assert_eq!(
        world.fake().calls("apply").len(),
        before,
        "no matter of the driver"
    );
    world.update("a", json!({"drift": "report"})).unwrap();
    world.update("a", json!({"spec": {"x": 1}})).unwrap();
    world.settle_all();
    assert_eq!(collects(&mut world), 0, "nothing of that changed");

    // The driver does not say yes; labels and telemetry are wanted all the same.
    world.fake().fault("apply", Fault::Before(ErrorKind::Denied));
    world
        .update("a", json!({"monitor": null, "spec": {"x": 2}}))
        .unwrap();
    world.settle_all();
    assert!(world.condition("a", "UpdateFailed").is_some());
    assert_eq!(collects(&mut world), 1);

    disk.breaks();
    assert!(world.update("a", json!({"labels": null})).is_err());
    world.settle_all();
    disk.works();
    assert_eq!(world.view("a").labels["app"], "web");

    // One that does not run is not collected from.
    world.exits("a", 1);
    collects(&mut world);
    world.update("a", json!({"labels": {"app": "db"}})).unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), collects(&mut world)), ("Failed", 0));
}
