//! Which kinds there are: filled by the builder, read-only afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_api::driver::{Build, Capabilities, DriverFactory, Method, ObjectDriver};
use agent_api::model::{
    AgentId, DriverName, DriverState, DriverView, Error, ErrorKind, Kind, KindView, LimitStatus, MethodView,
    ObjectSpec, Result, Severity, Verb,
};
use serde_json::{Value, json};

use crate::guard::{guarded, guarded_now};
use crate::validate::{PartSchema, closest};

/// How long a driver may take to be built.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30);

/// The kinds and drivers of an agent.
pub(crate) struct Registry {
    drivers: BTreeMap<DriverName, Registered>,
    kinds: BTreeMap<Kind, KindEntry>,
}

struct Registered {
    kinds: Vec<Kind>,
    state: State,
}

enum State {
    Built(Arc<dyn ObjectDriver>),
    /// It could not be built.
    Failed(String),
    /// It was not compiled in; this feature would.
    Missing(&'static str),
}

/// What is known of a kind that can be used.
pub(crate) struct KindEntry {
    pub(crate) name: DriverName,
    pub(crate) driver: Arc<dyn ObjectDriver>,
    pub(crate) capabilities: Capabilities,
    schema: PartSchema,
    /// Of the arguments of its methods.
    calls: BTreeMap<String, PartSchema>,
    /// Of a whole object of this kind.
    object_schema: Value,
}

/// What the builder was given of a driver.
pub(crate) type Wanted = (Arc<dyn DriverFactory>, Value);

impl Registry {
    /// Checks the configurations, then builds the drivers, each for itself: one that fails, hangs or panics is shown
    /// as unavailable and the others go on.
    pub(crate) async fn build(agent: &AgentId, state_dir: &Path, wanted: Vec<Wanted>) -> Result<Self> {
        let mut names = BTreeSet::new();
        for (factory, config) in &wanted {
            let name = factory.name();
            if !names.insert(name.clone()) {
                return Err(Error::invalid(
                    "drivers",
                    format!("two drivers are named {name}; give one of them to the builder"),
                ));
            }
            check_config(&**factory, config)?;
        }
        let built = futures_util::future::join_all(wanted.into_iter().map(|(factory, config)| {
            let build = Build {
                agent: agent.clone(),
                state_dir: state_dir.join("drivers").join(factory.name().as_str()),
                config,
            };
            async move { (factory.name(), register(&*factory, build).await) }
        }))
        .await;
        let mut registry = Self {
            drivers: BTreeMap::new(),
            kinds: BTreeMap::new(),
        };
        for (name, (mut registered, entries)) in built {
            if let Some(kind) = entries.keys().find(|kind| registry.kinds.contains_key(*kind)) {
                let reason = format!("its kind {kind} is another driver's already");
                tracing::error!(driver = %name, reason, "driver left out");
                registered.state = State::Failed(reason);
            } else {
                registry.kinds.extend(entries);
            }
            registry.drivers.insert(name, registered);
        }
        Ok(registry)
    }

    /// The drivers that were built.
    pub(crate) fn built(&self) -> impl Iterator<Item = &Arc<dyn ObjectDriver>> {
        self.drivers
            .values()
            .filter_map(|registered| match &registered.state {
                State::Built(driver) => Some(driver),
                State::Failed(_) | State::Missing(_) => None,
            })
    }

