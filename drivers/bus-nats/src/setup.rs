//! The streams, the bucket and the queues that a bus needs: checked, and made where asked.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use agent_api_model::{AgentId, Error, ErrorKind, Result, format_duration};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source, StorageType};
use async_nats::jetstream::{Context, ErrorCode};

use crate::config::ConnectConfig;
use crate::connection::Connection;
use crate::subject::{Layout, StreamName};

/// Answers and commands are kept for so long.
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Telemetry is kept for so long.
const HOUR: Duration = Duration::from_secs(3_600);
/// Within this time an id is stored once: callers may repeat for so long.
const WINDOW: Duration = Duration::from_secs(600);
/// A command that was delivered and not acknowledged is delivered again after this.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Commands of one agent that may be unacknowledged.
const ACK_PENDING: i64 = 256;

/// What a bus is to have.
#[derive(Clone, Debug)]
pub struct SetupConfig {
    /// The subjects and names.
    pub layout: Layout,
    /// The agents that have a queue.
    pub agents: Vec<AgentId>,
    /// Copies of everything but telemetry, which has one; 1 by default, 3 on a cluster.
    pub replicas: usize,
    /// The largest sizes in bytes: of the queue and of the answers; 256 MiB by default.
    pub command_bytes: i64,
    /// Of the events; 512 MiB by default.
    pub event_bytes: i64,
    /// Of the telemetry; 1 GiB by default.
    pub telemetry_bytes: i64,
    /// Whether to make and change what differs, or only to tell.
    pub apply: bool,
}

impl SetupConfig {
    /// What a bus of this layout needs, for these agents.
    #[must_use]
    pub fn new(layout: Layout, agents: Vec<AgentId>) -> Self {
        Self {
            layout,
            agents,
            replicas: 1,
            command_bytes: 256 << 20,
            event_bytes: 512 << 20,
            telemetry_bytes: 1 << 30,
            apply: false,
        }
    }
}

/// What is to be done, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not there.
    Missing,
    /// It is there, and other than wanted.
    Differs,
    /// It was made.
    Made,
    /// It was changed.
    Changed,
}

/// One difference between what is there and what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `stream AGENT_IN`, `bucket agent_methods`, `queue AGENT_IN/a1`.
    pub what: String,
    /// What is to be done, or was.
    pub change: Change,
    /// The fields: found and wanted. Empty for what is not there at all.
    pub fields: BTreeMap<String, (String, String)>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = match self.change {
            Change::Missing => "is missing",
            Change::Differs => "differs",
            Change::Made => "made",
            Change::Changed => "changed",
        };
        write!(f, "{}: {change}", self.what)?;
        for (field, (found, wanted)) in &self.fields {
            write!(f, "\n  {field}: {found} -> {wanted}")?;
        }
        Ok(())
    }
}

/// Compares what a bus has with what it needs, and where `apply` says so makes it. Nothing is ever deleted, and a second
/// run finds nothing to do.
///
/// # Errors
///
/// `Unavailable` where the server cannot be reached or has no JetStream, `Conflict` for what cannot be changed.
pub async fn setup(connect: ConnectConfig, config: &SetupConfig) -> Result<Vec<Difference>> {
    let connection = Connection::begin(connect).await?;
    let result = async {
        connection.need_up("bus.setup")?;
        compare(&connection.js, config).await
    }
    .await;
    connection.close().await;
    result
}

async fn compare(js: &Context, config: &SetupConfig) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for stream in [
        StreamName::In,
        StreamName::Result,
        StreamName::Events,
        StreamName::Status,
        StreamName::Telemetry,
    ] {
        found.extend(one_stream(js, config, wanted(config, stream)).await?);
    }
    found.extend(bucket(js, config).await?);
    for agent in &config.agents {
        found.extend(queue(js, config, agent).await?);
    }
    Ok(found)
}

fn wanted(config: &SetupConfig, stream: StreamName) -> Config {
    let layout = &config.layout;
    let base = Config {
        name: layout.stream(stream),
        subjects: layout.stream_subjects(stream),
        storage: StorageType::File,
        num_replicas: config.replicas,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        allow_direct: true,
        ..Config::default()
    };
    match stream {
        StreamName::In => Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_age: DAY,
            max_bytes: config.command_bytes,
            duplicate_window: WINDOW,
            ..base
        },
        StreamName::Result => Config {
            max_age: DAY,
            max_bytes: config.command_bytes,
            duplicate_window: WINDOW,
            allow_atomic_publish: true,
            ..base
        },
        StreamName::Events => Config {
            max_age: DAY,
            max_bytes: config.event_bytes,
            duplicate_window: WINDOW,
            allow_atomic_publish: true,
            allow_message_ttl: true,
            ..base
        },
        StreamName::Status => Config {
            max_messages_per_subject: 1,
            allow_message_ttl: true,
            sources: Some(vec![Source {
                name: layout.stream(StreamName::Events),
                ..Source::default()
            }]),
            ..base
        },
        StreamName::Telemetry => Config {
            max_age: HOUR,
            max_bytes: config.telemetry_bytes,
            num_replicas: 1,
            allow_batch_publish: true,
            ..base
        },
    }
}

