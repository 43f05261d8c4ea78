//! Ray's Jobs API.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::Result;
use agent_api_driver::model::ErrorKind;
use reqwest::Method;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::client::Client;

/// What Ray says of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum JobStatus {
    Pending,
    Running,
    Stopped,
    Succeeded,
    Failed,
    /// A word that this driver does not know.
    #[serde(other)]
    Other,
}

impl JobStatus {
    /// Whether it never changes again.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Succeeded | Self::Failed)
    }
}

/// One job as the head shows it. What the driver does not use is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobInfo {
    /// `SUBMISSION` for what came over the Jobs API, `DRIVER` for programs that connected by themselves.
    #[serde(rename = "type", default)]
    pub origin: String,
    #[serde(default)]
    pub submission_id: Option<String>,
    /// Ray's own id, once the program called `ray.init`.
    #[serde(default)]
    pub job_id: Option<String>,
    pub status: JobStatus,
    #[serde(default)]
    pub entrypoint: String,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub error_type: Option<String>,
    /// Of the submission, in milliseconds since 1970.
    #[serde(default)]
    pub start_time: Option<u64>,
    #[serde(default)]
    pub end_time: Option<u64>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub driver_node_id: Option<String>,
    #[serde(default)]
    pub driver_agent_http_address: Option<String>,
    /// The shell's; negative for a signal.
    #[serde(default)]
    pub driver_exit_code: Option<i32>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What is submitted. Fields without a value are left out: an older cluster refuses those it does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Submission {
    pub entrypoint: String,
    pub submission_id: String,
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub runtime_env: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint_num_cpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint_num_gpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint_memory: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entrypoint_resources: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entrypoint_label_selector: BTreeMap<String, String>,
}

impl Client {
    /// Submits a job. `AlreadyExists` where there is one of that id.
    pub(crate) async fn submit_job(&self, job: &Submission, left: Duration) -> Result<()> {
        self.write("jobs.submit", Method::POST, "/api/jobs/")
            .json(job)
            .within(left)
            .body()
            .await
            .map(drop)
    }

    /// The job of this id; none where the head knows none.
    pub(crate) async fn job(&self, id: &str, left: Duration) -> Result<Option<JobInfo>> {
        let answer = self
            .get("jobs.get", format!("/api/jobs/{id}"))
            .within(left)
            .json_answer()
            .await;
        absent(answer)
    }

    /// All jobs ever submitted whose record was not deleted.
    pub(crate) async fn jobs(&self) -> Result<Vec<JobInfo>> {
        self.list("jobs.list", "/api/jobs/").json_answer().await
    }

    /// Asks a job to end. `false` where it had ended, none where the head knows no such job. A job that is pending does not end by
    /// it: it has to be asked again once it runs.
    pub(crate) async fn stop_job(&self, id: &str, left: Duration) -> Result<Option<bool>> {
        #[derive(Deserialize)]
        struct Stopped {
            stopped: bool,
        }
        let answer: Result<Stopped> = self
            .write("jobs.stop", Method::POST, format!("/api/jobs/{id}/stop"))
            .within(left)
            .json_answer()
            .await;
        Ok(absent(answer)?.map(|stopped| stopped.stopped))
    }

    /// Deletes the record of a job that has ended. A record that is not there is success; one that has not ended is a `Conflict`.
    pub(crate) async fn delete_job(&self, id: &str, left: Duration) -> Result<()> {
        let answer = self
            .write("jobs.delete", Method::DELETE, format!("/api/jobs/{id}"))
            .within(left)
            .body()
            .await;
        absent(answer).map(drop)
    }

    /// Makes the job manager of the job's node look after it: after a restart of the head with durable state it does not by itself.
    pub(crate) async fn wake_job(&self, id: &str) -> Result<()> {
        self.get("jobs.wake", format!("/api/jobs/{id}/logs"))
            .send()
            .await
            .map(drop)
    }
}

fn absent<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_is_read_as_the_head_writes_it() {
        let info: JobInfo = serde_json::from_value(json!({
            "type": "SUBMISSION", "job_id": null, "submission_id": "t1", "driver_info": null, "status": "FAILED",
            "entrypoint": "exec false", "message": "Job entrypoint command failed with exit code 1", "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR",
            "start_time": 1_795_383_554_318_u64, "end_time": 1_795_383_555_000_u64, "metadata": null, "runtime_env": null,
            "driver_agent_http_address": "http://127.0.0.1:28269", "driver_node_id": "bfe3", "driver_exit_code": 1
        }))
        .unwrap();
        assert_eq!((info.status, info.driver_exit_code), (JobStatus::Failed, Some(1)));
        assert!(info.metadata.is_empty() && info.status.is_final());
        let newer: JobInfo = serde_json::from_value(json!({"status": "HIBERNATING", "field": 1})).unwrap();
        assert_eq!(newer.status, JobStatus::Other);
        assert!(!newer.status.is_final());
    }

    #[test]
    fn only_what_is_set_is_sent() {
        let job = Submission {
            entrypoint: "exec true".into(),
            submission_id: "a-1".into(),
            entrypoint_num_cpus: Some(0.5),
            ..Submission::default()
        };
        assert_eq!(
            serde_json::to_value(&job).unwrap(),
            json!({"entrypoint": "exec true", "submission_id": "a-1", "metadata": {}, "entrypoint_num_cpus": 0.5})
        );
    }
}
