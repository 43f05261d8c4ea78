//! `logs`.
//!
//! Lines of the stream [`LogStream::System`] are what the substrate says, never the object's own output: the cases that
//! count lines do not ask for them.

use std::time::Duration;

use agent_api_driver::model::{ControlAction, Error, ErrorKind, LogStream, OpId, Verb};
use agent_api_driver::{ControlRequest, LogChunk, LogReadRequest, LogStreamOut, ObjectState, Target};
use futures_util::StreamExt;

use crate::trial::{Stop, Trial, Verdict, ensure, needs, offered};
use crate::{LogShape, Made, Rotation};

const SHAPE: LogShape = LogShape {
    lines: 100,
    line_bytes: 0,
    pace: Duration::ZERO,
    ends: true,
    terminated: true,
    rotation: Rotation::None,
};

/// Asks for the object's own output.
fn own() -> LogReadRequest {
    LogReadRequest {
        streams: vec![LogStream::Stdout, LogStream::Stderr],
        ..LogReadRequest::default()
    }
}

/// An object that writes lines of this shape; one that ends is waited for.
async fn writer(trial: &Trial<'_>, shape: &LogShape) -> Verdict<Made> {
    needs(trial.capabilities()?.logs, "read logs")?;
    let spec = offered(trial.subject.log_sample(shape), &format!("log sample {shape:?}"))?;
    let object = trial.create(trial.named(spec)).await?;
    if shape.ends {
        trial.until_state(&object, ObjectState::Exited).await?;
    }
    Ok(object)
}

async fn open(
    trial: &Trial<'_>,
    object: &Made,
    request: LogReadRequest,
) -> Verdict<Result<LogStreamOut, Error>> {
    let driver = trial.driver();
    let logs = driver
        .logs()
        .ok_or_else(|| Stop::Failed("capabilities name logs, there are none".into()))?;
    Ok(logs
        .read(
            Target {
                guid: object.guid,
                handle: &object.handle,
            },
            request,
        )
        .await)
}

/// All chunks until the stream ends.
async fn read(trial: &Trial<'_>, object: &Made, request: LogReadRequest) -> Verdict<Vec<LogChunk>> {
    let mut stream = open(trial, object, request).await??;
    let all = async {
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.next().await {
            chunks.push(chunk?);
        }
        Ok(chunks)
    };
    trial
        .in_time("reading logs without follow", trial.patience() * 2, all)
        .await?
}

async fn read_from(trial: &Trial<'_>, object: &Made, cursor: Option<&str>) -> Verdict<Vec<LogChunk>> {
    read(
        trial,
        object,
        LogReadRequest {
            cursor: cursor.map(Into::into),
            ..own()
        },
    )
    .await
}

fn lines(chunks: &[LogChunk]) -> Vec<Vec<u8>> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.lines.iter().map(|line| line.to_vec()))
        .collect()
}

fn lost(chunks: &[LogChunk]) -> u64 {
    chunks.iter().map(|chunk| chunk.lost_bytes).sum()
}

/// Checks that these are the lines of these numbers.
fn are(trial: &Trial<'_>, shape: &LogShape, got: &[Vec<u8>], numbers: std::ops::Range<u64>) -> Verdict {
    let count = numbers.end - numbers.start;
    ensure!(
        got.len() as u64 == count,
        "expected {count} lines {numbers:?}, got {}: {}",
        got.len(),
        shown(got)
    );
    for (line, n) in got.iter().zip(numbers) {
        let expected = trial.subject.log_line(n, shape);
        ensure!(
            *line == expected,
            "expected {:?}, got {:?}",
            shorten(&expected),
            shorten(line)
        );
    }
    Ok(())
}

fn shorten(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned()
}

fn shown(lines: &[Vec<u8>]) -> String {
    let ends: Vec<_> = lines
        .iter()
        .take(2)
        .chain(lines.iter().rev().take(2))
        .map(|line| shorten(line))
        .collect();
    format!("{ends:?}")
}

