//! The journal: what is promised is on disk, what cannot be read stops nothing, what cannot be written is not done.

use std::collections::BTreeMap;

use agent_core_journal::{Class, Journal, JournalConfig};

use super::faulty_disk::{Disk, Faulty};
use super::*;

#[test]
fn nothing_is_done_before_it_is_on_disk() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    world.made(spec("before"));
    disk.breaks();
    let error = world.create(spec("a")).unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::StorageFull, "journal")
    );
    world.settle_all();
    assert_eq!((world.phase("a").as_str(), world.fake().made()), ("(gone)", 1));
    assert_eq!(
        world.manager.replied(meta("create-a").key()),
        None,
        "the key is free"
    );
    assert_eq!(world.others.last().unwrap(), "gone a");
    // An update, a restart and a pause that are not done; the object is as it was.
    let before = world.view("before");
    assert!(
        world
            .update("before", json!({"spec": {"x": 1}, "labels": {"y": "z"}}))
            .is_err()
    );
    world.settle_all();
    assert!(
        world
            .control("before", ControlAction::Restart { grace: None })
            .is_err()
    );
    world.settle_all();
    assert!(world.control("before", ControlAction::Pause {}).is_err());
    world.settle_all();
    assert!(world.delete("before", false).is_err());
    world.settle_all();
    let after = world.view("before");
    assert_eq!(
        (
            after.phase,
            after.generation,
            after.observed_generation,
            &after.labels,
            after.operation.is_none()
        ),
        (
            before.phase,
            before.generation,
            before.observed_generation,
            &before.labels,
            true
        )
    );
    assert_eq!(
        (
            world.fake().calls("restart").len(),
            world.fake().calls("delete").len()
        ),
        (0, 0)
    );
    disk.works();
    world.create(spec("a")).unwrap();
    world.settle_all();
    assert_eq!(world.phase("a"), "Running");
    world.crash();
    world.settle_all();
    assert_eq!(
        (
            world.phase("a").as_str(),
            world.phase("before").as_str(),
            world.fake().made()
        ),
        ("Running", "Running", 2)
    );
    assert_eq!(world.view("before").generation, 1);
}

#[test]
fn a_disk_that_takes_all_the_time_is_waited_for_again() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    let body = CommandBody::Create(Arc::new(spec("a")));
    let admission = world.admit("k", Guid::generate(), body).unwrap();
    world.perform(admission.follow_ups);
    // The core ended the call at its deadline, and cannot know that it never got as far as the driver.
    let operation = world.runs.pop_front().unwrap();
    world.settle(Outcome {
        operation,
        result: Err(Error::new(ErrorKind::Timeout, "no answer in time")),
        performed: Some(agent_api_manager::Performed {
            called: Timestamp::now(),
            returned: Timestamp::now(),
        }),
    });
    disk.breaks();
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.phase("a").as_str(), world.fake().calls("apply").len()),
        ("(gone)", 0)
    );
}

#[test]
fn a_create_that_waits_is_taken_back_too() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    disk.breaks();
    assert!(
        world
            .create(spec_with("a", json!({"depends_on": [{"name": "b"}]})))
            .is_err()
    );
    world.settle_all();
    assert_eq!(world.phase("a"), "(gone)");
    disk.works();
    world
        .create(spec_with("b", json!({"depends_on": [{"name": "a"}]})))
        .unwrap();
}

#[test]
fn stacked_updates_fall_back_to_what_is_on_disk() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    world.made(spec("a"));
    disk.breaks();
    let guid = world.guid("a");
    let mut follow_ups = Vec::new();
    for n in 1..=3 {
        let next = crate::apply_change(
            &world.manager.spec(guid).unwrap(),
            &Change::Merge(json!({"spec": {"x": n}})),
        );
        let body = CommandBody::Update {
            next: Arc::new(next.unwrap()),
            action: PlanAction::InPlace,
            against: n,
        };
        let admission = world.admit(&format!("u{n}"), guid, body).unwrap();
        follow_ups.extend(admission.follow_ups);
    }
    assert_eq!(world.view("a").generation, 4);
    world.perform(follow_ups);
    world.settle_all();
    let view = world.view("a");
    assert_eq!(
        (view.phase.as_str(), view.generation, view.observed_generation),
        ("Running", 1, 1)
    );
    assert_eq!(*world.manager.spec(guid).unwrap(), spec("a"));
}

