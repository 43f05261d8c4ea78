//! A driver on a substrate in memory, and calls with the defaults of the manager.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{AgentId, Guid, Kind, ObjectName, ObjectSpec, OpId};
use agent_api_driver::{
    Applied, ApplyRequest, Build, DeleteRequest, Deleted, DriverFactory, Handle, ObjectDriver, Observed,
    Result, Target,
};
use agent_driver_simulated::{SimulatedFactory, Substrate};
use serde_json::Value;

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn build_request(config: Value) -> Build {
    Build {
        agent: AgentId::new("a1").unwrap(),
        state_dir: "/nonexistent".into(),
        config,
    }
}

pub(crate) async fn driver(substrate: &Substrate, config: Value) -> Arc<dyn ObjectDriver> {
    SimulatedFactory::with_substrate(substrate.clone())
        .build(build_request(config))
        .await
        .unwrap()
}

pub(crate) fn spec(name: &str, spec: Value) -> ObjectSpec {
    let (kind, name) = (Kind::new("simulated").unwrap(), ObjectName::new(name).unwrap());
    ObjectSpec {
        spec,
        ..ObjectSpec::new(kind, name)
    }
}

pub(crate) async fn apply(
    driver: &dyn ObjectDriver,
    guid: Guid,
    op_id: OpId,
    spec: &ObjectSpec,
    handle: Option<&Handle>,
) -> Result<Applied> {
    let request = ApplyRequest {
        guid,
        generation: 1,
        op_id,
        maybe_applied: false,
        spec,
        handle,
        deadline: DEADLINE,
    };
    driver.apply(request).await
}

pub(crate) async fn create(driver: &dyn ObjectDriver, name: &str, value: Value) -> Result<(Guid, Handle)> {
    let guid = Guid::generate();
    let applied = apply(driver, guid, OpId::generate(), &spec(name, value), None).await?;
    Ok((guid, applied.handle))
}

pub(crate) async fn delete(driver: &dyn ObjectDriver, guid: Guid, handle: &Handle) -> Result<Deleted> {
    let request = DeleteRequest {
        guid,
        op_id: OpId::generate(),
        handle: Some(handle),
        grace: None,
        orphan: false,
        deadline: DEADLINE,
    };
    driver.delete(request).await
}

pub(crate) async fn observe(driver: &dyn ObjectDriver, guid: Guid, handle: &Handle) -> Vec<Observed> {
    let mut out = Vec::new();
    driver
        .observe(&[Target { guid, handle }], &mut out)
        .await
        .unwrap();
    out
}
