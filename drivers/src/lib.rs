//! The bundle: all drivers of the workspace, one feature each.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `process` | objects of kind `process`: processes of this host |
//! | `kubernetes` | objects of kinds `kubernetes/…`: manifests, deployments, jobs, pods, whole clusters |
//! | `ray` | objects of kinds `ray/…`: jobs, Serve applications, whole clusters |
//! | `simulated` | objects of kind `simulated`: nothing real, for tries, tests and load |
//! | `bus-http` | requests and reports over a Unix socket and a loopback port |
//! | `bus-memory` | requests and reports inside one program |
//!
//! [`factories()`] and [`buses()`] list what was compiled in. What is known and was not compiled in is listed too, and says
//! which feature it needs: a request for it gets an answer that helps.

mod buses;
#[cfg(feature = "bus-http")]
mod http;
mod missing;

use std::sync::Arc;

use agent_api_driver::DriverFactory;

#[cfg(feature = "bus-http")]
pub use agent_bus_http as bus_http;
#[cfg(feature = "bus-memory")]
pub use agent_bus_memory as bus_memory;
#[cfg(feature = "kubernetes")]
pub use agent_driver_kubernetes as kubernetes;
#[cfg(feature = "process")]
pub use agent_driver_process as process;
#[cfg(feature = "ray")]
pub use agent_driver_ray as ray;
#[cfg(feature = "simulated")]
pub use agent_driver_simulated as simulated;
pub use buses::{Bus, BusBuild, BusFactory, TOKEN_FILE, buses};

/// The factories of all object drivers, by name: those that were compiled in, and stubs for the others.
#[must_use]
pub fn factories() -> Vec<Arc<dyn DriverFactory>> {
    vec![
        #[cfg(feature = "kubernetes")]
        Arc::new(agent_driver_kubernetes::KubernetesDriverFactory),
        #[cfg(not(feature = "kubernetes"))]
        missing::driver(
            "kubernetes",
            &[
                "kubernetes/adopted",
                "kubernetes/cluster",
                "kubernetes/deployment",
                "kubernetes/job",
                "kubernetes/manifest",
                "kubernetes/pod",
            ],
        ),
        #[cfg(feature = "process")]
        Arc::new(agent_driver_process::ProcessDriverFactory),
        #[cfg(not(feature = "process"))]
        missing::driver("process", &["process"]),
        #[cfg(feature = "ray")]
        Arc::new(agent_driver_ray::RayDriverFactory),
        #[cfg(not(feature = "ray"))]
        missing::driver("ray", &["ray/cluster", "ray/job", "ray/serve"]),
        #[cfg(feature = "simulated")]
        agent_driver_simulated::factory(),
        #[cfg(not(feature = "simulated"))]
        missing::driver("simulated", &["simulated"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(feature: &str) -> bool {
        let features = [
            ("kubernetes", cfg!(feature = "kubernetes")),
            ("process", cfg!(feature = "process")),
            ("ray", cfg!(feature = "ray")),
            ("simulated", cfg!(feature = "simulated")),
            ("bus-http", cfg!(feature = "bus-http")),
            ("bus-memory", cfg!(feature = "bus-memory")),
        ];
        features.contains(&(feature, true))
    }

    #[test]
    fn every_known_driver_is_listed_once() {
        let names: Vec<_> = factories()
            .iter()
            .map(|factory| factory.name().to_string())
            .collect();
        assert_eq!(names, ["kubernetes", "process", "ray", "simulated"]);
        for factory in factories() {
            let compiled = compiled(factory.name().as_str());
            assert_eq!(
                factory.missing_feature().is_none(),
                compiled,
                "{}",
                factory.name()
            );
            assert!(!factory.kinds().is_empty(), "{}", factory.name());
            assert!(factory.config_schema().is_object(), "{}", factory.name());
        }
    }

    #[test]
    fn every_known_bus_is_listed_once() {
        let names: Vec<_> = buses().iter().map(|bus| bus.name).collect();
        assert_eq!(names, ["http", "memory"]);
        for bus in buses() {
            let compiled = compiled(&format!("bus-{}", bus.name));
            assert_eq!(bus.missing_feature.is_none(), compiled, "{}", bus.name);
        }
    }
}