pub(super) async fn each_line_comes_once_and_whole(trial: &Trial<'_>) -> Verdict {
    let object = writer(trial, &SHAPE).await?;
    let chunks = read_from(trial, &object, None).await?;
    ensure!(
        lost(&chunks) == 0,
        "{} bytes lost of a log that was not rotated",
        lost(&chunks)
    );
    are(trial, &SHAPE, &lines(&chunks), 0..SHAPE.lines)
}

/// Reads on from the cursor of each chunk, one read each.
async fn from_each_cursor(trial: &Trial<'_>, object: &Made, shape: &LogShape) -> Verdict {
    let chunks = read_from(trial, object, None).await?;
    are(trial, shape, &lines(&chunks), 0..shape.lines)?;
    let mut read = 0;
    for chunk in &chunks {
        read += chunk.lines.len() as u64;
        let rest = read_from(trial, object, Some(&chunk.cursor)).await?;
        ensure!(lost(&rest) == 0, "{} bytes lost after line {read}", lost(&rest));
        are(trial, shape, &lines(&rest), read..shape.lines)?;
    }
    Ok(())
}

pub(super) async fn going_on_from_a_cursor_gives_the_next_line(trial: &Trial<'_>) -> Verdict {
    let object = writer(trial, &SHAPE).await?;
    from_each_cursor(trial, &object, &SHAPE).await
}

pub(super) async fn a_cursor_survives_rotation(trial: &Trial<'_>) -> Verdict {
    // Long enough for several chunks and several rotations.
    let shape = LogShape {
        lines: 2_000,
        line_bytes: 200,
        rotation: Rotation::Kept,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    from_each_cursor(trial, &object, &shape).await
}

/// The cursor after some of the lines.
async fn early_cursor(trial: &Trial<'_>, object: &Made) -> Verdict<(u64, String)> {
    let follow = LogReadRequest {
        follow: true,
        ..own()
    };
    let mut stream = open(trial, object, follow).await??;
    let first = async {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            if !chunk.lines.is_empty() {
                return Ok((chunk.lines.len() as u64, chunk.cursor));
            }
        }
        Err(Stop::Failed("the stream ended before its first line".into()))
    };
    trial
        .in_time("waiting for a first line", trial.patience(), first)
        .await?
}

pub(super) async fn a_cursor_survives_a_restart_of_the_agent(trial: &Trial<'_>) -> Verdict {
    needs(trial.capabilities()?.adoptable, "adopt objects after a restart")?;
    let shape = LogShape {
        lines: 200,
        pace: Duration::from_millis(2),
        ..SHAPE
    };
    let object = writer(trial, &LogShape { ends: false, ..shape }).await?;
    let (read, cursor) = early_cursor(trial, &object).await?;
    trial.crash_driver().await?;
    let object = trial.adopt(&object).await?;
    let mut got = Vec::new();
    let mut cursor = cursor;
    trial
        .until("all lines have come", async || {
            for chunk in read_from(trial, &object, Some(&cursor)).await? {
                ensure!(chunk.lost_bytes == 0, "{} bytes lost", chunk.lost_bytes);
                got.extend(chunk.lines.iter().map(|line| line.to_vec()));
                cursor = chunk.cursor;
            }
            let came = read + got.len() as u64;
            Ok(if came >= shape.lines {
                Ok(())
            } else {
                Err(format!("{came} of {} lines", shape.lines))
            })
        })
        .await?;
    are(trial, &shape, &got, read..shape.lines)
}

