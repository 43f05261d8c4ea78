//! The resource, scope and attributes that all signals share.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use agent_api_model::{AgentId, Guid, ObjectView};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// The objects of a batch by GUID.
pub(super) struct Views<'a> {
    agent: &'a AgentId,
    views: HashMap<Guid, &'a Arc<ObjectView>>,
}

impl<'a> Views<'a> {
    pub(super) fn new(agent: &'a AgentId, objects: &'a [Arc<ObjectView>]) -> Self {
        Self {
            agent,
            views: objects.iter().map(|view| (view.guid, view)).collect(),
        }
    }

    pub(super) fn view(&self, guid: Guid) -> Option<&ObjectView> {
        self.views.get(&guid).map(|view| &***view)
    }

    pub(super) fn resource(&self, guid: Guid) -> Resource {
        let mut attributes = vec![
            text("service.instance.id", guid.to_string()),
            text("agent.id", self.agent.as_str()),
        ];
        if let Some(view) = self.view(guid) {
            attributes.push(text("service.name", view.name.as_str()));
            attributes.push(text("agent.object.kind", view.kind.as_str()));
            let labels = view.labels.iter();
            attributes
                .extend(labels.map(|(key, value)| text(format!("agent.object.label.{key}"), value.as_str())));
        }
        Resource {
            attributes,
            ..Resource::default()
        }
    }
}

pub(super) fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "agent".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    })
}

pub(super) fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.into())),
        }),
        ..KeyValue::default()
    }
}

pub(super) fn attributes(pairs: Vec<(Cow<'static, str>, Cow<'static, str>)>) -> Vec<KeyValue> {
    pairs.into_iter().map(|(key, value)| text(key, value)).collect()
}
