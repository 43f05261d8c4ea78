//! Leases: granted, refused, renewed, ended.
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

mod common;

use std::time::Duration;

use agent_api_model::{ErrorKind, Guid, LeaseId, MonitorRequest, Signal};
use agent_api_reporter::ReporterApi;
use common::{Mode, config, metrics, object, reporter, request};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_lease_is_what_was_asked_for() {
    let (reporter, _bus) = reporter(config());
    let guid = Guid::generate();
    let mut wanted = request(&[Signal::Logs, Signal::Metrics, Signal::Logs]);
    wanted.selector = "app=web".parse().unwrap();
    wanted.json = true;
    let own = reporter.subscribe(&wanted, Some(guid)).unwrap();
    assert_eq!(own.topic, format!("agent.out.a1.lease.{}", own.id));
    assert_eq!(own.signals, [Signal::Metrics, Signal::Logs]);
    assert_eq!(
        (own.guid, own.json, own.ttl),
        (Some(guid), true, Some(60 * SECOND))
    );
    assert_eq!(own.selector, wanted.selector);
    assert!(own.expires.is_some());
    wanted.topic = Some("team.web".into());
    assert_eq!(reporter.subscribe(&wanted, None).unwrap().topic, "team.web");
    assert_eq!(reporter.stats().leases, 2);
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_name_the_field() {
    let (reporter, _bus) = reporter(config());
    let with = |change: fn(&mut MonitorRequest)| {
        let mut wanted = request(&[Signal::Metrics]);
        change(&mut wanted);
        let error = reporter.subscribe(&wanted, None).unwrap_err();
        format!(
            "{} at {}: {error}",
            error.kind(),
            error.path().unwrap_or_default()
        )
    };
    let errors = [
        with(|wanted| wanted.topic = Some("a b".into())),
        with(|wanted| wanted.topic = Some("agent.in.a1.create".into())),
        with(|wanted| wanted.topic = Some("agent.call.a1.web.pause".into())),
        with(|wanted| wanted.interval = Duration::from_millis(9)),
        with(|wanted| wanted.ttl = Duration::from_secs(86_401)),
        with(|wanted| wanted.ttl = Duration::ZERO),
        with(|wanted| wanted.signals.clear()),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r#"
    invalid at topic: topic: "a b" is not a topic: use words of letters, digits, '_' and '-', joined by '.'
    invalid at topic: topic: topics under agent.in carry requests, not telemetry
    invalid at topic: topic: topics under agent.call carry requests, not telemetry
    invalid at interval: interval: must be at least 10ms
    invalid at ttl: ttl: must be more than 0s and at most 24h
    invalid at ttl: ttl: must be more than 0s and at most 24h
    invalid at signals: signals: must name at least one of metrics, logs, traces
    "#);
    assert_eq!(reporter.stats().leases, 0);
}

#[tokio::test(start_paused = true)]
async fn leases_end_unless_renewed_and_a_late_renewal_is_not_found() {
    let (reporter, _bus) = reporter(config());
    let mut wanted = request(&[Signal::Metrics]);
    wanted.ttl = 10 * SECOND;
    let lease = reporter.subscribe(&wanted, None).unwrap();
    let renew = |id| MonitorRequest {
        renew: Some(id),
        ..MonitorRequest::default()
    };
    for _ in 0..5 {
        tokio::time::sleep(9 * SECOND).await;
        let renewed = reporter.subscribe(&renew(lease.id), None).unwrap();
        assert_eq!(
            (renewed.id, renewed.ttl, renewed.topic),
            (lease.id, lease.ttl, lease.topic.clone())
        );
    }
    assert_eq!(reporter.stats().leases, 1);
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(reporter.stats().leases, 0);
    let error = reporter.subscribe(&renew(lease.id), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        reporter
            .subscribe(&renew(LeaseId::generate()), None)
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    assert!(!reporter.unsubscribe(lease.id));
}

#[tokio::test(start_paused = true)]
async fn more_leases_than_the_limit_are_refused_until_one_ends() {
    let mut config = config();
    config.max_leases = 2;
    let (reporter, _bus) = reporter(config);
    let wanted = request(&[Signal::Metrics]);
    let first = reporter.subscribe(&wanted, None).unwrap();
    reporter.subscribe(&wanted, None).unwrap();
    let error = reporter.subscribe(&wanted, None).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Busy, true));
    assert!(reporter.unsubscribe(first.id));
    reporter.subscribe(&wanted, None).unwrap();
    tokio::time::sleep(61 * SECOND).await;
    reporter.subscribe(&wanted, None).unwrap();
    assert_eq!(reporter.stats().leases, 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_subscribers_that_vanish_leave_nothing() {
    let (reporter, bus) = reporter(config());
    let web = object("web");
    bus.set(Mode::Slow(Duration::from_millis(5)));
    let leases: Vec<_> = (0..1_000)
        .map(|_| reporter.subscribe(&request(&[Signal::Metrics]), None).unwrap())
        .collect();
    for lease in &leases {
        assert!(reporter.sink().offer(lease, metrics(&web, 1)));
    }
    assert_eq!((reporter.stats().leases, reporter.stats().tasks), (1_000, 1));
    tokio::time::sleep(61 * SECOND).await;
    // The collector says so when a lease ends on its side.
    leases.iter().for_each(|lease| reporter.sink().end(lease.id));
    let stats = reporter.stats();
    assert_eq!(
        (stats.leases, stats.tasks, stats.queue.length),
        (0, 1, 0),
        "{stats:?}"
    );
    assert_eq!(bus.of_type("agent.telemetry.metrics").len(), 1_000);
}
