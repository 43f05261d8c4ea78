//! Objects whose driver never answers, and that are taken out of the books without it.

use agent_api_model::LifecycleKind;

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

fn forget(world: &mut World, object: &str) -> Result<Accepted> {
    let guid = world.guid(object);
    let request = DeleteRequest {
        forget: true,
        ..DeleteRequest::default()
    };
    let key = format!("forget-{object}-{}", Guid::generate());
    world.ask(&key, guid, CommandBody::Delete(request))
}

/// An object whose delete hangs in its driver.
fn hung(world: &mut World) {
    world.made(spec("a"));
    world.fake().fault("delete", Fault::Hang);
    world.delete("a", false).unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.hanging.len()), ("Deleting", 1));
}

#[test]
fn a_delete_that_hangs_is_given_up() {
    let mut world = World::new();
    hung(&mut world);
    world.events.clear();
    forget(&mut world, "a").unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.cancelled), ("(gone)", 1));
    assert_eq!((world.fake().calls("delete").len(), world.fake().alive()), (1, 1));
    let last = world.events.last().unwrap();
    assert_eq!(
        (last.kind, last.transition.cause.sentence().as_str()),
        (
            LifecycleKind::Deleted,
            "forgotten without asking the driver; the real thing may go on"
        )
    );
    world.crash();
    world.settle_all();
    assert_eq!(world.phase("a"), "(gone)");
    let again = CommandBody::Create(Arc::new(spec("a")));
    world.ask("again", Guid::generate(), again).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Running", "the name is free");
}

#[test]
fn whatever_is_under_way_is_given_up() {
    for method in ["apply", "signal"] {
        let mut world = World::new();
        world.fake().fault(method, Fault::Hang);
        world.made(spec("a"));
        if method == "signal" {
            let action = ControlAction::Signal { signal: "HUP".into() };
            world.control("a", action).unwrap();
            world.settle_all();
        }
        assert_eq!(world.hanging.len(), 1, "{method}");
        forget(&mut world, "a").unwrap();
        world.settle_all();
        assert_eq!(world.phase("a"), "(gone)", "{method}");
        assert_eq!((world.cancelled, world.fake().calls("delete").len()), (1, 0));
    }
    // Also what only waits for its next try, and what is idle.
    let mut world = World::new();
    world.made(spec("a"));
    world.fake().fault("delete", Fault::Before(ErrorKind::Denied));
    world.delete("a", false).unwrap();
    world.settle_all();
    forget(&mut world, "a").unwrap();
    world.made(spec("b"));
    forget(&mut world, "b").unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("a"), world.phase("b")),
        ("(gone)".into(), "(gone)".into())
    );
    assert_eq!(world.fake().calls("delete").len(), 1);
    assert!(world.wakes.is_empty());
}

#[test]
fn accepted_before_a_crash_it_is_forgotten_after_it() {
    let mut world = World::new();
    hung(&mut world);
    forget(&mut world, "a").unwrap();
    world.crash();
    world.fake().forget_calls();
    world.settle_all();
    assert_eq!(world.phase("a"), "(gone)");
    assert_eq!((world.fake().calls("delete").len(), world.fake().alive()), (0, 1));
}

#[test]
fn what_could_not_be_written_down_leaves_the_delete_before() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    hung(&mut world);
    disk.breaks();
    assert!(forget(&mut world, "a").is_err());
    world.settle_all();
    disk.works();
    assert_eq!((world.phase("a").as_str(), world.fake().alive()), ("(gone)", 0));
    assert_eq!(world.fake().calls("delete").len(), 2, "it was tried again");
}

#[test]
fn it_is_a_delete_like_any_other() {
    let mut world = World::new();
    world.made(spec("db"));
    world.made(spec_with("api", json!({"depends_on": [{"name": "db"}]})));
    assert_eq!(forget(&mut world, "db").unwrap_err().kind(), ErrorKind::Conflict);
    let request = DeleteRequest {
        forget: true,
        orphan: true,
        ..DeleteRequest::default()
    };
    let guid = world.guid("api");
    let error = world.ask("both", guid, CommandBody::Delete(request)).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some("forget")));
    let first = forget(&mut world, "api").unwrap();
    let second = forget(&mut world, "api").unwrap();
    assert_eq!(first.op_id, second.op_id);
    forget(&mut world, "db").unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("db"), world.phase("api")),
        ("(gone)".into(), "(gone)".into())
    );
}
