//! Bus In: requests and their answers.

use std::sync::Arc;
use std::time::Duration;

use agent_api_bus_in::{Access, FrameStream, Incoming, Response};
use agent_api_model::{Error, ErrorKind, Timestamp};
use bytes::Bytes;
use futures_util::StreamExt;

use super::{Ends, PATIENCE, request, until};

async fn answered(ends: &Ends, request: Incoming) -> Bytes {
    match ends.caller.call(request, PATIENCE).await {
        Ok(Response::One { error: None, body }) => body,
        Ok(_) => panic!("another kind of answer was expected"),
        Err(error) => panic!("{error:?}"),
    }
}

async fn streamed(ends: &Ends, request: Incoming) -> FrameStream {
    match ends.caller.call(request, PATIENCE).await {
        Ok(Response::Stream(frames)) => frames,
        Ok(_) => panic!("a stream was expected"),
        Err(error) => panic!("{error:?}"),
    }
}

/// All that a caller says arrives; who the caller is, only the bus says.
pub async fn a_request_arrives_whole(ends: Ends) {
    let handler = ends.open().await;
    let sent = Incoming {
        verb: "describe".into(),
        object: Some("web 1/ä%".into()),
        id: Some("r-1".into()),
        idempotency_key: Some("k-1".into()),
        deadline: Some("2026-01-31T12:00:00Z".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        caller: "root, honestly".into(),
        access: Access::None,
        payload: "{\"a\":\"ä\\n\"}".into(),
        received: Timestamp::EPOCH,
    };
    let before = Timestamp::now();
    assert_eq!(answered(&ends, sent.clone()).await, sent.payload);
    assert_eq!(
        answered(&ends, request("echo", "")).await,
        Bytes::new(),
        "an empty body"
    );
    let got = handler.seen.requests.lock()[0].clone();
    assert_eq!(
        (got.verb, got.object, got.id, got.idempotency_key),
        (sent.verb, sent.object, sent.id, sent.idempotency_key)
    );
    assert_eq!(
        (got.deadline, got.traceparent, got.payload),
        (sent.deadline, sent.traceparent, sent.payload)
    );
    assert_ne!(got.caller, sent.caller, "a caller cannot choose its own name");
    assert!(!got.caller.is_empty());
    assert_eq!(got.access, Access::Full);
    assert!(got.received >= before);
    ends.close().await;
}

/// Errors keep their kind and their words; text stays text; a large answer stays whole.
pub async fn errors_texts_and_large_answers_arrive(ends: Ends) {
    let _handler = ends.open().await;
    match ends.caller.call(request("refuse", ""), PATIENCE).await {
        Ok(Response::One {
            error: Some(ErrorKind::Conflict),
            body,
        }) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            assert!(text.contains("not now") && text.contains("web"), "{text}");
        }
        _ => panic!("an error of its kind was expected"),
    }
    match ends.caller.call(request("text", ""), PATIENCE).await {
        Ok(Response::Text { content_type, body }) => {
            assert!(content_type.starts_with("text/plain"));
            assert_eq!(&body[..], b"up 1\n");
        }
        _ => panic!("text was expected"),
    }
    let large = answered(&ends, request("large", "8000000")).await;
    assert_eq!(large.len(), 8_000_002);
    ends.close().await;
}

/// A stream's messages arrive one by one, in order, and it ends.
pub async fn streams_arrive_in_order_and_end(ends: Ends) {
    let handler = ends.open().await;
    for count in [0, 1, 20_000] {
        let frames = streamed(&ends, request("count", &count.to_string())).await;
        let frames: Vec<_> = frames.collect().await;
        assert_eq!(frames.len(), count);
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(frame, &format!("{{\"n\":{n}}}"));
        }
    }
    until("streams that ended are let go", || handler.under_way() == 0).await;
    ends.close().await;
}

/// An error is a stream's last message.
pub async fn an_error_ends_a_stream(ends: Ends) {
    let _handler = ends.open().await;
    let frames: Vec<_> = streamed(&ends, request("fail", "2")).await.collect().await;
    assert_eq!(frames.len(), 3);
    let error = Error::from_frame(&frames[2]).expect("the last message is the error");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Lost, "it is gone"));
    ends.close().await;
}

