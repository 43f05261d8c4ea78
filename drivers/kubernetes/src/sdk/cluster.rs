//! One cluster: its client, its resources, its version, and the bounds of each call.

use std::sync::Arc;

use agent_api_driver::Result;
use agent_api_driver::model::{AgentId, DriverState, Error, ErrorKind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use kube::api::{Api, DynamicObject};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};

use crate::config::ClusterConfig;
use crate::error;
use crate::sdk::Resource;
use crate::sdk::discovery::{Cache, Group, resources};
use crate::sdk::link::{Gate, Link};
use crate::sdk::requests::RequestCounts;

/// The version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// 1
    pub major: u32,
    /// 20 …
    pub minor: u32,
}

/// One cluster.
pub(crate) struct Cluster {
    /// Its name in the configuration.
    pub name: String,
    /// Whose agent.
    pub agent: AgentId,
    /// How it is reached.
    pub config: ClusterConfig,
    link: Arc<Link>,
    /// None after the driver has ended.
    client: Mutex<Option<Client>>,
    manager: String,
    cache: Cache,
    version: OnceCell<Version>,
}

impl Cluster {
    /// A cluster by its configuration. Nothing is reached before the first call.
    pub(crate) fn new(name: &str, agent: &AgentId, config: &ClusterConfig) -> Arc<Self> {
        Self::on(Link::new(name, config.clone()), name, agent, config)
    }

    /// A cluster over a client that exists: for tests.
    #[cfg(test)]
    pub(crate) fn over(name: &str, agent: &AgentId, config: &ClusterConfig, client: Client) -> Arc<Self> {
        Self::on(Link::over(name, config.clone(), client), name, agent, config)
    }

    fn on(link: Link, name: &str, agent: &AgentId, config: &ClusterConfig) -> Arc<Self> {
        let link = Arc::new(link);
        Arc::new(Self {
            name: name.to_owned(),
            agent: agent.clone(),
            config: config.clone(),
            client: Mutex::new(Some(Client::new(Gate(Arc::clone(&link)), "default"))),
            link,
            manager: format!("agent-{agent}"),
            cache: Cache::default(),
            version: OnceCell::new(),
        })
    }

    /// The client. It stays the same when credentials change: the next request uses the new ones.
    pub(crate) fn client(&self) -> Client {
        let client = self.client.lock().clone();
        client.unwrap_or_else(|| Client::new(Gate(Arc::clone(&self.link)), "default"))
    }

    /// Closes all connections; the library's tasks end with them.
    pub(crate) fn close(&self) {
        *self.client.lock() = None;
        self.link.close();
    }

    /// Our field manager.
    pub(crate) fn manager(&self) -> &str {
        &self.manager
    }

    /// The namespace of specs that name none.
    pub(crate) fn default_namespace(&self) -> String {
        self.config
            .namespace
            .clone()
            .or_else(|| self.link.namespace())
            .unwrap_or_else(|| "default".to_owned())
    }

    /// The requests made so far.
    pub(crate) fn requests(&self) -> RequestCounts {
        self.link.requests.counts()
    }

    /// How the cluster is.
    pub(crate) fn health(&self) -> DriverState {
        self.link.state().borrow().clone()
    }

    /// How the cluster is, and its changes.
    pub(crate) fn health_changes(&self) -> watch::Receiver<DriverState> {
        self.link.state()
    }

