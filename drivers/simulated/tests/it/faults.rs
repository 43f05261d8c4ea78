//! What a spec asks for happens, and nothing else. Time is paused: waits cost nothing and are exact.

use std::time::Duration;

use crate::support::{DEADLINE, apply, create, delete, driver, observe, spec};
use agent_api_driver::model::{ErrorKind, EvidenceSource, Guid, OpId, Signal, TelemetryBatch};
use agent_api_driver::{
    CollectRequest, CollectTarget, DriverEvent, ObjectState, RecoveredState, ShutdownMode, Target,
};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

/// Outcomes of sixteen creates of objects with these names and this spec.
async fn outcomes(config: Value, value: Value) -> Vec<bool> {
    let driver = driver(&Substrate::in_memory(), config).await;
    let mut outcomes = Vec::new();
    for n in 0..16 {
        outcomes.push(
            create(&*driver, &format!("object-{n}"), value.clone())
                .await
                .is_ok(),
        );
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_does_the_same_again() {
    let flaky = json!({"fail": {"create": 0.5}});
    let first = outcomes(json!({"seed": 1}), flaky.clone()).await;
    assert_eq!(first, outcomes(json!({"seed": 1}), flaky.clone()).await);
    assert_ne!(first, outcomes(json!({"seed": 2}), flaky.clone()).await);
    assert!(first.contains(&true) && first.contains(&false), "{first:?}");
    // An object's own seed decides too.
    assert_ne!(
        first,
        outcomes(json!({"seed": 1}), json!({"seed": 5, "fail": {"create": 0.5}})).await
    );
}

#[tokio::test(start_paused = true)]
async fn latency_passes_in_the_callers_call() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let value = json!({"latency": {"create": "5s", "delete": {"min": "1s", "max": "2s"}, "observe": "3s"}});
    let began = Instant::now();
    let (guid, handle) = create(&*driver, "slow", value).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
    observe(&*driver, guid, &handle).await;
    assert_eq!(began.elapsed().as_secs(), 8);
    delete(&*driver, guid, &handle).await.unwrap();
    assert!(
        (9..=10).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn failures_are_of_the_kind_asked_for_and_a_new_try_draws_anew() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let error = create(&*driver, "a", json!({"fail": {"create": 1}}))
        .await
        .unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable && error.is_retryable(),
        "{error:?}"
    );
    let value = json!({"fail": {"create": {"retryable": false, "message": "disk on fire"}}});
    let error = create(&*driver, "a", value).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Internal && !error.is_retryable(),
        "{error:?}"
    );
    assert!(error.to_string().contains("disk on fire"), "{error}");
    let (guid, op_id, flaky) = (
        Guid::generate(),
        OpId::generate(),
        spec("b", json!({"fail": {"create": 0.8}})),
    );
    let mut tries = 0;
    while apply(&*driver, guid, op_id, &flaky, None).await.is_err() {
        tries += 1;
        assert!(tries < 200, "the same draw each time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_has_its_effect_and_the_same_op_id_finds_it() {
    let substrate = Substrate::in_memory();
    let driver = driver(&substrate, Value::Null).await;
    let (guid, op_id) = (Guid::generate(), OpId::generate());
    let lost = spec("a", json!({"fail": {"create": {"after": true}}}));
    let error = apply(&*driver, guid, op_id, &lost, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(substrate.runs(guid));
    let again = apply(&*driver, guid, op_id, &spec("a", json!({})), None)
        .await
        .unwrap();
    assert!(again.status.details.is_null(), "started once: {again:?}");
    assert_eq!(substrate.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hang_never_returns_and_holds_up_nobody_else() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let hangs = create(&*driver, "hangs", json!({"hang": ["apply"]}));
    assert!(timeout(Duration::from_secs(86_400), hangs).await.is_err());
    let (guid, handle) = create(&*driver, "stuck", json!({"hang": ["delete"]}))
        .await
        .unwrap();
    assert!(
        timeout(Duration::from_secs(86_400), delete(&*driver, guid, &handle))
            .await
            .is_err()
    );
    create(&*driver, "well", json!({})).await.unwrap();
    // The way out: a spec that does not hang.
    let mended = spec("stuck", json!({}));
    apply(&*driver, guid, OpId::generate(), &mended, Some(&handle))
        .await
        .unwrap();
    delete(&*driver, guid, &handle).await.unwrap();
    // Nor does it hold up the end of the driver.
    timeout(
        Duration::from_secs(1),
        driver.shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(1)),
    )
    .await
    .unwrap()
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panic_leaves_the_driver_as_it_was() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let panics = std::panic::AssertUnwindSafe(create(&*driver, "panics", json!({"panic": ["create"]})));
    assert!(panics.catch_unwind().await.is_err());
    let (guid, handle) = create(&*driver, "well", json!({"panic": {"observe": 1}}))
        .await
        .unwrap();
    let mut out = Vec::new();
    let targets = [Target {
        guid,
        handle: &handle,
    }];
    let panics = std::panic::AssertUnwindSafe(driver.observe(&targets, &mut out));
    assert!(panics.catch_unwind().await.is_err());
    delete(&*driver, guid, &handle).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_on_time_also_while_the_agent_is_away() {
    let substrate = Substrate::in_memory();
    let first = driver(&substrate, Value::Null).await;
    let mut events = first.events();
    let began = Instant::now();
    let (guid, handle) = create(&*first, "job", json!({"lifetime": "10s", "exit_code": 3}))
        .await
        .unwrap();
    let end = events.by_ref().filter_map(|event| async move {
        match event {
            DriverEvent::Status(observed) if observed.status.state == ObjectState::Exited => Some(observed),
            _ => None,
        }
    });
    let observed = std::pin::pin!(end).next().await.unwrap();
    assert_eq!(
        (observed.guid, observed.status.exit.unwrap().code),
        (guid, Some(3))
    );
    assert_eq!(began.elapsed().as_secs(), 10);
    delete(&*first, guid, &handle).await.unwrap();

    let (guid, handle) = create(&*first, "away", json!({"lifetime": "10s"})).await.unwrap();
    first
        .shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(1))
        .await
        .unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let second = driver(&substrate, Value::Null).await;
    let recovered = second
        .recover(&[Target {
            guid,
            handle: &handle,
        }])
        .await
        .unwrap()
        .remove(0);
    let RecoveredState::Exited(status) = recovered.state else {
        panic!("{recovered:?}")
    };
    let exit = status.exit.unwrap();
    assert_eq!(exit.code, Some(0));
    assert!(
        status.evidence.at.since(exit.at.unwrap()) >= Duration::from_secs(49),
        "it ended long ago: {exit:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn time_stands_still_for_what_is_paused() {
    use agent_api_driver::model::ControlAction;
    let substrate = Substrate::in_memory();
    let driver = driver(&substrate, Value::Null).await;
    let value = spec("job", json!({"lifetime": "10s"}));
    let guid = Guid::generate();
    let handle = apply(&*driver, guid, OpId::generate(), &value, None)
        .await
        .unwrap()
        .handle;
    let control = |action: ControlAction| {
        let (driver, value, handle) = (&driver, &value, &handle);
        async move {
            let request = agent_api_driver::ControlRequest {
                guid,
                generation: 1,
                op_id: OpId::generate(),
                maybe_applied: false,
                spec: value,
                handle,
                action: &action,
                deadline: crate::support::DEADLINE,
            };
            driver.control().unwrap().control(request).await.unwrap()
        }
    };
    control(ControlAction::Pause {}).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(substrate.runs(guid));
    control(ControlAction::Resume {}).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(substrate.runs(guid));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!substrate.runs(guid));
}

#[tokio::test(start_paused = true)]
async fn crashes_come_about_as_often_as_asked_for() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let mut objects = Vec::new();
    for n in 0..200 {
        let value = json!({"crash": {"after": {"exponential": "60s"}, "signal": "ABRT"}});
        objects.push(create(&*driver, &format!("object-{n}"), value).await.unwrap());
    }
    tokio::time::advance(Duration::from_secs(60)).await;
    let targets: Vec<_> = objects
        .iter()
        .map(|(guid, handle)| Target { guid: *guid, handle })
        .collect();
    let mut out = Vec::new();
    driver.observe(&targets, &mut out).await.unwrap();
    let crashed: Vec<_> = out
        .iter()
        .filter_map(|observed| observed.status.exit.as_ref())
        .collect();
    // 1 - 1/e of them.
    assert!((90..165).contains(&crashed.len()), "{}", crashed.len());
    assert!(
        crashed
            .iter()
            .all(|exit| exit.signal.as_deref() == Some("SIGABRT"))
    );
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_doubled_and_late_as_asked_for() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let mut events = driver.events();
    let mut seen = async |value: Value| {
        create(&*driver, "a", json!({"lifetime": "1s", "events": value}))
            .await
            .unwrap();
        let mut seen = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_secs(30), events.next()).await {
            seen.push(match event {
                DriverEvent::Status(observed) => format!("{:?}", observed.status.state),
                DriverEvent::Gap(Some(_)) => "gap".into(),
                other => format!("{other:?}"),
            });
        }
        seen.join(" ")
    };
    assert_eq!(seen(json!({})).await, "Running Exited");
    assert_eq!(seen(json!({"gap": 1})).await, "gap gap");
    assert_eq!(seen(json!({"lost": 1})).await, "");
    assert_eq!(
        seen(json!({"duplicated": 1})).await,
        "Running Running Exited Exited"
    );
    // Running, held back for longer than the object lives, comes last.
    let late = seen(json!({"late": 0.5, "late_by": "5s"})).await;
    assert_eq!(late.split(' ').count(), 2, "{late}");
    let mut orders = std::collections::BTreeSet::from([late]);
    for seed in 0..20 {
        create(
            &*driver,
            "b",
            json!({"seed": seed, "lifetime": "1s", "events": {"late": 0.5, "late_by": "5s"}}),
        )
        .await
        .unwrap();
        let mut seen = Vec::new();
        while let Ok(Some(DriverEvent::Status(observed))) =
            timeout(Duration::from_secs(30), events.next()).await
        {
            seen.push(format!("{:?}", observed.status.state));
        }
        orders.insert(seen.join(" "));
    }
    assert!(
        orders.contains("Exited Running") && orders.contains("Running Exited"),
        "{orders:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn garbage_is_given_only_where_it_is_asked_for() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let (_, handle) = create(&*driver, "a", json!({"garbage": {"handle": 1}}))
        .await
        .unwrap();
    let target = Target {
        guid: Guid::generate(),
        handle: &handle,
    };
    let recovered = driver.recover(&[target]).await.unwrap().remove(0);
    assert!(
        matches!(&recovered.state, RecoveredState::Lost(why) if why.contains("handle")),
        "{recovered:?}"
    );

    let (guid, handle) = create(
        &*driver,
        "b",
        json!({"garbage": {"revision": 1, "unknown_object": 1}}),
    )
    .await
    .unwrap();
    let out = observe(&*driver, guid, &handle).await;
    assert_eq!(out.len(), 2, "{out:?}");
    assert!(out.iter().any(|observed| observed.guid != guid));
    assert!(
        out.iter()
            .any(|observed| observed.guid == guid && observed.status.evidence.revision == 1)
    );

    let (guid, handle) = create(&*driver, "c", json!({"garbage": {"exit": 1}}))
        .await
        .unwrap();
    let status = observe(&*driver, guid, &handle).await.remove(0).status;
    assert_eq!((status.state, status.exit.clone()), (ObjectState::Exited, None));
    assert_eq!(status.evidence.source, EvidenceSource::Inferred);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_observed_is_unknown_and_what_cannot_be_removed_is_named() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let value = json!({"fail": {"observe": 1}, "leaves": ["a volume"]});
    let (guid, handle) = create(&*driver, "a", value).await.unwrap();
    assert_eq!(
        observe(&*driver, guid, &handle).await[0].status.state,
        ObjectState::Unknown
    );
    assert_eq!(delete(&*driver, guid, &handle).await.unwrap().left, ["a volume"]);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_degrades_and_works() {
    use agent_api_driver::DriverFactory;
    use agent_api_driver::model::DriverState;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let mut build = crate::support::build_request(Value::Null);
    build.state_dir = file.join("below");
    let driver = SimulatedFactory::new().build(build).await.unwrap();
    let health = driver.health();
    assert!(
        matches!(&health, DriverState::Degraded { reason } if reason.contains("state directory")),
        "{health:?}"
    );
    let (guid, handle) = create(&*driver, "a", json!({})).await.unwrap();
    assert_eq!(
        observe(&*driver, guid, &handle).await[0].status.state,
        ObjectState::Running
    );
    driver
        .shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(5))
        .await
        .unwrap();
    assert!(matches!(driver.health(), DriverState::Unavailable { .. }));
}

#[tokio::test(start_paused = true)]
async fn collected_logs_begin_where_the_request_says() {
    let driver = driver(&Substrate::in_memory(), Value::Null).await;
    let (guid, handle) = create(&*driver, "a", json!({"logs": {"rate": 100.0, "keep": 40}}))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut cursor: Option<String> = None;
    let mut collect = async |from_start: bool, keeps: bool| {
        let targets = [CollectTarget {
            guid,
            handle: &handle,
            log_cursor: cursor.as_deref(),
            from_start,
        }];
        let request = CollectRequest {
            targets: &targets,
            signals: &[Signal::Logs],
            max_log_bytes: 1 << 20,
            deadline: DEADLINE,
        };
        let (mut batch, mut cursors) = (TelemetryBatch::default(), Vec::new());
        driver.collect(request, &mut batch, &mut cursors).await.unwrap();
        assert_eq!(batch.losses, []);
        if keeps {
            cursor = cursors.pop().map(|(_, cursor)| cursor);
        }
        batch.logs.len()
    };
    assert_eq!(collect(false, false).await, 0, "from now on");
    assert_eq!(collect(true, true).await, 40, "all that is kept");
    assert_eq!(collect(true, true).await, 0, "and then by the cursor");
}
