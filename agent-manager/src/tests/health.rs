//! Health checks.

use agent_api_driver::ProbeOutcome;

use super::fake::Fault;
use super::faulty_disk::{Disk, Faulty};
use super::*;

fn probed(extra: serde_json::Value) -> ObjectSpec {
    let mut health =
        json!({"tcp": "localhost:1", "interval": "10s", "timeout": "1s", "unhealthy_threshold": 2});
    health
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    spec_with("a", json!({"health": health}))
}

fn health(world: &World) -> String {
    format!("{:?}", world.view("a").health.unwrap())
}

fn unwell(why: &str) -> ProbeOutcome {
    ProbeOutcome::Unhealthy(why.into())
}

#[test]
fn thresholds_decide() {
    let mut world = World::new();
    world.made(probed(json!({"initial_delay": "3s", "healthy_threshold": 2})));
    let records = world.manager.stats().journal.records;
    assert_eq!(
        world.wake_in("a", WakeReason::Probe),
        Some(Duration::from_secs(3))
    );
    world.pass(Duration::from_secs(3));
    assert_eq!(health(&world), "Starting");
    world.pass(Duration::from_secs(10));
    assert_eq!(health(&world), "Healthy");
    world.fake().probes([
        unwell("refused"),
        ProbeOutcome::Healthy,
        unwell("refused"),
        unwell("refused"),
    ]);
    world.pass(Duration::from_secs(30));
    assert_eq!(health(&world), "Healthy", "not two in a row");
    world.pass(Duration::from_secs(10));
    assert_eq!(health(&world), "Unhealthy");
    assert_eq!(world.condition("a", "Unhealthy").unwrap(), "Probe: refused");
    assert_eq!(world.phase("a"), "Running");
    world.pass(Duration::from_secs(20));
    assert_eq!(
        (health(&world).as_str(), world.condition("a", "Unhealthy")),
        ("Healthy", None)
    );
    assert_eq!(
        world.manager.stats().journal.records,
        records,
        "probes leave no trace in the journal"
    );
}

#[test]
fn a_probe_that_cannot_be_made_counts_neither_way() {
    let mut world = World::new();
    world.made(probed(json!({})));
    world.pass(Duration::from_secs(1));
    assert_eq!(health(&world), "Healthy");
    for _ in 0..5 {
        world.fake().fault("probe", Fault::Before(ErrorKind::Unavailable));
    }
    world.pass(Duration::from_secs(50));
    assert_eq!(health(&world), "Healthy");
    assert!(world.condition("a", "ProbeFailed").is_some());
    world.pass(Duration::from_secs(10));
    assert_eq!(world.condition("a", "ProbeFailed"), None);
}

#[test]
fn a_probe_holds_up_no_operation() {
    let mut world = World::new();
    world.made(probed(json!({})));
    world.fake().fault("probe", Fault::Hang);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.hanging.len(), 1);
    assert!(world.view("a").operation.is_none());
    world.control("a", ControlAction::Pause {}).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Paused");
    world.delete("a", false).unwrap();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.cancelled), ("(gone)", 1));
}

#[test]
fn an_unwell_object_is_restarted_under_its_policy() {
    let mut world = World::new();
    let mut spec = probed(json!({"restart": true}));
    spec.restart = serde_json::from_value(
        json!({"policy": "never", "max": 1, "backoff": {"start": "5s", "jitter": 0.0}}),
    )
    .unwrap();
    world.made(spec);
    world.fake().probes([unwell("x"), unwell("x")]);
    world.pass(Duration::from_secs(10));
    assert_eq!(health(&world), "Unhealthy");
    assert!(
        world
            .condition("a", "BackOff")
            .unwrap()
            .starts_with("Unhealthy: x; restart 1 at")
    );
    assert_eq!(world.phase("a"), "Running", "it runs until then");
    world.pass(Duration::from_secs(5));
    assert_eq!(
        (world.fake().calls("restart").len(), world.view("a").restarts),
        (1, 1)
    );
    assert_eq!(
        (world.phase("a").as_str(), world.condition("a", "BackOff")),
        ("Running", None)
    );
    world.fake().probes([unwell("y"), unwell("y")]);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.fake().calls("restart").len(), 1, "once is the most");
    world.fake().probes([unwell("z"), unwell("z")]);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.fake().calls("restart").len(), 1);
}

#[test]
fn who_depends_on_it_waits_until_it_is_well() {
    let mut world = World::new();
    world.fake().probes([unwell("not yet")]);
    world.made(probed(json!({})));
    world.made(spec_with("b", json!({"depends_on": [{"name": "a"}]})));
    assert_eq!(world.phase("b"), "Pending");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.phase("b"), "Pending");
    world.pass(Duration::from_secs(10));
    world.settle_all();
    assert_eq!(
        (health(&world).as_str(), world.phase("b").as_str()),
        ("Healthy", "Running")
    );
}

#[test]
fn a_check_that_an_update_adds_changes_or_removes_follows() {
    let mut world = World::new();
    world.made(spec("a"));
    let check =
        |interval: &str| json!({"health": {"tcp": "localhost:1", "interval": interval, "timeout": "1s"}});
    world.update("a", check("10s")).unwrap();
    world.settle_all();
    assert!(world.wake_in("a", WakeReason::Probe).is_some(), "it begins");
    world.pass(Duration::from_secs(1));
    assert_eq!(health(&world), "Healthy");

    // Changed while a probe of the one before is under way.
    world.fake().fault("probe", Fault::Hang);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.hanging.len(), 1);
    world.update("a", check("3s")).unwrap();
    world.settle_all();
    assert_eq!((world.hanging.len(), world.cancelled), (0, 1));
    assert_eq!(health(&world), "Starting");
    let before = world.fake().calls("probe").len();
    world.pass(Duration::from_secs(10));
    assert_eq!(health(&world), "Healthy");
    assert_eq!(
        world.fake().calls("probe").len() - before,
        4,
        "at once, after 3, 6 and 9 s"
    );

    world.fake().probes([unwell("x"), unwell("x"), unwell("x")]);
    world.pass(Duration::from_secs(9));
    assert!(world.condition("a", "Unhealthy").is_some());
    world.update("a", json!({"health": null})).unwrap();
    world.settle_all();
    assert_eq!(world.wake_in("a", WakeReason::Probe), None);
    assert_eq!(
        (world.view("a").health, world.condition("a", "Unhealthy")),
        (None, None)
    );
    assert_eq!(world.phase("a"), "Running");
}

#[test]
fn a_check_that_could_not_be_written_down_is_none() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    world.made(probed(json!({})));
    world.pass(Duration::from_secs(1));
    disk.breaks();
    assert!(world.update("a", json!({"health": null})).is_err());
    world.settle_all();
    disk.works();
    assert_eq!(health(&world), "Starting", "what was wanted before begins anew");
    world.pass(Duration::from_secs(1));
    assert_eq!(health(&world), "Healthy");
}
