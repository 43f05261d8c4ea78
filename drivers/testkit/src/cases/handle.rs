//! Handles.

use agent_api_driver::Handle;
use agent_api_driver::model::{ErrorKind, Guid, OpId};

use crate::Sample;
use crate::trial::{Trial, Verdict, ensure, ensure_matches};

pub(super) async fn is_written_in_the_version_it_names(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    let driver = trial.driver();
    ensure!(
        object.handle.version == driver.handle_version(),
        "wrote version {}, names {}",
        object.handle.version,
        driver.handle_version()
    );
    ensure!(
        driver.reads_handle(&object.handle),
        "does not read what it wrote: {:?}",
        object.handle
    );
    Ok(())
}

pub(super) async fn a_newer_version_is_not_read(trial: &Trial<'_>) -> Verdict {
    let object = trial.create(trial.sample(Sample::LongRunning)?).await?;
    let newer = Handle::new(trial.driver().handle_version() + 1, object.handle.data.clone());
    ensure!(
        !trial.driver().reads_handle(&newer),
        "claims to read version {}",
        newer.version
    );
    let (guid, spec) = (Guid::generate(), trial.sample(Sample::LongRunning)?);
    let answer = trial
        .apply(guid, OpId::generate(), &spec, Some(&newer), false)
        .await;
    ensure_matches!(&answer, Err(error) if error.kind() == ErrorKind::Invalid, "apply with a handle of a newer version");
    Ok(())
}