    /// A kind that can be used; the error says which kinds are known, which feature is missing or what is wrong.
    pub(crate) fn kind(&self, kind: &Kind) -> Result<&KindEntry> {
        if let Some(entry) = self.kinds.get(kind) {
            return Ok(entry);
        }
        let owner = self
            .drivers
            .iter()
            .find(|(_, driver)| driver.kinds.contains(kind));
        match owner.map(|(name, driver)| (name, &driver.state)) {
            Some((name, State::Missing(feature))) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("driver {name} was not compiled in"),
            )
            .with_path("kind")
            .with_hint(format!("build the agent with the feature `{feature}`"))),
            Some((name, State::Failed(reason))) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("driver {name} could not be started: {reason}"),
            )
            .with_path("kind")),
            _ => Err(self.unknown(kind)),
        }
    }

    fn unknown(&self, kind: &Kind) -> Error {
        let known: Vec<_> = self.kinds.keys().map(Kind::as_str).collect();
        let message = match known.is_empty() {
            true => format!("kind {kind} is not known: this agent has no drivers"),
            false => format!("kind {kind} is not known; known are {}", known.join(", ")),
        };
        let error = Error::new(ErrorKind::NotFound, message).with_path("kind");
        match closest(kind.as_str(), known.into_iter()) {
            Some(near) => error.with_hint(format!("did you mean {near}?")),
            None => error,
        }
    }

    /// The drivers and their kinds, with their health from `live`.
    pub(crate) fn views(
        &self,
        live: impl Fn(&DriverName) -> Option<(DriverState, usize, Option<Duration>)>,
    ) -> Vec<DriverView> {
        self.drivers
            .iter()
            .map(|(name, registered)| {
                let mut view = DriverView {
                    name: name.clone(),
                    version: String::new(),
                    summary: String::new(),
                    kinds: registered.kinds.iter().map(|kind| self.kind_view(kind)).collect(),
                    health: None,
                    missing_feature: None,
                    in_flight: 0,
                    oldest_call_ms: None,
                };
                match &registered.state {
                    State::Built(driver) => {
                        view.version.clone_from(&driver.info().version);
                        view.summary.clone_from(&driver.info().summary);
                        if let Some((state, in_flight, oldest)) = live(name) {
                            view.health = Some(state);
                            view.in_flight = in_flight;
                            view.oldest_call_ms =
                                oldest.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                        }
                    }
                    State::Failed(reason) => {
                        view.health = Some(DriverState::Unavailable {
                            reason: reason.clone(),
                        });
                    }
                    State::Missing(feature) => view.missing_feature = Some((*feature).to_owned()),
                }
                view
            })
            .collect()
    }

    fn kind_view(&self, kind: &Kind) -> KindView {
        let capabilities = self.kinds.get(kind).map(|entry| &entry.capabilities);
        KindView {
            kind: kind.clone(),
            verbs: capabilities.map_or_else(Vec::new, methods),
            calls: capabilities.map_or_else(BTreeMap::new, |capabilities| calls(capabilities, true)),
            limits: capabilities.map_or_else(Vec::new, |capabilities| {
                capabilities
                    .limits
                    .iter()
                    .map(|limit| LimitStatus {
                        field: limit.field,
                        value: String::new(),
                        enforcement: limit.enforcement,
                        by: limit.by.clone(),
                    })
                    .collect()
            }),
        }
    }

    /// What is wrong with drivers that are not there, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.drivers
            .iter()
            .filter_map(|(name, registered)| match &registered.state {
                State::Failed(reason) => Some(format!("driver {name} could not be started: {reason}")),
                State::Built(_) | State::Missing(_) => None,
            })
            .collect()
    }
}

impl KindEntry {
    /// Checks an object by what needs no driver: its own fields, then the schema of its kind.
    pub(crate) fn check(&self, spec: &ObjectSpec) -> Result<()> {
        spec.check()?;
        self.schema
            .check(&spec.spec)
            .map_err(|error| error.with_object(&spec.name))
    }

    /// Checks the call of a method: it is one of the kind's, and the arguments fit its schema.
    pub(crate) fn check_call(&self, kind: &Kind, method: &str, arguments: &Value) -> Result<()> {
        let Some(schema) = self.calls.get(method) else {
            let known: Vec<_> = self.calls.keys().map(String::as_str).collect();
            let cut: String = method.chars().take(80).collect();
            let message = format!(
                "objects of kind {kind} have no method {cut:?}; they have {}",
                known.join(", ")
            );
            let error = Error::new(ErrorKind::Unsupported, message).with_path("method");
            return Err(match closest(method, known.into_iter()) {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            });
        };
        if !arguments.is_null() && !arguments.is_object() {
            return Err(Error::invalid("arguments", "must be a map: names and values"));
        }
        schema.check(arguments)
    }

    /// A spec as it may be shown: without what its driver calls secret. Where the driver cannot say, its part is left out.
    pub(crate) fn shown(&self, spec: &ObjectSpec) -> ObjectSpec {
        let mut shown = spec.clone();
        if let Err(failure) = guarded_now(|| self.driver.redact(&mut shown)) {
            let error = failure.of_driver(&self.name, "redact");
            tracing::error!(object = %spec.name, %error, "a spec is not shown");
            return not_shown(spec, &error.to_string());
        }
        shown
    }

    pub(crate) fn object_schema(&self) -> &Value {
        &self.object_schema
    }
}

/// The verbs an object answers to.
pub(crate) fn methods(capabilities: &Capabilities) -> Vec<Verb> {
    let mut verbs = vec![
        Verb::Update,
        Verb::Delete,
        Verb::Describe,
        Verb::Plan,
        Verb::Monitor,
        Verb::Explain,
    ];
    verbs.extend(capabilities.control_verbs());
    verbs
}

/// The methods that only objects of one kind have.
pub(crate) fn calls(capabilities: &Capabilities, schemas: bool) -> BTreeMap<String, MethodView> {
    let view = |method: &Method| MethodView {
        summary: method.summary.clone(),
        arguments: match schemas {
            true => method.arguments.clone(),
            false => Value::Null,
        },
    };
    capabilities
        .methods
        .iter()
        .map(|(name, method)| (name.clone(), view(method)))
        .collect()
}

