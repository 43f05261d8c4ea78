//! Performing what the manager decided.

use std::collections::HashMap;
use std::sync::Arc;

use agent_api::driver::Handle;
use agent_api::manager::{FollowUp, WakeReason};
use agent_api::model::{Guid, Lease, LeaseId, MonitorSpec, ObjectView, Selector, Signal};
use agent_api::reporter::Report;

use super::shard::{Shard, Timer};
use crate::counters::count;

/// The leases of the objects' own `monitor` parts.
#[derive(Default)]
pub(crate) struct OwnMonitors(HashMap<Guid, (MonitorSpec, Vec<LeaseId>)>);

impl Shard {
    /// Performs follow-ups in order, with what they lead to.
    pub(super) fn perform(&mut self, follow_ups: Vec<FollowUp>) {
        self.follow_ups.extend(follow_ups);
        while let Some(follow_up) = self.follow_ups.pop_front() {
            self.follow(follow_up);
        }
    }

    fn follow(&mut self, follow_up: FollowUp) {
        match follow_up {
            FollowUp::Run(operation) => self.operations.begin(*operation),
            FollowUp::Cancel(op_id) => {
                if self.operations.cancel(op_id) {
                    count(&self.shared.counters.operations_cancelled);
                }
            }
            FollowUp::Wake(wake) if wake.after.is_zero() => {
                self.wheel.remove(&Timer::Wake(wake.guid, wake.reason));
                let now = self.shared.clock.now();
                let more = self.partition.wake(wake.guid, wake.reason, now);
                self.follow_ups.extend(more);
            }
            FollowUp::Wake(wake) => self.wake_later(wake.guid, wake.reason, wake.after),
            FollowUp::Unwake(guid, reason) => {
                self.wheel.remove(&Timer::Wake(guid, reason));
            }
            FollowUp::Publish(event) => self.shared.reporter.report(Report::Lifecycle(event)),
            FollowUp::Changed(view) => self.shared.hub.changed(&view),
            FollowUp::Collect { view, handle } => self.collect(&view, &handle),
            FollowUp::StopCollecting(guid) => self.shared.collector.remove(guid),
            FollowUp::Register(view) => self.shared.reporter.register(&view),
            FollowUp::Withdraw(guid) => {
                self.end_monitor(guid);
                self.shared.reporter.withdraw(guid);
            }
            FollowUp::Notify(guid) if self.shared.manager.shard_of(guid) == self.id => {
                let more = self.partition.dependency_changed(guid, self.shared.clock.now());
                self.follow_ups.extend(more);
            }
            FollowUp::Notify(guid) => self.shared.door_of(guid).mail.dependency_changed(guid),
            FollowUp::Gone(view) => {
                self.end_monitor(view.guid);
                for reason in [WakeReason::Retry, WakeReason::Probe] {
                    self.wheel.remove(&Timer::Wake(view.guid, reason));
                }
                self.shared.collector.remove(view.guid);
                self.shared.hub.gone(&view);
            }
        }
    }

    /// Adds an object to what is collected from, and begins or changes the leases of its own `monitor` part.
    fn collect(&mut self, view: &Arc<ObjectView>, handle: &Arc<Handle>) {
        self.shared.collector.add(view, handle);
        let wanted = self
            .shared
            .manager
            .spec(view.guid)
            .and_then(|spec| spec.monitor.clone());
        let same = self.monitors.0.get(&view.guid).map(|(spec, _)| spec) == wanted.as_ref();
        if same {
            return;
        }
        self.end_monitor(view.guid);
        let Some(spec) = wanted else { return };
        let mut leases = Vec::new();
        for lease in self.own_leases(view.guid, &spec) {
            let id = lease.id;
            match self.shared.collector.start(lease) {
                Ok(()) => leases.push(id),
                Err(error) => {
                    tracing::warn!(object = %view.name, %error, "the object's own telemetry is not reported");
                }
            }
        }
        self.monitors.0.insert(view.guid, (spec, leases));
    }

    /// One lease where the object names a topic, else one for each signal on the agent's own topics.
    fn own_leases(&self, guid: Guid, spec: &MonitorSpec) -> Vec<Lease> {
        let lease = |signals: Vec<Signal>, topic: String| Lease {
            id: LeaseId::generate(),
            guid: Some(guid),
            selector: Selector::everything(),
            signals,
            interval: spec.interval,
            topic,
            json: false,
            expires: None,
            ttl: None,
        };
        if let Some(topic) = &spec.topic {
            return vec![lease(spec.signals.clone(), topic.clone())];
        }
        spec.signals
            .iter()
            .map(|signal| {
                let topic = match signal {
                    Signal::Metrics => self.shared.topics.metric(),
                    Signal::Logs => self.shared.topics.log(),
                    Signal::Traces => self.shared.topics.trace(),
                };
                lease(vec![*signal], topic.as_str().to_owned())
            })
            .collect()
    }

    fn end_monitor(&mut self, guid: Guid) {
        if let Some((_, leases)) = self.monitors.0.remove(&guid) {
            for lease in leases {
                self.shared.collector.stop(lease);
            }
        }
    }
}
