//! The lab's cluster.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The lab's cluster: its kubeconfig. Starts it where it does not run.
pub(crate) fn lab() -> &'static PathBuf {
    static LAB: OnceLock<PathBuf> = OnceLock::new();
    LAB.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dev/lab/kubernetes");
        let up = Command::new(script)
            .arg("up")
            .output()
            .expect("dev/lab/kubernetes can be run");
        let said = String::from_utf8_lossy(&up.stdout).into_owned();
        let why = String::from_utf8_lossy(&up.stderr);
        assert!(up.status.success(), "`dev/lab/kubernetes up` failed: {why}");
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("export KUBECONFIG="));
        PathBuf::from(
            line.expect("it prints where the kubeconfig is")
                .trim_matches(['\'', '"']),
        )
    })
}
