//! One watch: list, then watch from there, for as long as something is wanted of it.
//!
//! A cut stream is opened again at the place that was reached, so that nothing is lost and nothing comes twice; only
//! where the server has forgotten that place all is listed again, and a gap is reported.

use std::sync::Arc;
use std::time::Duration;

use agent_api_driver::model::{Backoff, Error, ErrorKind};
use futures_util::{Stream, StreamExt};
use kube::api::{Api, ListParams, WatchParams};
use kube::core::{DynamicObject, TypeMeta, WatchEvent};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::ClusterWatch;
use super::key::WatchKey;
use super::settle::selector_of;
use super::state::From;
use super::thing::{Place, parse_revision, revision};
use crate::error;
use crate::sdk::Resource;
use crate::sdk::cluster::Version;

/// How long a watch goes on that nobody wants any more: objects of a kind come and go.
const LINGER: Duration = Duration::from_secs(60);
/// A stream that is silent for so long is opened again: servers send a bookmark each minute, and a connection may be
/// dead without saying so.
const QUIET: Duration = Duration::from_secs(90);
/// A stream that ends sooner was not a working one.
const WORKING: Duration = Duration::from_secs(1);
/// How often a watch is tried again that the rights do not allow, or whose resource is not served.
const SLOW: Duration = Duration::from_secs(30);
/// How many things are listed in one request.
const PAGE: u32 = 500;
/// So many failures in a row at one place, and all is listed again: the place itself may be the trouble.
const FAILURES: u32 = 5;
/// The first version that streams lists by default.
const STREAMS_LISTS: Version = Version { major: 1, minor: 34 };
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// How a watch is told what is wanted.
pub(crate) struct Signals {
    /// Whether anybody wants it.
    pub wanted: watch::Sender<bool>,
    /// List again: something is wanted that was passed over.
    pub list: Notify,
    /// Open the stream again: the connection may be dead.
    pub reopen: Notify,
}

impl Signals {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            wanted: watch::Sender::new(true),
            list: Notify::new(),
            reopen: Notify::new(),
        })
    }
}

/// Runs until the driver closes, or nobody wanted it for a while.
pub(crate) async fn run(cluster: Arc<ClusterWatch>, key: WatchKey, signals: Arc<Signals>) {
    tokio::select! {
        biased;
        () = cluster.closing.cancelled() => {}
        () = unwanted(&cluster, &key, &signals) => {}
        () = follow(&cluster, &key, &signals) => {}
    }
}

/// Returns when it was not wanted for a while and has been taken out.
async fn unwanted(cluster: &ClusterWatch, key: &WatchKey, signals: &Signals) {
    let mut wanted = signals.wanted.subscribe();
    loop {
        if wanted.wait_for(|wanted| !wanted).await.is_err() {
            return;
        }
        let again = timeout(LINGER, wanted.wait_for(|wanted| *wanted)).await;
        if again.is_err() && cluster.retire(key) {
            return;
        }
    }
}

/// Why a round of listing and watching ended.
enum End {
    /// The stream ended as streams do.
    Stream,
    /// The server has forgotten the place.
    Forgotten,
    /// It was asked to list again.
    Asked,
    /// The resource is not served.
    NotServed,
    /// Something failed.
    Failed(Error),
}

/// Where the watch has come to.
#[derive(Default)]
struct Progress {
    /// The place to go on from; none before a list.
    position: Option<String>,
    /// Something may have been missed: the next list is told as a gap.
    gap: bool,
    failures: u32,
    not_served: u32,
}

async fn follow(cluster: &ClusterWatch, key: &WatchKey, signals: &Signals) {
    let backoff = Backoff {
        cap: Duration::from_secs(5),
        jitter: 0.3,
        ..Backoff::default()
    };
    let mut at = Progress::default();
    loop {
        let begun = Instant::now();
        let end = round(cluster, key, signals, &mut at).await;
        if !matches!(end, End::NotServed) {
            at.not_served = 0;
        }
        let pause = match end {
            End::Stream if begun.elapsed() >= WORKING => {
                at.failures = 0;
                Duration::ZERO
            }
            End::Asked => {
                at.position = None;
                Duration::ZERO
            }
            End::Forgotten => {
                tracing::info!(cluster = cluster.name(), %key, "the server has forgotten the place: listing again");
                at.position = None;
                at.gap = true;
                at.failures += 1;
                backoff.delay(at.failures - 1, rand::random())
            }
            End::Stream => {
                at.failures += 1;
                backoff.delay(at.failures - 1, rand::random())
            }
            End::NotServed => {
                at.not_served += 1;
                at.position = None;
                // Once may be a server that is behind: a definition that was made just now.
                if at.not_served == 2 {
                    cluster.all_gone(key);
                }
                if at.not_served < 3 {
                    Duration::from_millis(1500)
                } else {
                    SLOW
                }
            }
            End::Failed(error) if error.kind() == ErrorKind::Denied => {
                cluster.trouble(key, Some(error.to_string()));
                SLOW.mul_f64(1.0 + rand::random::<f64>() * 0.3)
            }
            End::Failed(error) => {
                at.failures += 1;
                tracing::debug!(cluster = cluster.name(), %key, %error, "a watch failed");
                if at.failures > FAILURES && at.position.is_some() && error.kind() == ErrorKind::Internal {
                    at.position = None;
                    at.gap = true;
                }
                error
                    .retry_delay()
                    .unwrap_or_else(|| backoff.delay(at.failures - 1, rand::random()))
            }
        };
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                () = signals.reopen.notified() => {}
            }
        }
    }
}