pub(super) async fn a_cursor_survives_a_restart_of_the_object(trial: &Trial<'_>) -> Verdict {
    trial.verb(Verb::Restart)?;
    let shape = LogShape {
        lines: 20,
        ends: false,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    let all = trial
        .until("all lines of the first start have come", async || {
            let chunks = read_from(trial, &object, None).await?;
            let came = lines(&chunks).len() as u64;
            Ok(if came >= shape.lines {
                Ok(chunks)
            } else {
                Err(format!("{came} lines"))
            })
        })
        .await?;
    let cursor = all.last().map(|chunk| chunk.cursor.clone());
    let driver = trial.driver();
    let control = offered(driver.control(), "control extension")?;
    let request = ControlRequest {
        guid: object.guid,
        generation: 1,
        op_id: OpId::generate(),
        maybe_applied: false,
        spec: &object.spec,
        handle: &object.handle,
        action: &ControlAction::Restart {
            grace: Some(Duration::from_millis(200)),
        },
        deadline: trial.patience(),
    };
    let applied = control.control(request).await?;
    let object = trial.after(&object, applied);
    let got = trial
        .until("all lines of the second start have come", async || {
            let got = lines(&read_from(trial, &object, cursor.as_deref()).await?);
            Ok(if got.len() as u64 >= shape.lines {
                Ok(got)
            } else {
                Err(format!("{} lines", got.len()))
            })
        })
        .await?;
    // Numbered on, or from 0 again.
    are(trial, &shape, &got, shape.lines..2 * shape.lines)
        .or_else(|_| are(trial, &shape, &got, 0..shape.lines))
}

pub(super) async fn what_was_rotated_away_is_counted(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 1_000,
        line_bytes: 100,
        rotation: Rotation::Lost,
        ..SHAPE
    };
    let object = writer(
        trial,
        &LogShape {
            pace: Duration::from_millis(1),
            ends: false,
            ..shape
        },
    )
    .await?;
    let (read, cursor) = early_cursor(trial, &object).await?;
    // Until the last line is written, and half of them are rotated away.
    let last = trial.subject.log_line(shape.lines - 1, &shape);
    trial
        .until("the last line is written", async || {
            let tail = LogReadRequest {
                tail: Some(1),
                ..own()
            };
            let got = lines(&self::read(trial, &object, tail).await?);
            Ok(if got.last() == Some(&last) {
                Ok(())
            } else {
                Err(shown(&got))
            })
        })
        .await?;
    trial
        .until("lines are rotated away", async || {
            let kept = lines(&read_from(trial, &object, None).await?).len() as u64;
            Ok(if kept + read < shape.lines {
                Ok(())
            } else {
                Err(format!("{kept} are kept"))
            })
        })
        .await?;
    let chunks = read_from(trial, &object, Some(&cursor)).await?;
    let got = lines(&chunks);
    let came = got.len() as u64;
    ensure!(came + read < shape.lines, "nothing was rotated away");
    ensure!(
        lost(&chunks) > 0,
        "{came} of {} lines came, and no byte is counted as lost",
        shape.lines - read
    );
    // Rotation may go on while we read: lines may be missing before any chunk that counts a loss, and nowhere else.
    let mut next = read;
    let mut lost = false;
    for chunk in &chunks {
        lost |= chunk.lost_bytes > 0;
        for line in &chunk.lines {
            while lost && next < shape.lines && trial.subject.log_line(next, &shape) != line[..] {
                next += 1;
            }
            lost = false;
            let expected = trial.subject.log_line(next, &shape);
            ensure!(
                expected == line[..],
                "line {next} was expected and {:?} came, with no loss counted before it",
                String::from_utf8_lossy(line)
            );
            next += 1;
        }
    }
    ensure!(
        next == shape.lines,
        "the last line that came is {} of {}",
        next,
        shape.lines
    );
    Ok(())
}

pub(super) async fn tail_gives_the_last_lines_fewer_where_there_are_fewer(trial: &Trial<'_>) -> Verdict {
    let object = writer(trial, &SHAPE).await?;
    for (tail, expected) in [(0, 0), (1, 1), (7, 7), (SHAPE.lines + 50, SHAPE.lines)] {
        let request = LogReadRequest {
            tail: Some(tail),
            ..own()
        };
        let got = lines(&read(trial, &object, request).await?);
        are(trial, &SHAPE, &got, SHAPE.lines - expected..SHAPE.lines)?;
    }
    Ok(())
}

pub(super) async fn without_follow_the_stream_ends(trial: &Trial<'_>) -> Verdict {
    let object = writer(
        trial,
        &LogShape {
            ends: false,
            pace: Duration::from_millis(5),
            ..SHAPE
        },
    )
    .await?;
    // The object goes on writing; the read ends all the same.
    read_from(trial, &object, None).await?;
    Ok(())
}

pub(super) async fn a_last_line_without_an_end_comes_too(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        terminated: false,
        lines: 5,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    are(
        trial,
        &shape,
        &lines(&read_from(trial, &object, None).await?),
        0..shape.lines,
    )
}

