//! Dependencies: what is made after what, and removed before what.

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

fn needs(object: &str, others: &[&str]) -> ObjectSpec {
    let others: Vec<_> = others.iter().map(|name| json!({"name": name})).collect();
    spec_with(object, json!({"depends_on": others}))
}

fn world() -> World {
    World::with(3, Arc::new(RealVfs::new()), |_| {})
}

#[test]
fn made_in_order_and_removed_in_reverse() {
    let mut world = world();
    world.create(needs("web", &["api"])).unwrap();
    world.create(needs("api", &["db"])).unwrap();
    world.settle_all();
    assert_eq!((world.phase("web"), world.fake().made()), ("Pending".into(), 0));
    assert_eq!(
        world.condition("web", "Waiting").unwrap(),
        "Dependency: waits for api to run"
    );
    let waiting = world.manager.explain(world.guid("api")).unwrap().waiting_for;
    assert_eq!(waiting, ["db to be created"]);
    world.made(spec("db"));
    assert_eq!(
        (world.phase("db"), world.phase("api"), world.phase("web")),
        ("Running".into(), "Running".into(), "Running".into())
    );
    let guids: Vec<_> = world.fake().calls("apply").iter().map(|call| call.guid).collect();
    assert_eq!(guids, [world.guid("db"), world.guid("api"), world.guid("web")]);
    assert_eq!(world.manager.dependents(&name("db")), [name("api")]);

    let error = world.delete("db", false).unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Conflict, "these depend on it: api")
    );
    let order = [world.guid("web"), world.guid("api"), world.guid("db")];
    world.delete("db", true).unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("db"), world.phase("api"), world.phase("web")),
        ("(gone)".into(), "(gone)".into(), "(gone)".into())
    );
    let guids: Vec<_> = world
        .fake()
        .calls("delete")
        .iter()
        .map(|call| call.guid)
        .collect();
    assert_eq!(guids, order);
}

#[test]
fn a_cycle_is_refused_with_its_name() {
    let mut world = world();
    world.create(needs("a", &["b"])).unwrap();
    world.create(needs("b", &["c"])).unwrap();
    let error = world.create(needs("c", &["a"])).unwrap_err();
    assert_eq!(
        (error.kind(), error.path()),
        (ErrorKind::Invalid, Some("depends_on"))
    );
    assert!(error.message().contains("c → a → b → c"), "{error}");
    assert!(world.manager.resolve(&Target::Name(name("c"))).is_none());
    world.made(spec("c"));
    let error = world
        .update("c", json!({"depends_on": [{"name": "a"}]}))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(world.phase("a"), "Running");
}

#[test]
fn success_is_waited_for() {
    let mut world = world();
    world.made(spec("job"));
    world.made(spec_with(
        "after",
        json!({"depends_on": [{"name": "job", "condition": "succeeded"}]}),
    ));
    assert_eq!(
        world.condition("after", "Waiting").unwrap(),
        "Dependency: waits for job to succeed"
    );
    world.exits("job", 0);
    assert_eq!(
        (world.phase("job"), world.phase("after")),
        ("Succeeded".into(), "Running".into())
    );
    assert_eq!(world.history("after")[1], "Pending → Creating: job succeeded");
}

#[test]
fn the_last_dependency_is_the_cause_of_the_start() {
    let mut world = world();
    world.create(needs("web", &["api", "db"])).unwrap();
    world.made(spec("api"));
    assert_eq!(world.phase("web"), "Pending");
    world.made(spec("db"));
    assert_eq!(
        world.history("web"),
        [
            "- → Pending: create requested",
            "Pending → Creating: db runs",
            "Creating → Running: create done"
        ]
    );
    // Where it waits for nothing any more, because it is not to, the request is the cause.
    world.create(needs("late", &["never"])).unwrap();
    world.update("late", json!({"depends_on": null})).unwrap();
    world.settle_all();
    assert_eq!(world.history("late")[1], "Pending → Creating: create requested");
}

#[test]
fn others_that_go_too_are_waited_for() {
    let mut world = world();
    world.made(spec("db"));
    world.made(needs("api", &["db"]));
    world.fake().fault("delete", Fault::Hang);
    world.delete("api", false).unwrap();
    world.settle_all();
    world.delete("db", false).unwrap();
    world.settle_all();
    assert_eq!(world.phase("db"), "Deleting");
    assert_eq!(
        world.condition("db", "Waiting").unwrap(),
        "Dependents: waits until api are gone"
    );
    world.time_out();
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.phase("db"), world.phase("api")),
        ("(gone)".into(), "(gone)".into())
    );
}

#[test]
fn a_cascade_goes_on_after_a_crash() {
    for steps in 0..6 {
        let mut world = world();
        world.made(spec("db"));
        world.made(needs("api", &["db"]));
        world.made(needs("web", &["api"]));
        world.delete("db", true).unwrap();
        for _ in 0..steps {
            world.run_one();
        }
        world.crash();
        world.settle_all();
        for object in ["db", "api", "web"] {
            assert_eq!(world.phase(object), "(gone)", "{object} after {steps}");
        }
        assert_eq!(world.fake().alive(), 0);
    }
}

#[test]
fn a_cascade_that_is_not_on_disk_takes_nothing_along() {
    let disk = Disk::default();
    let mut world = World::with(2, Faulty::on(&disk), |_| {});
    world.made(spec("db"));
    world.made(needs("api", &["db"]));
    disk.breaks();
    assert!(world.delete("db", true).is_err());
    world.settle_all();
    assert_eq!(
        (world.phase("db"), world.phase("api")),
        ("Running".into(), "Running".into())
    );
    assert_eq!(
        world.history("api").last().unwrap(),
        "Creating → Running: create done",
        "it was never touched"
    );
    disk.works();
    world.delete("db", true).unwrap();
    world.settle_all();
    assert_eq!(
        (world.phase("db"), world.phase("api")),
        ("(gone)".into(), "(gone)".into())
    );
}

#[test]
fn a_dependency_that_ends_later_is_not_the_dependents_end() {
    let mut world = world();
    world.made(spec("db"));
    world.made(needs("api", &["db"]));
    world.exits("db", 1);
    assert_eq!(
        (world.phase("db"), world.phase("api")),
        ("Failed".into(), "Running".into())
    );
    world.update("api", json!({"depends_on": null})).unwrap();
    world.settle_all();
    world.delete("db", false).unwrap();
    world.settle_all();
    assert_eq!(world.phase("db"), "(gone)");
}
