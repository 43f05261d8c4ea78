//! An agent that notes what it is asked.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_api_agent::{AgentApi, Change, ResultStream};
use agent_api_bus_in::{Access, Incoming, RequestHandler, Response};
use agent_api_model::*;
use agent_api_server::{Server, ServerConfig};
use async_trait::async_trait;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;

/// An agent with the objects it is given.
#[derive(Default)]
pub struct FakeAgent {
    pub objects: Vec<(Arc<ObjectView>, ObjectSpec)>,
    pub asked: Mutex<Vec<String>>,
    pub keys: Mutex<Vec<String>>,
    pub not_ready: bool,
    pub panics: bool,
    pub slow: Option<Duration>,
}

pub fn object(name: &str, app: &str, depends_on: &[&str]) -> (Arc<ObjectView>, ObjectSpec) {
    let mut spec = ObjectSpec::new("process".parse().unwrap(), name.parse().unwrap());
    spec.labels.insert("app".into(), app.into());
    spec.depends_on = depends_on
        .iter()
        .map(|name| Dependency {
            name: name.parse().unwrap(),
            condition: DependencyCondition::Running,
        })
        .collect();
    let view = ObjectView {
        guid: Guid(uuid::Uuid::from_u128(
            name.bytes().fold(7, |sum, b| sum * 31 + u128::from(b)),
        )),
        name: spec.name.clone(),
        kind: spec.kind.clone(),
        labels: Arc::new(spec.labels.clone()),
        phase: Phase::Running,
        since: Timestamp::EPOCH,
        created: Timestamp::EPOCH,
        generation: 1,
        observed_generation: 1,
        evidence: Evidence {
            source: EvidenceSource::Event,
            at: Timestamp::EPOCH,
            revision: 1,
        },
        resources: ResourcesView::default(),
        conditions: Vec::new(),
        details: Value::Null,
        restarts: 0,
        exit: None,
        health: None,
        operation: None,
        adopted: false,
    };
    (Arc::new(view), spec)
}

impl FakeAgent {
    pub fn with(objects: Vec<(Arc<ObjectView>, ObjectSpec)>) -> Self {
        Self {
            objects,
            ..Self::default()
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.asked.lock().push(what.into());
    }

    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    fn find(&self, target: &Target) -> Result<&(Arc<ObjectView>, ObjectSpec)> {
        self.objects
            .iter()
            .find(|(view, _)| match target {
                Target::Guid(guid) => view.guid == *guid,
                Target::Name(name) => view.name == *name,
            })
            .ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "there is no such object")
                    .with_object(target)
                    .with_hint("see `agent get`")
            })
    }
}

#[async_trait]
impl AgentApi for FakeAgent {
    async fn submit(&self, meta: RequestMeta, change: Change) -> Result<(Accepted, StageTimes)> {
        if self.panics {
            panic!("a fault on purpose");
        }
        if let Some(slow) = self.slow {
            tokio::time::sleep(slow).await;
        }
        let (verb, view) = match &change {
            Change::Create(spec) => ("create", object(spec.name.as_str(), "new", &[]).0),
            Change::Update(target, _) => ("update", self.find(target)?.0.clone()),
            Change::Delete(target, _) => ("delete", self.find(target)?.0.clone()),
            Change::Control(target, action) => (action.verb().as_str(), self.find(target)?.0.clone()),
        };
        if let Change::Control(_, ControlAction::Call { method, arguments }) = &change {
            self.note(format!("method {method} {arguments}"));
        }
        self.note(format!("{verb} {}", view.name));
        self.keys.lock().push(meta.key().to_string());
        let accepted = Accepted {
            guid: view.guid,
            name: view.name.clone(),
            generation: 1,
            op_id: OpId(uuid::Uuid::nil()),
            repeated: false,
        };
        Ok((accepted, StageTimes::default()))
    }

    fn describe(&self, target: &Target) -> Result<Description> {
        let (view, spec) = self.find(target)?;
        self.note("describe");
        Ok(Description {
            view: view.clone(),
            spec: Arc::new(spec.clone()),
            methods: vec![Verb::Pause],
            calls: BTreeMap::new(),
        })
    }

    fn list(&self, request: &ListRequest) -> Vec<Arc<ObjectView>> {
        self.note("list");
        self.objects
            .iter()
            .map(|(view, _)| view.clone())
            .filter(|view| request.selector.matches(&view.labels, &view.kind))
            .collect()
    }

    fn explain(&self, target: &Target) -> Result<Explanation> {
        let view = self.find(target)?.0.clone();
        self.note("explain");
        Ok(Explanation {
            view,
            history: Vec::new(),
            waiting_for: Vec::new(),
        })
    }

