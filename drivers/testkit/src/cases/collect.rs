//! `collect`.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{
    ControlAction, Guid, LogRecord, LogStream, MetricKind, MetricValue, ObjectSpec, OpId, Signal,
    TelemetryBatch,
};
use agent_api_driver::{CollectRequest, CollectTarget, ControlRequest, ObjectState};

use crate::trial::{Stop, Trial, Verdict, ensure, needs, offered};
use crate::{LogShape, Made, Rotation, Sample};

/// One collection from these objects, with the cursors by object.
async fn collect(
    trial: &Trial<'_>,
    objects: &[(&Made, Option<&str>)],
    signals: &[Signal],
    max_log_bytes: usize,
) -> Verdict<(TelemetryBatch, BTreeMap<Guid, String>)> {
    collect_from(trial, objects, signals, max_log_bytes, false).await
}

async fn collect_from(
    trial: &Trial<'_>,
    objects: &[(&Made, Option<&str>)],
    signals: &[Signal],
    max_log_bytes: usize,
    from_start: bool,
) -> Verdict<(TelemetryBatch, BTreeMap<Guid, String>)> {
    let targets: Vec<_> = objects
        .iter()
        .map(|(object, log_cursor)| CollectTarget {
            guid: object.guid,
            handle: &object.handle,
            log_cursor: *log_cursor,
            from_start,
        })
        .collect();
    let request = CollectRequest {
        targets: &targets,
        signals,
        max_log_bytes,
        deadline: trial.patience(),
    };
    let (mut batch, mut cursors) = (TelemetryBatch::default(), Vec::new());
    trial.driver().collect(request, &mut batch, &mut cursors).await?;
    Ok((batch, cursors.into_iter().collect()))
}

fn with_metrics(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.metrics, "collect metrics")
}

/// Metrics come a moment after the start on some substrates.
async fn first_metrics(trial: &Trial<'_>, object: &Made) -> Verdict<TelemetryBatch> {
    trial
        .until("metrics come", async || {
            let (batch, _) = collect(trial, &[(object, None)], &[Signal::Metrics], 0).await?;
            Ok(if batch.metrics.is_empty() {
                Err(format!("{batch:?}"))
            } else {
                Ok(batch)
            })
        })
        .await
}

pub(super) async fn metrics_come_where_they_are_promised(trial: &Trial<'_>) -> Verdict {
    with_metrics(trial)?;
    let first = trial.running(Sample::LongRunning).await?;
    let second = trial.running(Sample::LongRunning).await?;
    first_metrics(trial, &first).await?;
    first_metrics(trial, &second).await?;
    let (batch, _) = collect(trial, &[(&first, None), (&second, None)], &[Signal::Metrics], 0).await?;
    for object in [&first, &second] {
        ensure!(
            batch.metrics.iter().any(|point| point.guid == object.guid),
            "no metrics of {}: {batch:?}",
            object.guid
        );
    }
    for point in &batch.metrics {
        ensure!(
            point.guid == first.guid || point.guid == second.guid,
            "a point of something else: {point:?}"
        );
        ensure!(
            !point.name.is_empty() && !point.unit.is_empty(),
            "no name or unit: {point:?}"
        );
        let finite = match point.value {
            MetricValue::Float(value) => value.is_finite(),
            MetricValue::Int(_) => true,
        };
        ensure!(finite, "not a number: {point:?}");
    }
    Ok(())
}

pub(super) async fn brings_only_what_was_asked_for(trial: &Trial<'_>) -> Verdict {
    let object = trial.running(Sample::LongRunning).await?;
    let (batch, _) = collect(trial, &[(&object, None)], &[], 1 << 20).await?;
    ensure!(batch.is_empty(), "asked for nothing, got {batch:?}");
    let (batch, _) = collect(trial, &[(&object, None)], &[Signal::Metrics], 1 << 20).await?;
    ensure!(
        batch.logs.is_empty() && batch.spans.is_empty(),
        "asked for metrics, got {batch:?}"
    );
    let (batch, _) = collect(trial, &[(&object, None)], &[Signal::Logs], 1 << 20).await?;
    ensure!(
        batch.metrics.is_empty() && batch.spans.is_empty(),
        "asked for logs, got {batch:?}"
    );
    Ok(())
}

pub(super) async fn targets_that_are_gone_are_passed_over(trial: &Trial<'_>) -> Verdict {
    let gone = trial.running(Sample::LongRunning).await?;
    let kept = trial.running(Sample::LongRunning).await?;
    trial.delete(&gone).await?;
    let targets = [(&gone, None), (&kept, None)];
    let (batch, cursors) = collect(trial, &targets, &[Signal::Metrics, Signal::Logs], 1 << 20).await?;
    let of_gone = batch
        .metrics
        .iter()
        .filter(|point| point.guid == gone.guid)
        .count()
        + batch
            .logs
            .iter()
            .filter(|record| record.guid == gone.guid)
            .count();
    ensure!(of_gone == 0, "{of_gone} points or lines of what is gone");
    ensure!(!cursors.contains_key(&gone.guid), "a cursor for what is gone");
    Ok(())
}