#[test]
fn on_a_full_disk_objects_can_still_be_stopped() {
    let disk = Disk::default();
    let mut world = World::with(1, Faulty::on(&disk), |_| {});
    for n in 0..4 {
        world.made(spec(&format!("o{n}")));
    }
    disk.is_full();
    let mut refused = 0;
    for n in 0..40_000 {
        let patch = json!({"spec": {"x": n, "pad": "x".repeat(3_000)}});
        if let Err(error) = world.update("o0", patch) {
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            refused += 1;
            if refused > 3 {
                break;
            }
        }
        world.settle_all();
    }
    assert!(refused > 3, "it fills up");
    assert!(world.create(spec("new")).is_err());
    world.settle_all();
    for n in 0..4 {
        world.control(&format!("o{n}"), ControlAction::Pause {}).unwrap();
        world.delete(&format!("o{n}"), false).unwrap();
    }
    world.settle_all();
    assert_eq!(
        (
            world.fake().alive(),
            world.manager.list(&Default::default()).len()
        ),
        (0, 0)
    );
    disk.works();
    world.create(spec("new")).unwrap();
    world.crash();
    world.settle_all();
    assert_eq!(world.manager.list(&Default::default()).len(), 1);
}

/// Everything on disk, record by record.
fn records(world: &World) -> Vec<Vec<u8>> {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(world.dir.path().join("journal")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let mut config = JournalConfig::new(copy.path());
    config.mode = CommitMode::Inline;
    let (_, recovered) = Journal::open_collected(Arc::new(RealVfs::new()), config).unwrap();
    recovered
        .snapshot
        .into_iter()
        .flatten()
        .chain(recovered.records)
        .collect()
}

fn write(dir: &std::path::Path, records: &[Vec<u8>]) {
    let mut config = JournalConfig::new(dir.join("journal"));
    config.mode = CommitMode::Inline;
    let (journal, _) = Journal::open(config, |_| Ok(())).unwrap();
    for record in records {
        let mut ticket = journal.append(record, Class::Normal).unwrap();
        ticket.wait(Duration::from_secs(10)).unwrap().unwrap();
    }
    journal.seal(Duration::from_secs(10)).unwrap();
}

/// A life with everything in it.
fn busy_life(world: &mut World) {
    world.made(spec_with("a", restart_policy("always", "0s")));
    world.made(spec_with("b", json!({"depends_on": [{"name": "a"}]})));
    world.exits("a", 1);
    world.update("b", json!({"spec": {"x": 1}})).unwrap();
    world.settle_all();
    world.control("b", ControlAction::Pause {}).unwrap();
    world.settle_all();
    world.fake().returns(spec_with("b", json!({"spec": {"x": 0}})));
    let action = ControlAction::Call {
        method: "rollback".into(),
        arguments: json!({"to": 1}),
    };
    world.control("b", action).unwrap();
    world.settle_all();
    world.made(spec("c"));
    world.delete("c", false).unwrap();
    world.settle_all();
    let observed = world.fake().drifts(world.guid("a"), false);
    world.observe(observed);
    world.pass(Duration::from_secs(1));
    world.exits("a", 2);
    world
        .control("a", ControlAction::Restart { grace: None })
        .unwrap();
    world.settle_all();
}

#[test]
fn a_crash_after_each_record_loses_no_request_and_does_none_twice() {
    let mut world = World::new();
    busy_life(&mut world);
    let all = records(&world);
    assert!(all.len() > 15, "{}", all.len());
    for cut in 0..=all.len() {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        write(dir.path(), &all[..cut]);
        // The substrate is empty: whatever is started is started by this run.
        let fakes = vec![Fake::new("fake"), Fake::new("other")];
        let mut again = World::open(dir, Arc::new(RealVfs::new()), fakes, 2, |_| {});
        again.settle_all();
        again.pass(Duration::from_secs(200));
        let mut expected: BTreeMap<String, bool> = BTreeMap::new();
        for record in &all[..cut] {
            let line: serde_json::Value = serde_json::from_slice(record).unwrap();
            let guid = line["g"].as_str().unwrap().to_owned();
            match (line["t"].as_str().unwrap(), line["w"].as_str()) {
                ("accepted", Some("create")) => drop(expected.insert(guid, true)),
                ("accepted", Some("delete")) | ("gone", _) => drop(expected.remove(&guid)),
                _ => {}
            }
        }
        let there: Vec<_> = again.manager.list(&Default::default());
        let mut names: Vec<_> = there.iter().map(|view| view.guid.to_string()).collect();
        names.sort();
        assert_eq!(names, expected.keys().cloned().collect::<Vec<_>>(), "after {cut}");
        for view in there {
            assert!(
                again.fake().things(view.guid) <= 1,
                "after {cut}: {} twice",
                view.name
            );
            assert!(view.operation.is_none(), "after {cut}: {}", view.name);
        }
        assert!(again.report.notes.is_empty(), "{:?}", again.report.notes);
    }
}

#[test]
fn replaying_twice_is_the_same_as_once() {
    let mut world = World::new();
    busy_life(&mut world);
    let all = records(&world);
    let mut once = crate::replay::Replay::new(16);
    let mut twice = crate::replay::Replay::new(16);
    for record in &all {
        once.take(crate::line::Line::read(record).unwrap()).unwrap();
    }
    for record in all.iter().take(all.len() - 6).chain(&all[3..]) {
        twice.take(crate::line::Line::read(record).unwrap()).unwrap();
    }
    let show = |replay: crate::replay::Replay| -> BTreeMap<Guid, String> {
        let objects = replay.images.into_iter().map(|(guid, image)| {
            let object = image.into_object(guid);
            let state = object.state.lock();
            let text = crate::replay::snapshot(&object, &state).unwrap();
            (guid, String::from_utf8(text).unwrap())
        });
        objects.collect()
    };
    assert_eq!(show(once), show(twice));
}

#[test]
fn records_that_cannot_be_read_are_set_aside_and_stop_nothing() {
    let mut world = World::new();
    world.made(spec("a"));
    world.made(spec("b"));
    let mut all = records(&world);
    all.insert(1, b"\xff\xfe garbage".to_vec());
    all.insert(0, br#"{"v":7,"t":"accepted","brave":"new"}"#.to_vec());
    all.push(br#"{"v":1,"q":99,"t":"accepted","g":"00000000-0000-0000-0000-000000000001","o":"00000000-0000-0000-0000-000000000002","w":"create","s":{"kind":7}}"#.to_vec());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    write(dir.path(), &all);
    let fakes = world.fakes.clone();
    fakes[0].rebuilt();
    let mut again = World::open(dir.clone(), Arc::new(RealVfs::new()), fakes, 1, |_| {});
    again.settle_all();
    assert_eq!(
        (again.phase("a").as_str(), again.phase("b").as_str()),
        ("Running", "Running")
    );
    let notes = again.report.notes.join("\n");
    assert_eq!(again.report.notes.len(), 3, "{notes}");
    for why in [
        "version 7",
        "not a record of the manager",
        "a spec that cannot be read",
    ] {
        assert!(notes.contains(why), "{notes}");
    }
    assert_eq!(again.manager.stats().journal.quarantined.len(), 3);
    assert!(dir.path().join("journal/quarantine").read_dir().unwrap().count() >= 3);
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_the_log() {
    let mut world = tokio::task::spawn_blocking(|| {
        let mut world = World::with(2, Arc::new(RealVfs::new()), |config| config.compact_bytes = 1);
        busy_life(&mut world);
        // Something under way, and something that waits.
        world
            .create(spec_with("waits", json!({"depends_on": [{"name": "nobody"}]})))
            .unwrap();
        world.create(spec("under-way")).unwrap();
        world
    })
    .await
    .unwrap();
    world.manager.compact().await.unwrap();
    tokio::task::spawn_blocking(move || {
        let of = |world: &World| -> Vec<String> {
            world
                .manager
                .list(&Default::default())
                .iter()
                .map(|view| {
                    format!(
                        "{} {} {} {}",
                        view.name, view.phase, view.generation, view.restarts
                    )
                })
                .collect()
        };
        // More after the snapshot.
        world.settle_all();
        world
            .control("a", ControlAction::Restart { grace: None })
            .unwrap();
        world.settle_all();
        let (before, made, history) = (of(&world), world.fake().made(), world.history("b"));
        world.crash();
        world.settle_all();
        assert_eq!(of(&world), before);
        assert_eq!(world.fake().made(), made);
        let after = world.history("b");
        assert_eq!(after[..3], history[..3], "the history is kept");
        assert!(after.last().unwrap().contains("found again"));
        assert!(world.create(spec("under-way")).unwrap().repeated, "and the keys");
        let first = records(&world).into_iter().next().unwrap();
        assert!(String::from_utf8(first).unwrap().contains(r#""t":"object""#));
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn seal_ends_the_intake() {
    let mut world = tokio::task::spawn_blocking(World::new).await.unwrap();
    world.manager.seal(Duration::from_secs(5)).await.unwrap();
    world.manager.seal(Duration::from_secs(5)).await.unwrap();
    let error = world.create(spec("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(world.phase("a"), "(gone)");
}