    fn watch(&self, _: &WatchRequest) -> Result<ResultStream<WatchEvent>> {
        self.note("watch");
        Ok(Box::pin(futures_util::stream::iter([
            Ok(WatchEvent::Synced),
            Err(Error::new(ErrorKind::Unavailable, "the agent is stopping")),
            Ok(WatchEvent::Synced),
        ])))
    }

    async fn plan(&self, _: &PlanRequest) -> Result<Plan> {
        self.note("plan");
        Ok(Plan::new(PlanAction::NoOp, Vec::new()))
    }

    async fn monitor(&self, request: &MonitorRequest) -> Result<Lease> {
        self.note("monitor");
        Ok(Lease {
            id: LeaseId(uuid::Uuid::nil()),
            guid: None,
            selector: request.selector.clone(),
            signals: request.signals.clone(),
            interval: request.interval,
            topic: "agent.out.a1.metric".into(),
            json: false,
            expires: None,
            ttl: Some(request.ttl),
        })
    }

    async fn unmonitor(&self, _: LeaseId) -> Result<()> {
        self.note("unmonitor");
        Ok(())
    }

    async fn logs(&self, target: &Target, _: &LogRequest) -> Result<ResultStream<LogFrame>> {
        self.find(target)?;
        self.note("logs");
        Ok(Box::pin(futures_util::stream::pending()))
    }

    async fn exec(&self, caller: &str, target: &Target, _: &ExecRequest) -> Result<ResultStream<ExecFrame>> {
        self.find(target)?;
        self.note(format!("exec by {caller}"));
        Ok(Box::pin(futures_util::stream::empty()))
    }

    async fn exec_input(&self, caller: &str, request: &ExecInputRequest) -> Result<()> {
        if request.session == "gone" {
            return Err(Error::new(ErrorKind::NotFound, "there is no such session"));
        }
        self.note(format!("exec_input {:?} by {caller}", request.input));
        Ok(())
    }

    fn info(&self) -> AgentInfo {
        self.note("info");
        AgentInfo {
            agent: "a1".parse().unwrap(),
            version: "0.1.0".into(),
            pid: 1,
            started: Timestamp::EPOCH,
            health: HealthReport::default(),
            tasks: BTreeMap::new(),
            objects: BTreeMap::new(),
            drivers: Vec::new(),
            buses: Vec::new(),
            queues: BTreeMap::new(),
            journal: JournalInfo::default(),
            counters: BTreeMap::new(),
        }
    }

    fn drivers(&self) -> Vec<DriverView> {
        self.note("drivers");
        Vec::new()
    }

    fn schema(&self, kind: &Kind) -> Result<Value> {
        self.note("schema");
        if kind.as_str() == "process" {
            return Ok(serde_json::json!({"type": "object"}));
        }
        Err(Error::new(ErrorKind::NotFound, "there is no such kind").with_hint("known kinds: process"))
    }

    fn health(&self) -> HealthReport {
        HealthReport {
            ready: !self.not_ready,
            live: true,
            draining: false,
            problems: if self.not_ready {
                vec!["recovery is under way".into()]
            } else {
                Vec::new()
            },
        }
    }

    async fn drain(&self, _: Duration) -> Result<()> {
        self.note("drain");
        Ok(())
    }

    async fn reload(&self) -> Result<Vec<String>> {
        self.note("reload");
        Ok(vec!["log level: info to debug".into()])
    }
}

pub fn server(agent: &Arc<FakeAgent>) -> Server {
    Server::new(agent.clone(), ServerConfig::default())
}

pub fn request(verb: &str, object: Option<&str>, body: &str) -> Incoming {
    Incoming {
        verb: verb.into(),
        object: object.map(Into::into),
        id: Some("r-1".into()),
        caller: "uid:1000".into(),
        access: Access::Full,
        payload: body.to_owned().into(),
        received: Timestamp::now(),
        ..Incoming::default()
    }
}

/// The reply; what a stream brings is put in a list.
pub async fn answer(server: &Server, incoming: Incoming) -> (Option<ErrorKind>, Value) {
    match server.handle(incoming).await {
        Response::One { error, body } => (error, serde_json::from_slice(&body).unwrap()),
        Response::Text { body, .. } => (None, String::from_utf8(body.to_vec()).unwrap().into()),
        Response::Stream(frames) => {
            // A stream that never ends: what is there at once.
            let frames = frames.take_until(tokio::time::sleep(Duration::from_millis(20)));
            let values = frames.map(|frame| serde_json::from_slice::<Value>(&frame).unwrap());
            (None, values.collect::<Vec<_>>().await.into())
        }
    }
}

/// The error's sentence, with path and hint, as a person sees it; `fine` where there is none.
pub async fn sentence(server: &Server, incoming: Incoming) -> String {
    let (_, reply) = answer(server, incoming).await;
    match reply.get("error") {
        None => "fine".into(),
        Some(error) => {
            let error: Error = serde_json::from_value(error.clone()).unwrap();
            format!("{}: {error}", error.kind())
        }
    }
}