/// The fields that matter, as text.
fn fields(config: &Config) -> BTreeMap<&'static str, String> {
    let sources: Vec<_> = config
        .sources
        .iter()
        .flatten()
        .map(|source| source.name.as_str())
        .collect();
    BTreeMap::from([
        ("subjects", config.subjects.join(" ")),
        ("retention", format!("{:?}", config.retention)),
        ("discard", format!("{:?}", config.discard)),
        ("storage", format!("{:?}", config.storage)),
        ("replicas", config.num_replicas.to_string()),
        ("max_age", format_duration(config.max_age)),
        ("max_bytes", config.max_bytes.to_string()),
        (
            "max_messages_per_subject",
            config.max_messages_per_subject.to_string(),
        ),
        ("atomic_publish", config.allow_atomic_publish.to_string()),
        ("batch_publish", config.allow_batch_publish.to_string()),
        ("message_ttl", config.allow_message_ttl.to_string()),
        ("sources", sources.join(" ")),
    ])
}

fn differences(
    found: &BTreeMap<&'static str, String>,
    wanted: &BTreeMap<&'static str, String>,
) -> BTreeMap<String, (String, String)> {
    wanted
        .iter()
        .filter_map(|(field, wanted)| {
            let found = found.get(field)?;
            (found != wanted).then(|| ((*field).to_owned(), (found.clone(), wanted.clone())))
        })
        .collect()
}

async fn one_stream(js: &Context, config: &SetupConfig, wanted: Config) -> Result<Option<Difference>> {
    let what = format!("stream {}", wanted.name);
    let found = match js.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().config.clone(),
        Err(error) if is_missing(&error) => {
            if config.apply {
                js.create_stream(wanted)
                    .await
                    .map_err(|error| failed(&what, &error))?;
            }
            return Ok(Some(missing(what, config)));
        }
        Err(error) => return Err(failed(&what, &error)),
    };
    let mut names = fields(&wanted);
    // The server's own default where none is set.
    if wanted.duplicate_window > Duration::ZERO {
        names.insert("duplicate_window", format_duration(wanted.duplicate_window));
    }
    let mut have = fields(&found);
    have.insert("duplicate_window", format_duration(found.duplicate_window));
    let fields = differences(&have, &names);
    if fields.is_empty() {
        return Ok(None);
    }
    if config.apply {
        js.update_stream(wanted)
            .await
            .map_err(|error| failed(&what, &error))?;
    }
    Ok(Some(Difference {
        what,
        change: if config.apply {
            Change::Changed
        } else {
            Change::Differs
        },
        fields,
    }))
}

async fn bucket(js: &Context, config: &SetupConfig) -> Result<Option<Difference>> {
    let bucket = config.layout.methods_bucket();
    let what = format!("bucket {bucket}");
    match js.get_stream(format!("KV_{bucket}")).await {
        Ok(_) => Ok(None),
        Err(error) if is_missing(&error) => {
            if config.apply {
                js.create_key_value(kv::Config {
                    bucket,
                    history: 1,
                    num_replicas: config.replicas,
                    ..kv::Config::default()
                })
                .await
                .map_err(|error| failed(&what, &error))?;
            }
            Ok(Some(missing(what, config)))
        }
        Err(error) => Err(failed(&what, &error)),
    }
}

async fn queue(js: &Context, config: &SetupConfig, agent: &AgentId) -> Result<Option<Difference>> {
    let stream = config.layout.stream(StreamName::In);
    let what = format!("queue {stream}/{agent}");
    let wanted = pull::Config {
        durable_name: Some(agent.to_string()),
        filter_subject: config.layout.queue_of(agent.as_str()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: ACK_PENDING,
        ..pull::Config::default()
    };
    let found = js
        .get_consumer_from_stream::<pull::Config, _, _>(agent.as_str(), &stream)
        .await;
    let fields = match &found {
        Ok(consumer) => {
            let of = |filter: &str, wait: Duration, pending: i64| {
                BTreeMap::from([
                    ("filter", filter.to_owned()),
                    ("ack_wait", format_duration(wait)),
                    ("max_ack_pending", pending.to_string()),
                ])
            };
            let have = &consumer.cached_info().config;
            differences(
                &of(&have.filter_subject, have.ack_wait, have.max_ack_pending),
                &of(&wanted.filter_subject, wanted.ack_wait, wanted.max_ack_pending),
            )
        }
        Err(_) => BTreeMap::new(),
    };
    let missing = found.is_err();
    if !missing && fields.is_empty() {
        return Ok(None);
    }
    if config.apply {
        js.create_consumer_on_stream(wanted, &stream)
            .await
            .map_err(|error| failed(&what, &error))?;
    }
    Ok(Some(Difference {
        what,
        change: match (missing, config.apply) {
            (true, true) => Change::Made,
            (true, false) => Change::Missing,
            (false, true) => Change::Changed,
            (false, false) => Change::Differs,
        },
        fields,
    }))
}

fn missing(what: String, config: &SetupConfig) -> Difference {
    Difference {
        what,
        change: if config.apply {
            Change::Made
        } else {
            Change::Missing
        },
        fields: BTreeMap::new(),
    }
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    }
}

fn failed(what: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("{what} cannot be checked or made: {error}"),
    )
    .with_operation("bus.setup")
    .with_hint("it needs JetStream, and an account that may manage streams")
}
