//! After a restart of the agent.

use super::fake::Fault;
use super::*;

#[test]
fn adopts_what_runs_and_touches_nothing_else() {
    let mut world = World::with(2, Arc::new(RealVfs::new()), |_| {});
    for object in ["runs", "paused", "ended", "again", "lost", "foreign", "done"] {
        let policy = if object == "again" { "always" } else { "never" };
        world.made(spec_with(object, restart_policy(policy, "0s")));
    }
    world.control("paused", ControlAction::Pause {}).unwrap();
    world.settle_all();
    world.exits("done", 0);
    let guids: BTreeMap<&str, Guid> = ["runs", "paused", "ended", "again", "lost", "foreign", "done"]
        .map(|object| (object, world.guid(object)))
        .into();
    let _ = world.fake().ends(guids["ended"], 3);
    let _ = world.fake().ends(guids["again"], 0);
    world.fake().vanish(guids["lost"]);
    world.fake().usurp(guids["foreign"]);
    let stray = Guid::generate();
    world.fake().leak(stray);
    let made = world.fake().made();
    world.fake().forget_calls();
    world.crash();
    world.settle_all();
    let phases: Vec<_> = guids
        .keys()
        .map(|object| format!("{object} {}", world.phase(object)))
        .collect();
    assert_eq!(
        phases,
        [
            "again Running",
            "done Succeeded",
            "ended Failed",
            "foreign Failed",
            "lost Failed",
            "paused Paused",
            "runs Running"
        ]
    );
    assert_eq!(
        world.fake().made(),
        made + 1,
        "only what its policy starts again is started"
    );
    assert_eq!(
        (world.fake().foreign(), world.fake().calls("delete").len()),
        (1, 0)
    );
    assert!(world.view("runs").adopted && world.view("paused").adopted && !world.view("again").adopted);
    assert_eq!(world.view("ended").exit.clone().unwrap().code, Some(3));
    assert_eq!(
        world.view("lost").exit.clone().unwrap().to_string(),
        "ended, exit code unknown (not there any more)"
    );
    let report = &world.report;
    assert_eq!(
        (
            report.objects,
            report.adopted,
            report.exited,
            report.lost,
            report.foreign,
            report.unknown
        ),
        (7, 2, 2, 1, 1, 0)
    );
    assert!(
        report.notes.len() == 1 && report.notes[0].contains(&stray.to_string()),
        "{:?}",
        report.notes
    );
    assert_eq!(world.fake().calls("recover").len(), 1, "one batch");
    // The stranger is not touched by a delete either: nobody knows it any more.
    assert!(world.manager.handle(guids["foreign"]).is_none());
    world.delete("foreign", false).unwrap();
    world.settle_all();
    assert_eq!(
        (world.fake().foreign(), world.phase("foreign").as_str()),
        (1, "(gone)")
    );
    // Recovered, and nothing is forgotten or done twice the next time.
    let made = world.fake().made();
    world.crash();
    world.settle_all();
    assert_eq!(
        (
            world.fake().made(),
            world.view("again").restarts,
            world.report.objects
        ),
        (made, 1, 6)
    );
    assert!(world.view("again").adopted);
}

#[test]
fn a_driver_that_does_not_answer_harms_its_own_objects_alone() {
    for fault in [Fault::Hang, Fault::Panic, Fault::Before(ErrorKind::Unavailable)] {
        let mut world = World::new();
        world.made(spec_with("a", restart_policy("always", "0s")));
        let mut other = spec("b");
        other.kind = Kind::new("other").unwrap();
        world.made(other);
        world.fakes[0].fault("recover", fault.clone());
        world.crash();
        world.settle_all();
        assert_eq!(
            (world.phase("a").as_str(), world.phase("b").as_str()),
            ("Unknown", "Running"),
            "{fault:?}"
        );
        assert_eq!((world.report.adopted, world.report.unknown), (1, 1));
        assert!(
            world.report.notes[0].contains("driver fake: "),
            "{:?}",
            world.report.notes
        );
        assert!(
            world
                .history("a")
                .last()
                .unwrap()
                .starts_with("Running → Unknown: driver fake: ")
        );
        assert_eq!(world.fake().made(), 1, "nothing is started for want of an answer");
        // The next look at the substrate tells.
        let guid = world.guid("a");
        if matches!(fault, Fault::Hang) {
            let observed = world.fake().status(guid);
            world.observe(observed);
        } else {
            let handle = world.manager.handle(guid).unwrap();
            let fake = world.fakes[0].clone();
            let targets = [agent_api_driver::Target {
                guid,
                handle: &handle,
            }];
            let answers = agent_api_driver::ObjectDriver::recover(&*fake, &targets)
                .now_or_never()
                .unwrap()
                .unwrap();
            let now = world.now();
            let out = world.part(guid).recovered_late(answers, now);
            world.perform(out);
            assert!(world.view("a").adopted);
        }
        assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Running", 1));
    }
}

#[test]
fn without_its_driver_an_object_is_unknown() {
    let mut world = World::new();
    world.made(spec("a"));
    let all = world.fakes.clone();
    world.fakes = vec![all[1].clone()];
    world.crash();
    world.settle_all();
    assert_eq!(world.phase("a"), "Unknown");
    assert!(
        world.report.notes[0].contains("this agent runs without it"),
        "{:?}",
        world.report.notes
    );
    world.fakes = all;
    world.crash();
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("Running", 1));
}

#[test]
fn a_thousand_are_adopted_and_none_is_made_twice() {
    let mut world = World::with(4, Arc::new(RealVfs::new()), |_| {});
    for n in 0..1_000 {
        world.create(spec(&format!("o{n}"))).unwrap();
    }
    world.settle_all();
    world.crash();
    world.settle_all();
    assert_eq!(
        (world.report.adopted, world.fake().made(), world.fake().alive()),
        (1_000, 1_000, 1_000)
    );
    let views = world.manager.list(&Default::default());
    assert!(
        views
            .iter()
            .all(|view| view.adopted && view.phase == agent_api_model::Phase::Running)
    );
    assert!(
        world.events.iter().all(|event| event.sequence > 3),
        "sequences grow over a restart"
    );
}

#[test]
fn health_and_dependencies_go_on() {
    let mut world = World::new();
    world.made(spec_with(
        "db",
        json!({"health": {"tcp": "x:1", "interval": "1s"}}),
    ));
    world.made(spec_with("api", json!({"depends_on": [{"name": "db"}]})));
    assert_eq!(world.phase("api"), "Pending");
    world.crash();
    assert_eq!(world.phase("api"), "Pending");
    world.settle_all();
    world.pass(Duration::from_secs(2));
    world.settle_all();
    assert_eq!(
        (world.phase("db").as_str(), world.phase("api").as_str()),
        ("Running", "Running")
    );
    assert_eq!(world.delete("db", false).unwrap_err().kind(), ErrorKind::Conflict);
}