async fn round(cluster: &ClusterWatch, key: &WatchKey, signals: &Signals, at: &mut Progress) -> End {
    let resource = match cluster.cluster.resource(&key.api_version, &key.kind).await {
        Ok(resource) => resource,
        Err(error) if error.kind() == ErrorKind::Invalid => return End::NotServed,
        Err(error) => return End::Failed(error),
    };
    let api = cluster.cluster.api(&resource, key.namespace.as_deref());
    let selector = selector_of(key, &cluster.cluster.agent);
    let mut params = WatchParams {
        label_selector: selector.clone(),
        // Spread, so that not all watches of an agent are opened again at one time.
        timeout: Some(240 + rand::random::<u32>() % 50),
        ..WatchParams::default()
    };
    let streams_lists = match at.position {
        Some(_) => false,
        None => match cluster.cluster.server_version().await {
            Ok(version) => version >= STREAMS_LISTS,
            Err(error) => return End::Failed(error),
        },
    };
    let from = match (&at.position, streams_lists) {
        (Some(position), _) => position.clone(),
        (None, true) => {
            params.send_initial_events = true;
            String::new()
        }
        (None, false) => match list(cluster, key, &resource, &api, selector).await {
            Ok((objects, position)) => {
                took(cluster, key, objects, &position, at);
                position
            }
            Err(end) => return end,
        },
    };
    match api.watch(&params, &from).await {
        Ok(stream) => {
            cluster.trouble(key, None);
            let stream = stream.boxed();
            watch_on(cluster, key, signals, &resource, stream, at).await
        }
        Err(error) => failed(cluster, key, &resource, "watch", error),
    }
}

/// All there is, and the place to watch from.
async fn list(
    cluster: &ClusterWatch,
    key: &WatchKey,
    resource: &Resource,
    api: &Api<DynamicObject>,
    selector: Option<String>,
) -> Result<(Vec<DynamicObject>, String), End> {
    let mut params = ListParams {
        label_selector: selector,
        limit: Some(PAGE),
        ..ListParams::default()
    };
    let mut objects = Vec::new();
    loop {
        let answer = timeout(cluster.cluster.config.request_timeout * 2, api.list(&params)).await;
        let page = match answer {
            Ok(Ok(page)) => page,
            Ok(Err(error)) => return Err(failed(cluster, key, resource, "list", error)),
            Err(_) => {
                let message = format!("no list of {key} within two request timeouts");
                return Err(End::Failed(Error::new(ErrorKind::Timeout, message)));
            }
        };
        objects.extend(page.items.into_iter().map(|object| typed(resource, object)));
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
        }
    }
}

/// Takes in a list.
fn took(
    cluster: &ClusterWatch,
    key: &WatchKey,
    objects: Vec<DynamicObject>,
    position: &str,
    at: &mut Progress,
) {
    cluster.replace(key, objects, parse_revision(Some(position)), at.gap);
    at.gap = false;
    at.position = Some(position.to_owned());
}

async fn watch_on(
    cluster: &ClusterWatch,
    key: &WatchKey,
    signals: &Signals,
    resource: &Resource,
    mut stream: impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin,
    at: &mut Progress,
) -> End {
    // While the list is streamed.
    let mut listing = at.position.is_none().then(Vec::new);
    loop {
        let next = tokio::select! {
            biased;
            next = timeout(QUIET, stream.next()) => next,
            () = signals.list.notified() => return End::Asked,
            () = signals.reopen.notified() => return End::Stream,
        };
        let Ok(next) = next else { return End::Stream };
        match next {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                let object = typed(resource, object);
                match &mut listing {
                    Some(objects) => objects.push(object),
                    None => {
                        at.position.clone_from(&object.metadata.resource_version);
                        at.failures = 0;
                        cluster.put(key, object);
                    }
                }
            }
            Some(Ok(WatchEvent::Deleted(object))) => {
                if listing.is_none() {
                    at.position.clone_from(&object.metadata.resource_version);
                    at.failures = 0;
                    cluster.remove(key, &Place::of(&object), revision(&object), From::Watch);
                }
            }
            Some(Ok(WatchEvent::Bookmark(mark))) => {
                let position = mark.metadata.resource_version;
                match listing.take() {
                    Some(objects) if mark.metadata.annotations.contains_key(INITIAL_END) => {
                        took(cluster, key, objects, &position, at);
                    }
                    Some(objects) => listing = Some(objects),
                    None => at.position = Some(position),
                }
                at.failures = 0;
            }
            Some(Ok(WatchEvent::Error(status))) => {
                return failed(cluster, key, resource, "watch", kube::Error::Api(status));
            }
            Some(Err(error)) => return failed(cluster, key, resource, "watch", error),
            None => return End::Stream,
        }
    }
}

fn failed(
    cluster: &ClusterWatch,
    key: &WatchKey,
    resource: &Resource,
    verb: &'static str,
    error: kube::Error,
) -> End {
    match &error {
        kube::Error::Api(status) if status.code == 410 => return End::Forgotten,
        kube::Error::Api(status) if status.code == 404 => {
            cluster.cluster.forget_group(&key.api_version);
            return End::NotServed;
        }
        // The connection was cut.
        kube::Error::ReadEvents(_) => return End::Stream,
        _ => {}
    }
    End::Failed(error::map(
        error,
        cluster.name(),
        verb,
        &resource.api.plural,
        key.namespace.as_deref(),
        "",
    ))
}

/// Items of lists do not say of what type they are.
pub(crate) fn typed(resource: &Resource, mut object: DynamicObject) -> DynamicObject {
    object.types = Some(TypeMeta {
        api_version: resource.api.api_version.clone(),
        kind: resource.api.kind.clone(),
    });
    object
}
