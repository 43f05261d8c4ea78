//! One case's world: a place, the driver built there, and what the case made.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use agent_api_driver::model::{Guid, ObjectName, ObjectSpec, OpId, Verb};
use agent_api_driver::{
    Applied, ApplyRequest, Capabilities, DeleteRequest, Deleted, Error, EventStream, Handle, Mark,
    ObjectDriver, ObjectState, Observed, Recovered, RecoveredState, ShutdownMode, Target,
};
use tokio::time::{Instant, sleep, timeout};

use crate::chaos::CaseChaos;
use crate::{Made, Place, Sample, Subject};

/// Why a case stopped before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(String),
    NotApplicable(String),
}

/// What a case returns.
pub(crate) type Verdict<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(format!("the driver answered with an error: {error:?}"))
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {{
        let holds: bool = $condition;
        if !holds {
            return Err($crate::trial::Stop::Failed(format!($($message)+)));
        }
    }};
}
pub(crate) use ensure;

/// Fails the case unless the value has this shape.
macro_rules! ensure_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)?, $what:literal) => {{
        let value = $value;
        if !matches!(&value, $pattern $(if $guard)?) {
            return Err($crate::trial::Stop::Failed(format!(
                concat!($what, ": expected ", stringify!($pattern $(if $guard)?), ", got {:?}"),
                value
            )));
        }
        value
    }};
}
pub(crate) use ensure_matches;

/// Ends the case as not applicable unless the condition holds.
pub(crate) fn needs(condition: bool, what: &str) -> Verdict {
    if condition {
        Ok(())
    } else {
        Err(Stop::NotApplicable(format!("the driver cannot {what}")))
    }
}

/// Ends the case as not applicable where the subject has no such part.
pub(crate) fn offered<T>(part: Option<T>, what: &str) -> Verdict<T> {
    part.ok_or_else(|| Stop::NotApplicable(format!("the subject has no {what}")))
}

/// What `delete` is asked; the defaults are a delete as the manager makes it.
#[derive(Default)]
pub(crate) struct DeleteArgs {
    pub(crate) op_id: Option<OpId>,
    pub(crate) grace: Option<Duration>,
    pub(crate) orphan: bool,
    pub(crate) deadline: Option<Duration>,
}

pub(crate) struct Trial<'a> {
    pub(crate) subject: &'a dyn Subject,
    pub(crate) place: Place,
    /// What stands between the cases and the driver, where there is anything.
    chaos: Option<&'a CaseChaos>,
    driver: Mutex<Option<Arc<dyn ObjectDriver>>>,
    made: Mutex<Vec<(Guid, Option<Handle>)>>,
    named: AtomicU32,
}

impl<'a> Trial<'a> {
    pub(crate) async fn new(subject: &'a dyn Subject, chaos: Option<&'a CaseChaos>) -> Verdict<Self> {
        let place = Place::new().map_err(|error| Stop::Failed(format!("no temporary directory: {error}")))?;
        let trial = Self {
            subject,
            place,
            chaos,
            driver: Mutex::default(),
            made: Mutex::default(),
            named: AtomicU32::new(0),
        };
        trial.build_again().await?;
        Ok(trial)
    }

    /// Ends the case as not applicable under chaos: it asks for something exact that chaos itself breaks.
    pub(crate) fn without_chaos(&self, why: &str) -> Verdict {
        match self.chaos {
            Some(_) => Err(Stop::NotApplicable(format!("chaos is on, and {why}"))),
            None => Ok(()),
        }
    }

    /// Whether calls may have had their effect twice that the contract does not protect by their `op_id`.
    pub(crate) fn repeats_calls(&self) -> bool {
        self.chaos.is_some()
    }

    /// The driver as it is built now.
    pub(crate) fn driver(&self) -> Arc<dyn ObjectDriver> {
        self.driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .expect("cases end the driver only by build_again")
    }