type Counters = BTreeMap<String, f64>;

fn counters(batch: &TelemetryBatch, guid: Guid) -> Counters {
    let counted = batch
        .metrics
        .iter()
        .filter(|point| point.guid == guid && point.kind == MetricKind::Counter);
    counted
        .map(|point| {
            let value = match point.value {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "compared with values rounded in the same way"
                )]
                MetricValue::Int(value) => value as f64,
                MetricValue::Float(value) => value,
            };
            (format!("{} {:?}", point.name, point.attributes), value)
        })
        .collect()
}

fn only_grown(before: &Counters, after: &Counters) -> Verdict {
    for (name, old) in before {
        // One that is missing now is no value; one that is there must not have shrunk.
        if let Some(new) = after.get(name) {
            ensure!(new >= old, "{name} shrank from {old} to {new}");
        }
    }
    Ok(())
}

pub(super) async fn counters_only_grow(trial: &Trial<'_>) -> Verdict {
    with_metrics(trial)?;
    let object = trial.running(Sample::LongRunning).await?;
    let mut before = counters(&first_metrics(trial, &object).await?, object.guid);
    offered((!before.is_empty()).then_some(()), "object with counters")?;
    for _ in 0..20 {
        tokio::task::yield_now().await;
        let (batch, _) = collect(trial, &[(&object, None)], &[Signal::Metrics], 0).await?;
        let after = counters(&batch, object.guid);
        only_grown(&before, &after)?;
        before = after;
    }
    Ok(())
}

pub(super) async fn counters_only_grow_over_a_restart(trial: &Trial<'_>) -> Verdict {
    with_metrics(trial)?;
    trial.verb(agent_api_driver::model::Verb::Restart)?;
    let object = trial.running(Sample::LongRunning).await?;
    let before = counters(&first_metrics(trial, &object).await?, object.guid);
    offered((!before.is_empty()).then_some(()), "object with counters")?;
    let driver = trial.driver();
    let control = driver
        .control()
        .ok_or_else(|| Stop::Failed("there is no control extension".into()))?;
    let action = ControlAction::Restart { grace: None };
    let request = ControlRequest {
        guid: object.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &object.spec,
        handle: &object.handle,
        action: &action,
        deadline: trial.patience(),
    };
    let applied = control.control(request).await?;
    let object = trial.after(&object, applied);
    trial.until_state(&object, ObjectState::Running).await?;
    let batch = first_metrics(trial, &object).await?;
    let noted = batch.losses.iter().any(|loss| loss.signal == Signal::Metrics);
    if noted {
        return Ok(());
    }
    only_grown(&before, &counters(&batch, object.guid))
}

fn log_spec(trial: &Trial<'_>, shape: &LogShape) -> Verdict<ObjectSpec> {
    needs(trial.capabilities()?.logs, "read logs")?;
    Ok(trial.named(offered(
        trial.subject.log_sample(shape),
        &format!("log sample {shape:?}"),
    )?))
}

/// The object's own output: lines of the stream System are what the substrate says.
fn own(records: Vec<LogRecord>) -> Vec<LogRecord> {
    let mut records = records;
    records.retain(|record| record.stream != LogStream::System);
    records
}

const SLOW: LogShape = LogShape {
    lines: 40,
    line_bytes: 100,
    pace: Duration::from_millis(10),
    ends: false,
    terminated: true,
    rotation: Rotation::None,
};

