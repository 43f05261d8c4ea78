//! `Chaos`: each fault does what it says, the same seed does it again, and the suite under chaos finds a driver whose
//! calls cannot be repeated.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{ErrorKind, Guid, Kind, ObjectName, ObjectSpec, OpId, Result, Retry};
use agent_api_driver::{Applied, ApplyRequest, DriverFactory, ObjectDriver};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use agent_driver_testkit::{Chaos, Faults, Place};
use futures_util::FutureExt;
use serde_json::Value;

async fn simulated(place: &Place) -> Arc<dyn ObjectDriver> {
    SimulatedFactory::with_substrate(Substrate::in_memory())
        .build(place.build(Value::Null))
        .await
        .unwrap()
}

/// The driver behind these faults and, to look past them, without.
async fn behind(faults: Faults) -> (Chaos, Arc<dyn ObjectDriver>, Place) {
    let place = Place::new().unwrap();
    let driver = simulated(&place).await;
    (Chaos::new(driver.clone(), 1, faults), driver, place)
}

async fn apply(driver: &dyn ObjectDriver) -> Result<Applied> {
    let (kind, name) = (
        Kind::new("simulated").unwrap(),
        ObjectName::new("sample").unwrap(),
    );
    let request = ApplyRequest {
        guid: Guid::generate(),
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &ObjectSpec::new(kind, name),
        handle: None,
        deadline: Duration::from_secs(1),
    };
    driver.apply(request).await
}

#[tokio::test]
async fn unavailable_has_done_nothing() {
    let (chaos, past, _place) = behind(Faults {
        unavailable: 1.0,
        ..Faults::NONE
    })
    .await;
    let error = apply(&chaos).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Later)
    );
    assert!(past.discover().await.unwrap().is_empty());
    assert_eq!(chaos.injected(), ["apply #0: Unavailable"]);
}

#[tokio::test]
async fn a_lost_answer_has_had_its_effect() {
    let (chaos, past, _place) = behind(Faults {
        answer_lost: 1.0,
        ..Faults::NONE
    })
    .await;
    let error = apply(&chaos).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Later));
    assert_eq!(past.discover().await.unwrap().len(), 1);
    let mut out = Vec::new();
    assert!(chaos.observe(&[], &mut out).await.is_err());
    assert!(out.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hang_lasts_until_it_is_dropped() {
    let (chaos, past, _place) = behind(Faults {
        hang: 1.0,
        ..Faults::NONE
    })
    .await;
    for _ in 0..16 {
        let waited = tokio::time::timeout(Duration::from_secs(3_600), apply(&chaos)).await;
        assert!(waited.is_err());
    }
    let made = past.discover().await.unwrap().len();
    assert!(
        (1..16).contains(&made),
        "{made} of 16 have had their effect: some, and not all"
    );
}

#[tokio::test]
async fn a_panic_is_one() {
    let (chaos, _past, _place) = behind(Faults {
        panic: 1.0,
        ..Faults::NONE
    })
    .await;
    let panic = AssertUnwindSafe(apply(&chaos)).catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "chaos: apply panics");
}

#[tokio::test]
async fn no_more_faults_in_a_row_than_are_said() {
    let (chaos, _past, _place) = behind(Faults {
        unavailable: 1.0,
        in_a_row: 2,
        ..Faults::NONE
    })
    .await;
    let mut went_through = Vec::new();
    for _ in 0..6 {
        went_through.push(apply(&chaos).await.is_ok());
    }
    assert_eq!(went_through, [false, false, true, false, false, true]);
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults_and_another_others() {
    async fn faults(seed: u64) -> Vec<String> {
        let place = Place::new().unwrap();
        let faults = Faults {
            hang: 0.0,
            ..Faults::default()
        };
        let chaos = Chaos::new(simulated(&place).await, seed, faults);
        for _ in 0..50 {
            let _ = AssertUnwindSafe(apply(&chaos)).catch_unwind().await;
            let _ = AssertUnwindSafe(chaos.discover()).catch_unwind().await;
        }
        chaos.injected()
    }
    let first = faults(1).await;
    assert!((15..=64).contains(&first.len()), "{first:?}");
    assert_eq!(first, faults(1).await);
    assert_ne!(first, faults(2).await);
}