/// A caller that waited long enough is told so, and what it asked for is let go.
pub async fn no_answer_in_time_is_a_timeout(ends: Ends) {
    let handler = ends.open().await;
    let error = match ends
        .caller
        .call(request("hang", ""), Duration::from_millis(200))
        .await
    {
        Err(error) => error,
        Ok(_) => panic!("nothing answers this"),
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable());
    until("the request is dropped", || handler.under_way() == 0).await;
    assert_eq!(
        answered(&ends, request("echo", "1")).await,
        "1",
        "the next one is answered"
    );
    ends.close().await;
}

/// A stream is let go when its caller leaves, whether it has something to say or not.
pub async fn a_caller_that_leaves_ends_its_stream(ends: Ends) {
    let handler = ends.open().await;
    for verb in ["tick", "silence"] {
        let mut frames = streamed(&ends, request(verb, "")).await;
        assert_eq!(frames.next().await.expect("a first message"), "{\"n\":0}");
        assert_eq!(handler.under_way(), 1);
        drop(frames);
        until(verb, || handler.under_way() == 0).await;
    }
    ends.close().await;
}

/// What requests say while a stream is open comes out of that stream at once, so that one can talk with a command.
pub async fn requests_pass_while_a_stream_is_open(ends: Ends) {
    let handler = ends.open().await;
    let mut heard = streamed(&ends, request("talk", "")).await;
    assert_eq!(heard.next().await.expect("a first message"), "{\"n\":0}");
    for n in 0..20 {
        let said = format!("\"{n}\"");
        assert_eq!(answered(&ends, request("say", &said)).await, said);
        assert_eq!(heard.next().await.expect("it is heard"), said);
    }
    answered(&ends, request("say", "")).await;
    assert_eq!(heard.next().await, None);
    until("the stream is let go", || handler.under_way() == 0).await;
    ends.close().await;
}

/// Nobody gets the answer of another.
pub async fn many_callers_get_their_own_answers(ends: Ends) {
    let _handler = ends.open().await;
    let ends = Arc::new(ends);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let ends = Arc::clone(&ends);
        callers.spawn(async move {
            for n in 0..25 {
                let text = format!("\"{caller}-{n}\"");
                assert_eq!(answered(&ends, request("echo", &text)).await, text);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("each caller got what it asked for");
    }
    ends.close().await;
}

/// Before the bus is open, and after it is closed, callers are told that nobody is there.
pub async fn nobody_there_is_unavailable(ends: Ends) {
    for _ in 0..2 {
        match ends.caller.call(request("echo", ""), PATIENCE).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
            Ok(_) => panic!("nobody is there to answer"),
        }
        if ends
            .bus_in
            .open(Arc::new(super::TestHandler::default()))
            .await
            .is_ok()
        {
            answered(&ends, request("echo", "")).await;
            ends.close().await;
        }
    }
}

/// Closing answers the requests it has, cuts streams with an error, and is success a second time.
pub async fn close_answers_what_it_has_and_cuts_streams(ends: Ends) {
    let handler = ends.open().await;
    let mut ticks = streamed(&ends, request("tick", "")).await;
    assert!(ticks.next().await.is_some());
    let slow = ends.caller.call(request("slow", ""), PATIENCE);
    let close = async {
        until("the request has come", || handler.under_way() == 2).await;
        ends.bus_in.close(PATIENCE).await
    };
    let rest = async {
        let mut last = Bytes::new();
        while let Some(frame) = ticks.next().await {
            last = frame;
        }
        last
    };
    let (slow, closed, last) = tokio::join!(slow, close, rest);
    match slow {
        Ok(Response::One { error: None, body }) => assert_eq!(body, "\"late\""),
        _ => panic!("the request was under way and is answered"),
    }
    assert_eq!(closed, Ok(()));
    let error = Error::from_frame(&last).expect("the stream's last message is an error");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(handler.under_way(), 0);
    ends.close().await;
}

/// Closing ends by its deadline whatever hangs, and says how many requests got no answer.
pub async fn close_says_what_got_no_answer(ends: Ends) {
    let handler = ends.open().await;
    let hang = ends.caller.call(request("hang", ""), PATIENCE);
    let close = async {
        until("the request has come", || handler.under_way() == 1).await;
        ends.bus_in.close(Duration::from_millis(100)).await
    };
    let (hang, closed) = tokio::join!(hang, close);
    match hang {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        Ok(_) => panic!("nothing answers this"),
    }
    let error = closed.expect_err("a request got no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains('1'), "{error}");
    until("the request is dropped", || handler.under_way() == 0).await;
}