    fn take_driver(&self) -> Option<Arc<dyn ObjectDriver>> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set_driver(&self, driver: Arc<dyn ObjectDriver>) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
    }

    pub(crate) fn patience(&self) -> Duration {
        self.subject.patience()
    }

    pub(crate) fn capabilities(&self) -> Verdict<Capabilities> {
        let kind = self.subject.kind();
        self.driver()
            .capabilities(&kind)
            .cloned()
            .ok_or_else(|| Stop::Failed(format!("no capabilities for {kind}, which the subject tests")))
    }

    /// Ends the driver as an agent does that is stopped.
    pub(crate) async fn shut_down(&self, mode: ShutdownMode) -> Verdict {
        if let Some(driver) = self.take_driver() {
            driver.shutdown(mode, self.patience()).await?;
        }
        Ok(())
    }

    /// Ends the driver as a crash of the agent does.
    pub(crate) async fn crash(&self) {
        if let Some(driver) = self.take_driver() {
            self.subject.crash(&self.place, driver).await;
        }
    }

    /// Builds the driver again on the same state, where it was ended.
    pub(crate) async fn build_again(&self) -> Verdict<Arc<dyn ObjectDriver>> {
        let mut driver = self.subject.build(&self.place).await?;
        if let Some(chaos) = self.chaos {
            driver = chaos.around(driver, self.patience());
        }
        self.set_driver(driver.clone());
        Ok(driver)
    }

    /// A stop and a start of the agent; objects go on.
    pub(crate) async fn restart_driver(&self) -> Verdict<Arc<dyn ObjectDriver>> {
        self.shut_down(ShutdownMode::LeaveRunning).await?;
        self.build_again().await
    }

    /// A crash and a start of the agent.
    pub(crate) async fn crash_driver(&self) -> Verdict<Arc<dyn ObjectDriver>> {
        self.crash().await;
        self.build_again().await
    }

    /// A sample with a name of its own.
    pub(crate) fn sample(&self, sample: Sample) -> Verdict<ObjectSpec> {
        Ok(self.named(offered(
            self.subject.sample(sample),
            &format!("sample {sample:?}"),
        )?))
    }

    /// The spec of a changed sample under the name of the object that is changed.
    pub(crate) fn changed(&self, object: &Made, sample: Sample) -> Verdict<ObjectSpec> {
        let mut spec = self.sample(sample)?;
        spec.name = object.spec.name.clone();
        Ok(spec)
    }

    pub(crate) fn named(&self, mut spec: ObjectSpec) -> ObjectSpec {
        let n = self.named.fetch_add(1, Ordering::Relaxed);
        spec.name = ObjectName::new(format!("conformance-{n}")).expect("letters, '-' and digits");
        spec
    }

    fn note(&self, guid: Guid, handle: Option<Handle>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match made.iter_mut().find(|(known, _)| *known == guid) {
            Some((_, known)) => *known = handle.or(known.take()),
            None => made.push((guid, handle)),
        }
    }

    /// Leaves this object out of the clean-up.
    pub(crate) fn forget(&self, guid: Guid) {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(known, _)| *known != guid);
    }

    /// One `apply`, as the manager makes it.
    pub(crate) async fn apply(
        &self,
        guid: Guid,
        op_id: OpId,
        spec: &ObjectSpec,
        handle: Option<&Handle>,
        maybe_applied: bool,
    ) -> Result<Applied, Error> {
        self.note(guid, None);
        let deadline = self.patience();
        let request = ApplyRequest {
            guid,
            generation: 1,
            op_id,
            maybe_applied,
            spec,
            handle,
            deadline,
        };
        let applied = self.driver().apply(request).await?;
        self.note(guid, Some(applied.handle.clone()));
        Ok(applied)
    }

    /// A new object of this spec.
    pub(crate) async fn create(&self, spec: ObjectSpec) -> Verdict<Made> {
        let (guid, op_id) = (Guid::generate(), OpId::generate());
        let Applied { handle, status, .. } = self.apply(guid, op_id, &spec, None, false).await?;
        Ok(Made {
            guid,
            op_id,
            spec,
            handle,
            status,
        })
    }

    /// A new object of this sample that has been seen to run.
    pub(crate) async fn running(&self, sample: Sample) -> Verdict<Made> {
        let object = self.create(self.sample(sample)?).await?;
        self.until_state(&object, ObjectState::Running).await?;
        Ok(object)
    }

    /// A new object that has been seen to end by itself.
    pub(crate) async fn ended(&self, code: i32) -> Verdict<Made> {
        needs(self.capabilities()?.ends, "let objects end by themselves")?;
        let object = self
            .create(self.sample(Sample::Ends {
                after: Duration::ZERO,
                code,
            })?)
            .await?;
        self.until_state(&object, ObjectState::Exited).await?;
        Ok(object)
    }

    /// The object as it is after another `apply` or a control call.
    pub(crate) fn after(&self, object: &Made, applied: Applied) -> Made {
        self.note(object.guid, Some(applied.handle.clone()));
        Made {
            handle: applied.handle,
            status: applied.status,
            ..object.clone()
        }
    }

    pub(crate) async fn delete(&self, object: &Made) -> Result<Deleted, Error> {
        self.delete_with(object.guid, Some(&object.handle), DeleteArgs::default())
            .await
    }

    pub(crate) async fn delete_with(
        &self,
        guid: Guid,
        handle: Option<&Handle>,
        args: DeleteArgs,
    ) -> Result<Deleted, Error> {
        let request = DeleteRequest {
            guid,
            op_id: args.op_id.unwrap_or_else(OpId::generate),
            handle,
            grace: args.grace,
            orphan: args.orphan,
            deadline: args.deadline.unwrap_or_else(|| self.patience()),
        };
        self.driver().delete(request).await
    }

    /// What `observe` says of one object now.
    pub(crate) async fn observe(&self, guid: Guid, handle: &Handle) -> Verdict<Observed> {
        let mut out = Vec::new();
        self.driver()
            .observe(&[Target { guid, handle }], &mut out)
            .await?;
        ensure!(
            out.len() == 1,
            "observe of one target added {} entries: {out:?}",
            out.len()
        );
        let observed = out.remove(0);
        ensure!(
            observed.guid == guid,
            "observe of {guid} answered for {}",
            observed.guid
        );
        Ok(observed)
    }

    pub(crate) async fn state(&self, object: &Made) -> Verdict<ObjectState> {
        Ok(self.observe(object.guid, &object.handle).await?.status.state)
    }

    /// Waits until `observe` shows this state.
    pub(crate) async fn until_state(&self, object: &Made, wanted: ObjectState) -> Verdict<Observed> {
        self.until(&format!("observe shows {wanted:?}"), async || {
            let observed = self.observe(object.guid, &object.handle).await?;
            Ok(if observed.status.state == wanted {
                Ok(observed)
            } else {
                Err(format!("{observed:?}"))
            })
        })
        .await
    }

    /// Waits until `observe` shows that it runs no more.
    pub(crate) async fn until_ended(&self, object: &Made) -> Verdict<Observed> {
        self.until("observe shows its end", async || {
            let observed = self.observe(object.guid, &object.handle).await?;
            let ended = matches!(observed.status.state, ObjectState::Exited | ObjectState::Gone);
            Ok(if ended {
                Ok(observed)
            } else {
                Err(format!("{observed:?}"))
            })
        })
        .await
    }

    /// Waits until the check has a value; its text says what was seen instead.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut check: impl AsyncFnMut() -> Verdict<Result<T, String>>,
    ) -> Verdict<T> {
        let began = Instant::now();
        let mut wait = Duration::from_millis(1);
        loop {
            match check().await? {
                Ok(value) => return Ok(value),
                Err(seen) if began.elapsed() > self.patience() => {
                    return Err(Stop::Failed(format!(
                        "waited {:?} until {what}; last: {seen}",
                        self.patience()
                    )));
                }
                Err(_) => sleep(wait).await,
            }
            // A slow substrate is not asked as often as a fast one: 50 ms where the patience is 10 s.
            wait = (wait * 2).min(self.patience() / 200);
        }
    }

    /// Fails where the call does not end in time.
    pub(crate) async fn in_time<T>(
        &self,
        what: &str,
        limit: Duration,
        call: impl Future<Output = T>,
    ) -> Verdict<T> {
        timeout(limit, call)
            .await
            .map_err(|_| Stop::Failed(format!("{what} did not end within {limit:?}")))
    }

    pub(crate) async fn recover(&self, objects: &[&Made]) -> Verdict<Vec<Recovered>> {
        let targets: Vec<_> = objects
            .iter()
            .map(|object| Target {
                guid: object.guid,
                handle: &object.handle,
            })
            .collect();
        let answers = self.driver().recover(&targets).await?;
        ensure!(
            answers.len() == targets.len(),
            "{} targets, {} answers: {answers:?}",
            targets.len(),
            answers.len()
        );
        for answer in &answers {
            if let RecoveredState::Adopted(_, Some(handle)) = &answer.state {
                self.note(answer.guid, Some(handle.clone()));
            }
        }
        Ok(answers)
    }

    /// What became of one object.
    pub(crate) async fn recover_one(&self, object: &Made) -> Verdict<RecoveredState> {
        let answer = self.recover(&[object]).await?.remove(0);
        ensure!(
            answer.guid == object.guid,
            "recover of {} answered for {}",
            object.guid,
            answer.guid
        );
        Ok(answer.state)
    }

    /// The object as recovered; fails where it is not adopted.
    pub(crate) async fn adopt(&self, object: &Made) -> Verdict<Made> {
        match self.recover_one(object).await? {
            RecoveredState::Adopted(status, handle) => Ok(Made {
                handle: handle.unwrap_or_else(|| object.handle.clone()),
                status,
                ..object.clone()
            }),
            other => Err(Stop::Failed(format!("expected Adopted, got {other:?}"))),
        }
    }

    pub(crate) async fn discover(&self) -> Verdict<Vec<(Mark, Handle)>> {
        needs(self.capabilities()?.discoverable, "discover")?;
        Ok(self.driver().discover().await?)
    }

    /// What is found of one object; empty also where the driver cannot discover.
    pub(crate) async fn found(&self, guid: Guid) -> Verdict<Vec<(Mark, Handle)>> {
        if !self.capabilities()?.discoverable {
            return Ok(Vec::new());
        }
        Ok(self
            .discover()
            .await?
            .into_iter()
            .filter(|(mark, _)| mark.guid == guid)
            .collect())
    }

    /// The driver's one stream of events.
    pub(crate) fn events(&self) -> EventStream {
        self.driver().events()
    }

    pub(crate) fn identity(&self, object: &Made) -> serde_json::Value {
        self.subject.identity(&object.handle, &object.status)
    }

    /// Checks that the driver can do this and has the extension for it.
    pub(crate) fn verb(&self, verb: Verb) -> Verdict {
        let capabilities = self.capabilities()?;
        let can = match verb {
            Verb::Restart => capabilities.restart,
            _ => capabilities.control_verbs().contains(&verb),
        };
        needs(can, verb.as_str())
    }

    /// Deletes all that was made so far.
    pub(crate) async fn clear(&self) -> Verdict {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        for (guid, handle) in made {
            let args = DeleteArgs {
                grace: Some(Duration::from_millis(100)),
                ..DeleteArgs::default()
            };
            let deleted = self.delete_with(guid, handle.as_ref(), args).await?;
            ensure!(
                deleted.left.is_empty(),
                "delete of {guid} left {:?}",
                deleted.left
            );
        }
        Ok(())
    }

    /// Deletes all that was made and says what is left then.
    pub(crate) async fn clean_up(&self) -> Verdict {
        if self
            .driver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
        {
            self.build_again().await?;
        }
        self.clear().await?;
        if self.capabilities()?.discoverable {
            self.until("discover finds nothing after all was deleted", async || {
                let found = self.discover().await?;
                Ok(if found.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{found:?}"))
                })
            })
            .await?;
        }
        self.until("nothing is left over after all was deleted", async || {
            let left = self.subject.leftovers(&self.place).await;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            })
        })
        .await?;
        self.shut_down(ShutdownMode::StopObjects).await
    }
}

/// Polls at most so often and drops the future then: a cancellation at each of its awaits in turn.
pub(crate) async fn cancelled_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut polled = 0;
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if polled == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The value, and how often it was polled for it.
pub(crate) async fn counted<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut polled = 0;
    let mut future = std::pin::pin!(future);
    let value = std::future::poll_fn(|cx| {
        polled += 1;
        future.as_mut().poll(cx)
    })
    .await;
    (value, polled)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn three_polls() -> u8 {
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        7
    }

    #[tokio::test]
    async fn a_future_is_cancelled_after_each_of_its_polls() {
        assert_eq!(counted(three_polls()).await, (7, 3));
        for polls in 0..3 {
            assert_eq!(cancelled_after(polls, three_polls()).await, None, "{polls}");
        }
        assert_eq!(cancelled_after(3, three_polls()).await, Some(7));
        assert_eq!(cancelled_after(9, three_polls()).await, Some(7));
    }
}