pub(super) async fn follow_brings_what_is_written_later(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 30,
        pace: Duration::from_millis(5),
        ends: false,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    let follow = LogReadRequest {
        follow: true,
        ..own()
    };
    let mut stream = open(trial, &object, follow).await??;
    let all = async {
        let mut got = Vec::new();
        while (got.len() as u64) < shape.lines {
            match stream.next().await {
                Some(chunk) => got.extend(lines(&[chunk?])),
                None => {
                    return Err(Stop::Failed(format!(
                        "the stream ended after {} lines",
                        got.len()
                    )));
                }
            }
        }
        Ok(got)
    };
    let got = trial
        .in_time("following 30 lines", trial.patience(), all)
        .await??;
    are(trial, &shape, &got, 0..shape.lines)
}

pub(super) async fn following_ends_when_the_object_is_deleted(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 5,
        ends: false,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    let follow = LogReadRequest {
        follow: true,
        ..own()
    };
    let mut stream = open(trial, &object, follow).await??;
    trial.delete(&object).await?;
    let rest = async { while stream.next().await.is_some() {} };
    trial
        .in_time("the stream of a deleted object", trial.patience(), rest)
        .await
}

pub(super) async fn only_the_streams_asked_for_come(trial: &Trial<'_>) -> Verdict {
    let object = writer(trial, &SHAPE).await?;
    let mut count = 0;
    for stream in [LogStream::Stdout, LogStream::Stderr, LogStream::System] {
        let request = LogReadRequest {
            streams: vec![stream],
            ..LogReadRequest::default()
        };
        for chunk in read(trial, &object, request).await? {
            ensure!(
                chunk.stream == stream,
                "asked for {stream:?}, got {:?}",
                chunk.stream
            );
            count += chunk.lines.len() as u64;
        }
    }
    ensure!(
        count >= SHAPE.lines,
        "{count} lines over all streams, {} were written",
        SHAPE.lines
    );
    let all = lines(&read(trial, &object, LogReadRequest::default()).await?).len() as u64;
    ensure!(
        all >= SHAPE.lines,
        "{all} lines where no stream was named, {} were written",
        SHAPE.lines
    );
    Ok(())
}

pub(super) async fn a_long_line_comes_in_pieces(trial: &Trial<'_>) -> Verdict {
    let shape = LogShape {
        lines: 3,
        line_bytes: 150 * 1024,
        ..SHAPE
    };
    let object = writer(trial, &shape).await?;
    let got = lines(&read_from(trial, &object, None).await?);
    ensure!(
        got.iter().all(|piece| piece.len() <= 64 * 1024),
        "a piece is longer than 64 KiB"
    );
    let expected: Vec<u8> = (0..shape.lines)
        .flat_map(|n| trial.subject.log_line(n, &shape))
        .collect();
    ensure!(
        got.concat() == expected,
        "the pieces do not make the lines: {}",
        shown(&got)
    );
    Ok(())
}

pub(super) async fn a_cursor_of_something_else_is_invalid(trial: &Trial<'_>) -> Verdict {
    let object = writer(trial, &LogShape { lines: 5, ..SHAPE }).await?;
    let other = writer(trial, &LogShape { lines: 5, ..SHAPE }).await?;
    let of_other = read_from(trial, &other, None)
        .await?
        .pop()
        .map(|chunk| chunk.cursor);
    let cursors = ["nonsense", "", "../../etc/passwd"]
        .map(String::from)
        .into_iter()
        .chain(of_other);
    for cursor in cursors {
        let request = LogReadRequest {
            cursor: Some(cursor.clone()),
            ..LogReadRequest::default()
        };
        let error = match open(trial, &object, request).await? {
            Err(error) => Some(error),
            // Or as the first item.
            Ok(mut stream) => stream.next().await.and_then(Result::err),
        };
        let invalid = error
            .as_ref()
            .is_some_and(|error| error.kind() == ErrorKind::Invalid && error.path() == Some("cursor"));
        ensure!(
            invalid,
            "cursor {cursor:?}: expected Invalid at `cursor`, got {error:?}"
        );
    }
    Ok(())
}
