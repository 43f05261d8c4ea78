//! Calls of extensions as the manager makes them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use agent_api_driver::model::{Guid, Result};
use agent_api_driver::{
    Applied, Control, ControlRequest, Exec, ExecInput, ExecRequest, ExecStream, Handle, InputStream,
    LogReadRequest, LogStreamOut, Logs, Probe, ProbeOutcome, ProbeRequest, Target, async_trait,
};
use futures_util::{Stream, StreamExt, stream};

use super::driver::lacks;
use super::persistent::Persistent;

#[async_trait]
impl Control for Persistent {
    async fn control(&self, request: ControlRequest<'_>) -> Result<Applied> {
        let control = self.inner.control().ok_or_else(|| lacks("control"))?;
        let mut tries = self.tries(request.deadline);
        loop {
            let call = control.control(ControlRequest {
                maybe_applied: request.maybe_applied || tries.repeats(),
                deadline: tries.deadline(),
                ..request.clone()
            });
            if let Some(result) = tries.once(call).await {
                return result;
            }
        }
    }
}

#[async_trait]
impl Logs for Persistent {
    async fn read(&self, target: Target<'_>, request: LogReadRequest) -> Result<LogStreamOut> {
        let mut reading = Reading {
            driver: self.clone(),
            guid: target.guid,
            handle: target.handle.clone(),
            request,
            stream: Box::pin(stream::empty()),
        };
        reading.open().await?;
        Ok(Box::pin(stream::unfold(reading, |mut reading| async move {
            let item = reading.next().await?;
            Some((item, reading))
        })))
    }
}

/// A stream of logs that goes on from its last cursor where it breaks off.
struct Reading {
    driver: Persistent,
    guid: Guid,
    handle: Handle,
    request: LogReadRequest,
    stream: LogStreamOut,
}

impl Reading {
    async fn open(&mut self) -> Result<()> {
        let logs = self.driver.inner.logs().ok_or_else(|| lacks("logs"))?;
        let target = Target {
            guid: self.guid,
            handle: &self.handle,
        };
        let mut tries = self.driver.tries(self.driver.patience);
        loop {
            if let Some(result) = tries.once(logs.read(target, self.request.clone())).await {
                self.stream = result?;
                return Ok(());
            }
        }
    }

    async fn next(&mut self) -> Option<Result<agent_api_driver::LogChunk>> {
        loop {
            match self.stream.next().await {
                Some(Ok(chunk)) => {
                    self.request.cursor = Some(chunk.cursor.clone());
                    self.request.tail = None;
                    return Some(Ok(chunk));
                }
                Some(Err(error)) if error.is_retryable() && !self.driver.is_closed() => {
                    self.stream = Box::pin(stream::empty());
                    if let Err(error) = self.open().await {
                        return Some(Err(error));
                    }
                }
                other => return other,
            }
        }
    }
}

#[async_trait]
impl Exec for Persistent {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        let exec = self.inner.exec().ok_or_else(|| lacks("exec"))?;
        let input = Shared(Arc::new(Mutex::new(input)));
        let mut tries = self.tries(self.patience);
        loop {
            let call = exec.exec(target, request.clone(), Box::pin(input.clone()));
            if let Some(result) = tries.once(call).await {
                return result;
            }
        }
    }
}

/// The input of a command that may be tried several times, of which only one reads it.
#[derive(Clone)]
struct Shared(Arc<Mutex<InputStream>>);

impl Stream for Shared {
    type Item = ExecInput;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ExecInput>> {
        let mut input = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        input.as_mut().poll_next(cx)
    }
}

#[async_trait]
impl Probe for Persistent {
    async fn probe(&self, request: ProbeRequest<'_>) -> Result<ProbeOutcome> {
        let probe = self.inner.probe().ok_or_else(|| lacks("probe"))?;
        let mut tries = self.tries(self.patience);
        loop {
            let call = probe.probe(ProbeRequest {
                timeout: request.timeout.min(tries.deadline()),
                ..request.clone()
            });
            if let Some(result) = tries.once(call).await {
                return result;
            }
        }
    }
}
