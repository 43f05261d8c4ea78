//! Connections: from a kubeconfig, or from the service account of the pod; made again when their files change.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::config::ClusterConfig;

/// Where the service account of a pod has its token and certificate.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A connection and the files it came from.
pub(crate) struct Connection {
    /// The library's client.
    pub client: Client,
    /// The namespace of the context.
    pub namespace: String,
    /// The files, as they were.
    pub files: Files,
}

/// Connects by a cluster's configuration. Reads files and may run the credential plugin of the kubeconfig; makes no
/// request.
pub(crate) async fn connect(config: &ClusterConfig) -> Result<Connection, kube::Error> {
    let mut files = vec![];
    let mut loaded = if config.in_cluster {
        kube::Config::incluster().map_err(|error| kube::Error::Service(Box::new(error)))?
    } else {
        files = kubeconfig_files(config);
        let there =
            config.kubeconfig.is_some() || config.context.is_some() || files.iter().any(|file| file.exists());
        if there {
            let options = KubeConfigOptions {
                context: config.context.clone(),
                ..KubeConfigOptions::default()
            };
            match &config.kubeconfig {
                Some(file) => {
                    let text = Kubeconfig::read_from(file)?;
                    kube::Config::from_custom_kubeconfig(text, &options).await?
                }
                None => kube::Config::from_kubeconfig(&options).await?,
            }
        } else {
            kube::Config::infer().await.map_err(kube::Error::InferConfig)?
        }
    };
    // Trying again, waiting and counting is done by the link, where each try is seen.
    loaded.default_retry = false;
    loaded.connect_timeout = Some(config.connect_timeout);
    let auth = &loaded.auth_info;
    files.extend(
        [&auth.client_certificate, &auth.client_key, &auth.token_file]
            .into_iter()
            .flatten()
            .map(PathBuf::from),
    );
    files.extend(loaded.root_cert_file.clone());
    if files.is_empty() {
        files.extend(["token", "ca.crt"].map(|name| PathBuf::from(SERVICE_ACCOUNT).join(name)));
    }
    let files = Files::of(files);
    let namespace = loaded.default_namespace.clone();
    // A credential plugin is run while the client is built, and blocks.
    let client =
        tokio::task::spawn_blocking(move || ClientBuilder::try_from(loaded).map(ClientBuilder::build))
            .await
            .map_err(|error| kube::Error::Service(Box::new(error)))??;
    Ok(Connection {
        client,
        namespace,
        files,
    })
}

/// Whether a configuration says where its cluster is, or a cluster can be found in the usual places.
pub(crate) fn is_anywhere(config: &ClusterConfig) -> bool {
    config.in_cluster
        || config.kubeconfig.is_some()
        || config.context.is_some()
        || kubeconfig_files(config).iter().any(|file| file.exists())
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// What there is to say where it is not.
pub(crate) const NOWHERE: &str = "no cluster is configured (`[drivers.kubernetes.clusters.NAME]`), and none was found by KUBECONFIG, \
     in ~/.kube/config or by a pod's service account";

fn kubeconfig_files(config: &ClusterConfig) -> Vec<PathBuf> {
    if let Some(file) = &config.kubeconfig {
        return vec![file.clone()];
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return std::env::split_paths(&list).collect();
    }
    std::env::home_dir()
        .map(|home| home.join(".kube/config"))
        .into_iter()
        .collect()
}

/// Files that credentials come from, and what they looked like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files(Vec<(PathBuf, Option<Look>)>);

/// What a file looks like from outside. A file that is renamed over another one has another inode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Files {
    /// How often they are looked at while requests are made.
    pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

    fn of(paths: Vec<PathBuf>) -> Self {
        Self(
            paths
                .into_iter()
                .map(|path| (path.clone(), look(&path)))
                .collect(),
        )
    }

    /// Whether one of them looks different now.
    pub(crate) async fn changed(&self) -> bool {
        let files = self.0.clone();
        tokio::task::spawn_blocking(move || files.iter().any(|(path, was)| look(path) != *was))
            .await
            .unwrap_or(false)
    }
}

fn look(path: &std::path::Path) -> Option<Look> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Look {
        inode: metadata.ino(),
        size: metadata.len(),
        modified: metadata.modified().ok(),
    })
}
