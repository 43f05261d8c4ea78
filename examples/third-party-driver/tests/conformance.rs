//! The agent's conformance suite, on this driver: one test for each line of the contract.

use std::path::PathBuf;
use std::sync::Arc;

use agent_api_driver::model::{Kind, ObjectSpec};
use agent_api_driver::{DriverFactory, Handle};
use agent_driver_file::FileFactory;
use agent_driver_testkit::{Made, Place, Refused, Sample, Subject, async_trait};
use serde_json::{Value, json};

struct Files;

fn file(spec: Value) -> ObjectSpec {
    serde_json::from_value(json!({"kind": "file", "name": "sample", "spec": spec})).expect("a spec")
}

/// Where the file of an object is: the driver's own layout, looked at past the driver.
fn directory(place: &Place, handle: &Handle) -> PathBuf {
    place
        .state_dir()
        .join(handle.data["file"].as_str().unwrap_or("none"))
}

#[async_trait]
impl Subject for Files {
    fn factory(&self) -> Arc<dyn DriverFactory> {
        Arc::new(FileFactory)
    }

    fn kind(&self) -> Kind {
        Kind::new("file").expect("a kind")
    }

    fn sample(&self, sample: Sample) -> Option<ObjectSpec> {
        match sample {
            Sample::LongRunning => Some(file(json!({"content": "hello"}))),
            Sample::ChangedInPlace => Some(file(json!({"content": "good morning"}))),
            // A file never ends, never restarts.
            _ => None,
        }
    }

    fn refused_by_validate(&self) -> Vec<Refused> {
        vec![Refused {
            spec: file(json!({"content": "x".repeat(65 << 10)})),
            path: "spec.content".into(),
        }]
    }

    async fn runs(&self, place: &Place, object: &Made) -> Option<bool> {
        Some(directory(place, &object.handle).join("content").exists())
    }

    async fn vanish(&self, place: &Place, object: &Made) -> bool {
        std::fs::remove_dir_all(directory(place, &object.handle)).is_ok()
    }
}

agent_driver_testkit::conformance!(Files);
agent_driver_testkit::conformance_with_chaos!(under_chaos, Files, 1);
