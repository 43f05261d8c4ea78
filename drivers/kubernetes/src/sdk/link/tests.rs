use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use agent_api_driver::model::{AgentId, ErrorKind};
use serde_json::json;

use super::*;
use crate::mock::{Answer, Asked, Log, client, failure};
use crate::sdk::Cluster;

fn cluster(
    config: ClusterConfig,
    answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Arc<Cluster>, Log) {
    let (client, log) = client(answer);
    let agent = AgentId::new("a1").unwrap();
    (Cluster::over("mock", &agent, &config, client), log)
}

fn version() -> Answer {
    Answer::Json(
        200,
        json!({"major": "1", "minor": "33+", "gitVersion": "", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
    )
}

#[tokio::test(start_paused = true)]
async fn a_429_is_waited_for_as_long_as_it_asks() {
    let tries = AtomicU32::new(0);
    let (cluster, log) = cluster(ClusterConfig::default(), move |_| {
        match tries.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Answer::Later(429, 3),
            _ => version(),
        }
    });
    let begun = Instant::now();
    cluster.probe().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(6), "{:?}", begun.elapsed());
    let counts = cluster.requests();
    assert_eq!((counts.total, counts.throttled, log.lock().len()), (3, 2, 3));
    assert_eq!(counts.by["list version"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_429_that_asks_for_too_much_or_never_ends_is_busy_with_its_delay() {
    let (cluster, log) = cluster(ClusterConfig::default(), |_| Answer::Later(429, 60));
    let error = cluster.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(error.retry_delay(), Some(Duration::from_secs(60)));
    assert_eq!(log.lock().len(), 1);
    let (cluster, log) = self::cluster(ClusterConfig::default(), |_| Answer::Later(429, 1));
    assert_eq!(cluster.probe().await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(log.lock().len(), 1 + THROTTLED_TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_refused_is_the_callers_matter() {
    let (cluster, log) = cluster(ClusterConfig::default(), |_| Answer::Later(429, 1));
    let request = Request::post("/api/v1/namespaces/a/pods/b/eviction")
        .body(Vec::new())
        .unwrap();
    let answer = cluster
        .attempt(cluster.client().request_text(request))
        .await
        .unwrap();
    assert!(matches!(answer, Err(kube::Error::Api(status)) if status.code == 429));
    assert_eq!(log.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn silence_and_broken_connections_end_and_are_seen_in_the_health() {
    let (cluster, _) = cluster(ClusterConfig::default(), |_| Answer::Silence);
    assert!(matches!(cluster.health(), DriverState::Unavailable { .. }));
    let error = cluster.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert_eq!(cluster.requests().unanswered, 1);
    let broken = Arc::new(AtomicU32::new(1));
    let switch = Arc::clone(&broken);
    let (cluster, _) = self::cluster(ClusterConfig::default(), move |_| {
        match switch.load(Ordering::Relaxed) {
            1 => Answer::Broken,
            _ => version(),
        }
    });
    let mut states = cluster.health_changes();
    let error = cluster.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("connection reset"), "{error}");
    assert!(
        matches!(&*states.borrow_and_update(), DriverState::Unavailable { reason } if reason.contains("connection reset"))
    );
    broken.store(0, Ordering::Relaxed);
    cluster.probe().await.unwrap();
    assert_eq!(*states.borrow_and_update(), DriverState::Healthy);
    assert_eq!(cluster.server_version().await.unwrap().minor, 33);
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_refused_are_no_endless_loop() {
    let (cluster, log) = cluster(ClusterConfig::default(), |_| {
        failure(401, "Unauthorized", "Unauthorized")
    });
    assert_eq!(cluster.probe().await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(log.lock().len(), 1);
    assert!(
        matches!(cluster.health(), DriverState::Unavailable { reason } if reason.contains("credentials"))
    );
}

#[tokio::test(start_paused = true)]
async fn requests_are_paced_where_that_is_asked_for() {
    let config = ClusterConfig {
        requests_per_second: Some(2.0),
        ..ClusterConfig::default()
    };
    let (cluster, _) = cluster(config, |_| version());
    let begun = Instant::now();
    for _ in 0..5 {
        cluster.probe().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn new_groups_are_found_without_asking_at_every_turn() {
    let (cluster, log) = cluster(ClusterConfig::default(), |asked| match asked.uri.as_str() {
        "/apis/metrics.k8s.io/v1beta1" => failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        _ => Answer::Json(
            200,
            json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get"]}]}),
        ),
    });
    for _ in 0..3 {
        assert!(
            !cluster
                .served("metrics.k8s.io/v1beta1", "PodMetrics")
                .await
                .unwrap()
        );
        assert!(cluster.resource("v1", "Pod").await.is_ok());
        assert_eq!(
            cluster.resource("v1", "Widget").await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    assert_eq!(log.lock().len(), 2);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(cluster.resource("v1", "Widget").await.is_err());
    assert_eq!(log.lock().len(), 3);
}