pub(super) async fn log_lines_come_once_within_the_limit(trial: &Trial<'_>) -> Verdict {
    let shape = SLOW;
    let limit = shape.line_bytes * 3 + 50;
    let object = trial.create(log_spec(trial, &shape)?).await?;
    let (batch, cursors) = collect(trial, &[(&object, None)], &[Signal::Logs], limit).await?;
    let cursor = offered(cursors.get(&object.guid).cloned(), "cursor for logs in `collect`")?;
    let mut cursor = cursor;
    let mut lines: Vec<_> = own(batch.logs).into_iter().map(|record| record.body).collect();
    let last = trial.subject.log_line(shape.lines - 1, &shape);
    trial
        .until("the last line is collected", async || {
            let (batch, cursors) =
                collect(trial, &[(&object, Some(&cursor))], &[Signal::Logs], limit).await?;
            let bytes: usize = batch.logs.iter().map(|record| record.body.len()).sum();
            ensure!(
                bytes <= limit,
                "{bytes} bytes of lines, at most {limit} were asked for"
            );
            ensure!(
                batch.losses.is_empty(),
                "losses where nothing was rotated away: {:?}",
                batch.losses
            );
            if let Some(next) = cursors.get(&object.guid) {
                cursor.clone_from(next);
            }
            lines.extend(own(batch.logs).into_iter().map(|record| record.body));
            Ok(if lines.last().is_some_and(|line| *line == last) {
                Ok(())
            } else {
                Err(format!("{lines:?}"))
            })
        })
        .await?;
    let first = lines.len() as u64;
    ensure!(
        first <= shape.lines,
        "{first} lines came, {} were written: {lines:?}",
        shape.lines
    );
    for (line, n) in lines.iter().zip(shape.lines - first..) {
        let expected = trial.subject.log_line(n, &shape);
        ensure!(
            *line == expected,
            "expected {:?}, got {line:?}",
            String::from_utf8_lossy(&expected)
        );
    }
    Ok(())
}

pub(super) async fn from_start_without_a_cursor_begins_at_the_oldest_line(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 10,
        pace: Duration::ZERO,
        ends: true,
        ..SLOW
    };
    let object = trial.create(log_spec(trial, &shape)?).await?;
    trial.until_state(&object, ObjectState::Exited).await?;
    let (mut lines, mut cursor) = (Vec::new(), None);
    // In parts: `from_start` counts only where there is no cursor.
    let limit = shape.line_bytes * 4;
    trial
        .until("all lines from before the first collection come", async || {
            let target = [(&object, cursor.as_deref())];
            let (batch, cursors) = collect_from(trial, &target, &[Signal::Logs], limit, true).await?;
            ensure!(batch.losses.is_empty(), "losses: {:?}", batch.losses);
            lines.extend(own(batch.logs).into_iter().map(|record| record.body));
            if let Some(next) = cursors.get(&object.guid) {
                cursor = Some(next.clone());
            }
            Ok(if lines.len() as u64 >= shape.lines {
                Ok(())
            } else {
                Err(format!("{lines:?}"))
            })
        })
        .await?;
    let expected: Vec<_> = (0..shape.lines)
        .map(|n| trial.subject.log_line(n, &shape))
        .collect();
    let same = lines
        .iter()
        .map(|line| &line[..])
        .eq(expected.iter().map(|line| &line[..]));
    ensure!(same, "expected all {} lines once, got {lines:?}", shape.lines);
    Ok(())
}

pub(super) async fn without_a_cursor_begins_with_what_is_written_from_now_on(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 10,
        pace: Duration::ZERO,
        ends: true,
        ..SLOW
    };
    let object = trial.create(log_spec(trial, &shape)?).await?;
    trial.until_state(&object, ObjectState::Exited).await?;
    let (batch, cursors) = collect(trial, &[(&object, None)], &[Signal::Logs], 1 << 20).await?;
    let logs = own(batch.logs);
    ensure!(
        logs.is_empty(),
        "lines from before the first collection: {logs:?}"
    );
    if let Some(cursor) = cursors.get(&object.guid) {
        let (batch, _) = collect(trial, &[(&object, Some(cursor))], &[Signal::Logs], 1 << 20).await?;
        let logs = own(batch.logs);
        ensure!(
            logs.is_empty(),
            "lines from before the first collection: {logs:?}"
        );
    }
    Ok(())
}

pub(super) async fn what_was_lost_is_in_losses(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 400,
        pace: Duration::from_millis(1),
        ends: true,
        rotation: Rotation::Lost,
        ..SLOW
    };
    let mut came = 0;
    // On a busy machine the first cursor may come so late that nothing after it is rotated away: once more then.
    for _ in 0..8 {
        let object = trial.create(log_spec(trial, &shape)?).await?;
        let (_, cursors) = collect(trial, &[(&object, None)], &[Signal::Logs], 1 << 20).await?;
        let cursor = offered(cursors.get(&object.guid).cloned(), "cursor for logs in `collect`")?;
        trial.until_state(&object, ObjectState::Exited).await?;
        let (batch, _) = collect(trial, &[(&object, Some(&cursor))], &[Signal::Logs], 1 << 20).await?;
        came = own(batch.logs).len();
        ensure!(came < 300, "{came} lines were kept: nothing was lost");
        let lost = batch.losses.iter().any(|loss| {
            loss.signal == Signal::Logs && loss.count > 0 && loss.guid.is_none_or(|guid| guid == object.guid)
        });
        if lost {
            return Ok(());
        }
    }
    Err(Stop::Failed(format!(
        "{came} of 400 lines came, and no loss is named"
    )))
}
