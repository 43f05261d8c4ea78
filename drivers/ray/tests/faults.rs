//! Faults that a real head cannot be made to show on command, from a head that is only a few answers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_api_driver::model::{AgentId, ErrorKind, Guid, Kind, ObjectName, ObjectSpec, OpId};
use agent_api_driver::{
    Applied, ApplyRequest, Build, DriverFactory, Error, Handle, ObjectDriver, ObjectState, ShutdownMode,
    Target,
};
use agent_driver_ray::RayDriverFactory;
use serde_json::{Value, json};

/// What becomes of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Submit {
    Answered,
    /// It is taken, and the connection breaks off.
    TakenWithoutAnswer,
    /// It is not taken, and the connection breaks off.
    Lost,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<String, Value>,
    submit: Option<Submit>,
    requests: Vec<String>,
}

/// A head that is only a few answers.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let fake = Self::default();
        let serving = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        (fake, address)
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let length = head.iter().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            });
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            let mut words = head[0].split(' ');
            let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let Some((status, text)) = self.answer(&method, &path, &body) else {
                return;
            };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{text}",
                text.len()
            )
            .unwrap();
        }
    }

    /// None breaks the connection off.
    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut state = self.0.lock().unwrap();
        state.requests.push(format!("{method} {path}"));
        let id = path
            .trim_start_matches("/api/jobs/")
            .trim_end_matches("/stop")
            .to_owned();
        Some(match (method, path) {
            ("GET", "/api/version") => (
                200,
                json!({"ray_version": "2.60.0", "session_name": "session_a"}).to_string(),
            ),
            ("GET", "/api/jobs/") => (200, json!(state.jobs.values().collect::<Vec<_>>()).to_string()),
            ("POST", "/api/jobs/") => {
                let job: Value = serde_json::from_slice(body).unwrap();
                let id = job["submission_id"].as_str().unwrap().to_owned();
                if state.jobs.contains_key(&id) {
                    return Some((
                        500,
                        format!("ValueError: Job with submission_id {id} already exists."),
                    ));
                }
                let submit = state.submit.take().unwrap_or(Submit::Answered);
                if submit != Submit::Lost {
                    let info = json!({
                        "type": "SUBMISSION", "submission_id": id, "status": "RUNNING", "entrypoint": job["entrypoint"],
                        "metadata": job["metadata"], "driver_node_id": "n"
                    });
                    state.jobs.insert(id.clone(), info);
                }
                if submit != Submit::Answered {
                    return None;
                }
                (200, json!({"submission_id": id}).to_string())
            }
            ("GET", _) if path.starts_with("/api/jobs/") => match state.jobs.get(&id) {
                Some(job) => (200, job.to_string()),
                None => (404, format!("Job {id} does not exist")),
            },
            ("POST", _) => {
                state.jobs.get_mut(&id)?["status"] = json!("STOPPED");
                (200, json!({"stopped": true}).to_string())
            }
            ("DELETE", _) => {
                state.jobs.remove(&id);
                (200, json!({"deleted": true}).to_string())
            }
            _ => (
                200,
                json!({"result": true, "msg": "", "data": {"result": {"result": []}}}).to_string(),
            ),
        })
    }

    fn set(&self, submit: Submit) {
        self.0.lock().unwrap().submit = Some(submit);
    }

    fn end_all(&self, status: &str) {
        for job in self.0.lock().unwrap().jobs.values_mut() {
            job["status"] = json!(status);
        }
    }

    /// The requests since the last time.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }
}

struct Agent {
    driver: Arc<dyn ObjectDriver>,
    _dir: tempfile::TempDir,
}

async fn agent(address: &str) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let cluster =
        json!({"address": address, "poll": {"fast": "1h", "busy": "1h", "idle": "1h", "audit": "1h"}});
    let build = Build {
        agent: AgentId::new("faults").unwrap(),
        state_dir: dir.path().to_owned(),
        config: json!({"clusters": {"default": cluster}}),
    };
    Agent {
        driver: RayDriverFactory.build(build).await.unwrap(),
        _dir: dir,
    }
}

impl Agent {
    async fn apply(&self, guid: Guid, op_id: OpId, maybe_applied: bool) -> Result<Applied, Error> {
        let spec = ObjectSpec {
            spec: json!({"command": ["sleep", "1"]}),
            ..ObjectSpec::new(Kind::new("ray/job").unwrap(), ObjectName::new("j").unwrap())
        };
        let request = ApplyRequest {
            guid,
            generation: 1,
            op_id,
            maybe_applied,
            spec: &spec,
            handle: None,
            deadline: Duration::from_secs(30),
        };
        self.driver.apply(request).await
    }

    async fn end(self) {
        self.driver
            .shutdown(ShutdownMode::LeaveRunning, Duration::from_secs(10))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_submit_whose_reply_is_lost_is_resolved_by_its_id() {
    let (fake, address) = Fake::start();
    let agent = agent(&address).await;
    fake.set(Submit::TakenWithoutAnswer);
    let applied = agent
        .apply(Guid::generate(), OpId::generate(), false)
        .await
        .unwrap();
    assert_eq!(applied.status.state, ObjectState::Running);

    // One that was not taken is an error that may be repeated, and then it is submitted with the same id.
    let (guid, op_id) = (Guid::generate(), OpId::generate());
    fake.set(Submit::Lost);
    let error = agent.apply(guid, op_id, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let named = error
        .context()
        .iter()
        .find(|(key, _)| key == "submission_id")
        .unwrap()
        .1
        .clone();
    assert!(error.is_retryable());
    let applied = agent.apply(guid, op_id, true).await.unwrap();
    assert_eq!(applied.handle.data["id"], named.as_str());
    assert_eq!(fake.0.lock().unwrap().jobs.len(), 2, "each was submitted once");
    agent.end().await;
}

#[tokio::test]
async fn an_id_that_is_taken_by_another_is_not_used() {
    let (fake, address) = Fake::start();
    let agent = agent(&address).await;
    let guid = Guid::generate();
    let id = format!("j-{guid}-1");
    let other = json!({"submission_id": id, "status": "RUNNING", "entrypoint": "x", "metadata": null});
    fake.0.lock().unwrap().jobs.insert(id.clone(), other.clone());
    let applied = agent.apply(guid, OpId::generate(), false).await.unwrap();
    assert_eq!(applied.handle.data["attempt"], 2);
    assert_eq!(fake.0.lock().unwrap().jobs[&id], other);
    agent.end().await;
}

#[tokio::test]
async fn a_history_costs_nothing() {
    let (fake, address) = Fake::start();
    let agent = agent(&address).await;
    let mut made: Vec<(Guid, Handle)> = Vec::new();
    for _ in 0..200 {
        let guid = Guid::generate();
        let applied = agent.apply(guid, OpId::generate(), false).await.unwrap();
        made.push((guid, applied.handle));
    }
    fake.end_all("SUCCEEDED");
    let targets: Vec<Target<'_>> = made
        .iter()
        .map(|(guid, handle)| Target { guid: *guid, handle })
        .collect();
    let mut out = Vec::new();
    agent.driver.observe(&targets, &mut out).await.unwrap();
    assert!(
        out.iter()
            .all(|observed| observed.status.state == ObjectState::Exited)
    );
    fake.requests();
    out.clear();
    agent.driver.observe(&targets, &mut out).await.unwrap();
    assert_eq!(out.len(), 200);
    let of_jobs: Vec<String> = fake
        .requests()
        .into_iter()
        .filter(|r| r.contains("/api/jobs"))
        .collect();
    assert_eq!(of_jobs, [""; 0], "what has ended is not asked for again");
    agent.end().await;
}