/// A spec whose driver is not there to say what in it is secret.
pub(crate) fn not_shown(spec: &ObjectSpec, why: &str) -> ObjectSpec {
    ObjectSpec {
        spec: json!(format!("not shown, because its secrets are not known: {why}")),
        ..spec.clone()
    }
}

fn check_config(factory: &dyn DriverFactory, config: &Value) -> Result<()> {
    if factory.missing_feature().is_some() {
        return Ok(());
    }
    let name = factory.name();
    let diagnostics = guarded_now(|| factory.check(config))
        .map_err(|failure| failure.of_driver(&name, "the check of its configuration"))?;
    let mut wrong = diagnostics
        .into_iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    let Some(first) = wrong.next() else {
        return Ok(());
    };
    let at = |path: &str| match path.is_empty() {
        true => format!("drivers.{name}"),
        false => format!("drivers.{name}.{path}"),
    };
    let error = Error::invalid(at(&first.path), first.message);
    Err(wrong.fold(error, |error, other| {
        error.with_context(at(&other.path), other.message)
    }))
}

async fn register(factory: &dyn DriverFactory, build: Build) -> (Registered, BTreeMap<Kind, KindEntry>) {
    let kinds = guarded_now(|| factory.kinds()).unwrap_or_default();
    let failed = |reason: String| {
        tracing::error!(driver = %factory.name(), reason, "driver cannot be started");
        let registered = Registered {
            kinds: kinds.clone(),
            state: State::Failed(reason),
        };
        (registered, BTreeMap::new())
    };
    if let Some(feature) = factory.missing_feature() {
        let registered = Registered {
            kinds,
            state: State::Missing(feature),
        };
        return (registered, BTreeMap::new());
    }
    let driver = match guarded(BUILD_TIMEOUT, factory.build(build)).await {
        Ok(Ok(driver)) => driver,
        Ok(Err(error)) => return failed(error.to_string()),
        Err(failure) => return failed(failure.of_driver(factory.name(), "its start").to_string()),
    };
    match guarded_now(|| driver.info().name.clone()) {
        Ok(name) if name == factory.name() => {}
        Ok(name) => return failed(format!("it calls itself {name}")),
        Err(failure) => return failed(failure.of_driver(factory.name(), "its name").to_string()),
    }
    let described = guarded_now(|| {
        let kinds = driver.info().kinds.clone();
        let entries = kinds
            .iter()
            .map(|kind| match entry(&driver, kind) {
                Ok(entry) => Ok((kind.clone(), entry)),
                Err(error) => Err(format!("kind {kind}: {error}")),
            })
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        Ok((kinds, entries))
    });
    match described {
        Ok(Ok((kinds, entries))) => {
            let registered = Registered {
                kinds,
                state: State::Built(driver),
            };
            (registered, entries)
        }
        Ok(Err(reason)) => failed(reason),
        Err(failure) => failed(
            failure
                .of_driver(factory.name(), "the list of its kinds")
                .to_string(),
        ),
    }
}

fn entry(driver: &Arc<dyn ObjectDriver>, kind: &Kind) -> Result<KindEntry> {
    let fault = |what: &str| Error::internal(format!("the driver names no {what}"));
    if kind.driver() != driver.info().name.as_str() {
        return Err(Error::internal("the first part of a kind is its driver's name"));
    }
    let schema = driver.schema(kind).ok_or_else(|| fault("schema"))?;
    let capabilities = driver.capabilities(kind).ok_or_else(|| fault("capabilities"))?;
    let calls = capabilities
        .methods
        .iter()
        .map(|(name, method)| {
            let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !fits || name.len() > 63 {
                return Err(Error::internal(format!("{name:?} is not the name of a method")));
            }
            Ok((
                name.clone(),
                PartSchema::compile("arguments", method.arguments.clone())?,
            ))
        })
        .collect::<Result<_>>()?;
    Ok(KindEntry {
        schema: PartSchema::compile("spec", schema.spec.clone())?,
        calls,
        object_schema: object_schema(kind, schema.spec.clone()),
        capabilities: capabilities.clone(),
        name: driver.info().name.clone(),
        driver: Arc::clone(driver),
    })
}

/// The schema of a whole object with the driver's part in it.
fn object_schema(kind: &Kind, mut spec: Value) -> Value {
    let mut whole = schemars::schema_for!(ObjectSpec).to_value();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("$schema");
        // A resource of its own, so that its references go on pointing into itself.
        spec.insert("$id".into(), json!(format!("urn:agent:kind:{kind}")));
    }
    whole["title"] = json!(format!("An object of kind {kind}"));
    whole["properties"]["kind"] = json!({"const": kind});
    whole["properties"]["spec"] = spec;
    whole
}