    /// The API of one resource: in one namespace, or over all and of what has none.
    pub(crate) fn api(&self, resource: &Resource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) if resource.namespaced => {
                Api::namespaced_with(self.client(), namespace, &resource.api)
            }
            _ => Api::all_with(self.client(), &resource.api),
        }
    }

    /// A typed API, for example of pods: in one namespace, or over all.
    pub(crate) fn typed<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match namespace {
            Some(namespace) => Api::namespaced(self.client(), namespace),
            None => Api::all(self.client()),
        }
    }

    /// The resource of a kind. Reads the group again where it is not known, at most once a second.
    ///
    /// `Invalid` where the server has no such kind.
    pub(crate) async fn resource(&self, api_version: &str, kind: &str) -> Result<Arc<Resource>> {
        let find = |group: &Option<Group>| {
            let group = group.as_ref()?;
            group.iter().find(|resource| resource.api.kind == kind).cloned()
        };
        if let Some(known) = self.cache.group(api_version) {
            if let Some(resource) = find(&known) {
                return Ok(resource);
            }
            if !self.cache.is_old(api_version) {
                return Err(self.unknown(api_version, kind));
            }
        }
        let group = self.read_group(api_version).await?;
        find(&group).ok_or_else(|| self.unknown(api_version, kind))
    }

    /// Whether the server has a kind. Asks at most once a minute for a group that it does not have.
    pub(crate) async fn served(&self, api_version: &str, kind: &str) -> Result<bool> {
        let group = match self.cache.group(api_version) {
            Some(known) => known,
            None => self.read_group(api_version).await?,
        };
        Ok(group.is_some_and(|group| group.iter().any(|resource| resource.api.kind == kind)))
    }

    /// Forgets what is known of a group, after its resources were changed.
    pub(crate) fn forget_group(&self, api_version: &str) {
        self.cache.forget(api_version);
    }

    async fn read_group(&self, api_version: &str) -> Result<Option<Group>> {
        let path = match api_version.contains('/') {
            true => format!("/apis/{api_version}"),
            false => format!("/api/{api_version}"),
        };
        let request = http::Request::get(&path)
            .body(Vec::new())
            .map_err(|error| Error::invalid("apiVersion", format!("{api_version:?}: {error}")))?;
        let client = self.client();
        let answer = self.bounded(client.request::<APIResourceList>(request)).await?;
        let group = match answer {
            Ok(list) => Some(resources(&list)),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(other) => {
                return Err(error::map(other, &self.name, "get", &path, None, ""));
            }
        };
        self.cache.put(api_version, group.clone());
        Ok(group)
    }

    fn unknown(&self, api_version: &str, kind: &str) -> Error {
        Error::new(
            ErrorKind::Invalid,
            format!("cluster {} has no {kind} in {api_version}", self.name),
        )
        .with_hint(
            "`kubectl api-resources` lists what it has; a custom resource's definition must be applied first",
        )
    }

    /// The version of the server, asked for once.
    pub(crate) async fn server_version(&self) -> Result<Version> {
        self.version
            .get_or_try_init(|| async {
                let client = self.client();
                let info = self
                    .bounded(client.apiserver_version())
                    .await?
                    .map_err(|other| error::map(other, &self.name, "get", "/version", None, ""))?;
                let number = |text: &str| {
                    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse().unwrap_or(0)
                };
                Ok(Version {
                    major: number(&info.major),
                    minor: number(&info.minor),
                })
            })
            .await
            .copied()
    }

    /// Asks the server anything, so that its health is known.
    pub(crate) async fn probe(&self) -> Result<()> {
        let client = self.client();
        self.bounded(client.apiserver_version())
            .await?
            .map(drop)
            .map_err(|other| error::map(other, &self.name, "get", "/version", None, ""))
    }

    /// Makes one call: bounded in time, its errors in the words of the contract. `name` is empty for calls on
    /// collections.
    pub(crate) async fn call<T>(
        &self,
        verb: &'static str,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        call: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T> {
        self.bounded(call)
            .await?
            .map_err(|other| error::map(other, &self.name, verb, &resource.api.plural, namespace, name))
    }

    /// The same for a typed resource.
    pub(crate) async fn call_typed<K, T>(
        &self,
        verb: &'static str,
        namespace: Option<&str>,
        name: &str,
        call: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<T>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        self.bounded(call)
            .await?
            .map_err(|other| error::map(other, &self.name, verb, &K::plural(&()), namespace, name))
    }

    /// Makes one call, bounded in time, for callers that look at the answer's status themselves.
    pub(crate) async fn attempt<T>(
        &self,
        call: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<kube::Result<T>> {
        self.bounded(call).await
    }

    /// The head of an answer is awaited by the link; this bounds its body too.
    async fn bounded<T>(
        &self,
        call: impl Future<Output = kube::Result<T>> + Send,
    ) -> Result<kube::Result<T>> {
        let limit = self.config.request_timeout * 2;
        tokio::time::timeout(limit, call).await.map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "cluster {} did not answer within {}s",
                    self.name,
                    limit.as_secs_f64()
                ),
            )
        })
    }
}
