//! Removing applications.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, Guid};
use agent_api_driver::{DeleteRequest, Deleted, Result};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::exchange::{Wish, exchange};
use super::handle::ServeHandle;
use super::render::{mark_of, start_options};
use super::{ServeKind, ServeRecord, TYPE};
use crate::head::Head;
use crate::records::Durability;
use crate::sdk::{ApplicationStatus, ServeInstance};

/// How often it is looked whether an application is gone: at first, and at most.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_MOST: Duration = Duration::from_secs(1);

impl ServeKind {
    pub(super) async fn delete_one(&self, request: DeleteRequest<'_>) -> Result<Deleted> {
        let deadline = Instant::now() + request.deadline;
        let guid = request.guid;
        if self.is_orphan(guid).await {
            return Ok(Deleted::default());
        }
        let (cluster, application) = match request.handle {
            Some(handle) => {
                let handle = ServeHandle::read(handle)?;
                if handle.guid != guid {
                    return Ok(Deleted::default());
                }
                (handle.cluster, handle.application)
            }
            // What an unanswered create wrote down before it began.
            None => match self.shared.records.read::<ServeRecord>(TYPE, guid).await? {
                Some(record) => (record.cluster, record.application),
                None => return Ok(Deleted::default()),
            },
        };
        if request.orphan {
            let record = ServeRecord {
                cluster,
                application,
                orphan: true,
            };
            self.shared
                .records
                .write(TYPE, guid, &record, Durability::Synced)
                .await?;
            self.orphans().await.lock().insert(guid);
            self.forget(guid);
            return Ok(Deleted::default());
        }
        let head = self.head_named(&cluster)?;
        let removed = self.remove(head, guid, &application, deadline).await?;
        let left = if removed {
            Vec::new()
        } else {
            vec![format!(
                "Serve was told to remove the application {} of {} and has not ended its replicas yet",
                application, head.name
            )]
        };
        self.shared.records.remove(guid).await?;
        self.forget(guid);
        Ok(Deleted { exit: None, left })
    }

    /// Removes an application that bears the mark of this object; whether it was gone by the deadline.
    async fn remove(&self, head: &Head, guid: Guid, name: &str, deadline: Instant) -> Result<bool> {
        let ours = |instance: &ServeInstance| {
            instance.applications.get(name).is_some_and(|app| {
                let mark = app.deployed_app_config.as_ref().and_then(mark_of);
                app.status != ApplicationStatus::Deleting && self.is_ours(mark.as_ref(), guid)
            })
        };
        let wish = |instance: &ServeInstance| Ok(if ours(instance) { Wish::Remove } else { Wish::Keep });
        let start = start_options(None);
        let mut instance = exchange(head, self.lock(head), name, &start, deadline, wish).await?;
        let mut pause = LOOK_FIRST;
        loop {
            let going = |app: &crate::sdk::Application| app.status == ApplicationStatus::Deleting;
            if !instance.applications.get(name).is_some_and(going) {
                // Gone, or somebody else's by now.
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left <= pause * 2 {
                return Ok(false);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_MOST);
            instance = head.client.serve(left).await?;
        }
    }

    /// Removes all applications of this run of the agent, one after the other on each cluster.
    pub(super) async fn stop_applications(&self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        let mut by_cluster: BTreeMap<String, Vec<(Guid, String)>> = BTreeMap::new();
        for (guid, entry) in self.table.lock().iter() {
            let handle = &entry.handle;
            by_cluster
                .entry(handle.cluster.clone())
                .or_default()
                .push((*guid, handle.application.clone()));
        }
        join_all(by_cluster.into_iter().map(|(cluster, applications)| async move {
            for (guid, name) in applications {
                let removed = match self.shared.head(Some(&cluster)) {
                    Ok(head) => self.remove(head, guid, &name, deadline).await,
                    Err(error) => Err(error),
                };
                let problem = match removed {
                    Ok(true) => continue,
                    Ok(false) => Error::new(ErrorKind::Timeout, "Serve has not ended its replicas yet"),
                    Err(error) => error,
                };
                tracing::warn!(cluster, application = name, error = %problem, "a Serve application was not removed");
            }
        }))
        .await;
    }
}
