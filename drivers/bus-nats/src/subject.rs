//! Subjects and streams.

use agent_api_model::{Error, ErrorKind, Result, Topic};

/// Stands in a subject for a kind or an object that is not known.
pub(crate) const UNKNOWN: &str = "_";
/// In the place of an agent: any of them.
pub(crate) const ANY: &str = "_any";
/// In the place of a verb: the caller has read some of a long reply.
pub(crate) const CREDIT: &str = "_credit";
/// In the place of a verb: the caller wants no more.
pub(crate) const LEAVE: &str = "_leave";
/// Subjects are kept below this; the server closes connections over much longer ones.
const LONGEST: usize = 255;

/// The streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamName {
    /// Queued commands.
    In,
    /// Answers to queued commands, and outcomes.
    Result,
    /// Lifecycle events, for a time.
    Events,
    /// The last lifecycle event of each object.
    Status,
    /// Metrics, logs and traces, for a short time.
    Telemetry,
}

/// What is published on a topic, and so how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Stored and acknowledged.
    Durable(StreamName),
    /// Stored in bulk; acknowledged now and then.
    Telemetry,
    /// For who listens now.
    Core,
}

/// The subjects of one bus, under a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

impl Default for Layout {
    fn default() -> Self {
        Self { root: "agent".into() }
    }
}

impl Layout {
    /// Subjects under this root: words as of a topic, such as `agent` or `acme.agent`.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is no topic or longer than 100 bytes.
    pub fn new(root: &str) -> Result<Self> {
        if root.len() > 100 {
            return Err(Error::invalid("root", "is longer than 100 bytes"));
        }
        Topic::new(root).map_err(|message| Error::invalid("root", message))?;
        Ok(Self { root: root.into() })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The name of a stream: the root in capitals and what it holds, for example `AGENT_IN`.
    #[must_use]
    pub fn stream(&self, stream: StreamName) -> String {
        let prefix = self.root.to_ascii_uppercase().replace('.', "_");
        let name = match stream {
            StreamName::In => "IN",
            StreamName::Result => "RESULT",
            StreamName::Events => "EVENTS",
            StreamName::Status => "STATUS",
            StreamName::Telemetry => "TELEMETRY",
        };
        format!("{prefix}_{name}")
    }

    /// The subjects that a stream holds; none for the one that is fed by another.
    #[must_use]
    pub fn stream_subjects(&self, stream: StreamName) -> Vec<String> {
        let root = &self.root;
        match stream {
            StreamName::In => vec![format!("{root}.q.>")],
            StreamName::Result => vec![format!("{root}.out.*.result"), format!("{root}.out.*.result.>")],
            StreamName::Events => vec![format!("{root}.out.*.status"), format!("{root}.out.*.status.>")],
            StreamName::Status => Vec::new(),
            StreamName::Telemetry => ["metric", "log", "trace", "lease"]
                .iter()
                .flat_map(|lane| [format!("{root}.out.*.{lane}"), format!("{root}.out.*.{lane}.>")])
                .collect(),
        }
    }

    /// The bucket with the methods of objects.
    #[must_use]
    pub fn methods_bucket(&self) -> String {
        format!("{}_methods", self.root.replace('.', "_"))
    }

    /// A request.
    pub(crate) fn request(&self, agent: &str, verb: &str, kind: &str) -> Result<String> {
        checked(format!("{}.in.{agent}.{verb}.{kind}", self.root))
    }

    /// What agents that take a kind listen on.
    pub(crate) fn any_of(&self, kind: &str) -> String {
        format!("{}.in.{ANY}.*.{kind}", self.root)
    }

    /// Where a caller steers its long replies.
    pub(crate) fn steer(&self, agent: &str, what: &str) -> String {
        format!("{}.in.{agent}.{what}", self.root)
    }

    /// A queued command.
    pub(crate) fn queued(&self, agent: &str, verb: &str, kind: &str) -> Result<String> {
        checked(format!("{}.q.{agent}.{verb}.{kind}", self.root))
    }

    /// All queued commands of an agent.
    pub(crate) fn queue_of(&self, agent: &str) -> String {
        format!("{}.q.{agent}.>", self.root)
    }

    /// Where the answer to a queued command goes.
    pub(crate) fn result(&self, agent: &str, kind: &str) -> String {
        format!("{}.out.{agent}.result.{kind}", self.root)
    }

    /// Verb and kind of a request's subject, of either form.
    pub(crate) fn verb_of<'a>(&self, subject: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = subject.strip_prefix(self.root.as_str())?.strip_prefix('.')?;
        let mut words = rest.split('.');
        let carrier = words.next()?;
        if carrier != "in" && carrier != "q" {
            return None;
        }
        let _agent = words.next()?;
        let verb = words.next()?;
        let kind = words.next().unwrap_or(UNKNOWN);
        words.next().is_none().then_some((verb, kind))
    }

    /// How a topic is published.
    pub(crate) fn lane(&self, topic: &Topic) -> Lane {
        match self.out_word(topic.as_str()) {
            Some("status") => Lane::Durable(StreamName::Events),
            Some("result") => Lane::Durable(StreamName::Result),
            Some("metric" | "log" | "trace" | "lease") => Lane::Telemetry,
            _ => Lane::Core,
        }
    }

    /// The subject of a message: its topic, and for a status the object, so that the last of each is kept.
    pub(crate) fn subject(&self, topic: &Topic, object: Option<&str>) -> String {
        match object {
            Some(object) if self.is_status(topic.as_str()) => {
                let object = token(object);
                let subject = format!("{topic}.{object}");
                if subject.len() <= LONGEST {
                    subject
                } else {
                    topic.as_str().into()
                }
            }
            _ => topic.as_str().into(),
        }
    }

    /// The topic of a subject.
    pub(crate) fn topic(&self, subject: &str) -> Option<Topic> {
        if let Some((topic, _)) = subject.rsplit_once('.')
            && self.is_status(topic)
        {
            return Topic::new(topic).ok();
        }
        Topic::new(subject).ok()
    }

    /// The subjects that a pattern of topics needs: at most two.
    pub(crate) fn subjects(&self, pattern: &str) -> Vec<String> {
        let status = format!("{}.out.*.status", self.root);
        let mut subjects = vec![pattern.to_owned()];
        if !pattern.ends_with('>') && overlap(pattern, &status) {
            subjects.push(format!("{pattern}.*"));
        }
        subjects
    }

    /// Whether a topic is that of an agent's status.
    fn is_status(&self, topic: &str) -> bool {
        self.out_word(topic) == Some("status") && topic.ends_with(".status")
    }

    /// The word after the agent of a topic below `<root>.out.<agent>`.
    fn out_word<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let rest = topic.strip_prefix(self.root.as_str())?.strip_prefix(".out.")?;
        rest.split('.').nth(1)
    }
}

/// A text as one word of a subject: letters, digits, `_` and `-` stay, the rest becomes `_`.
pub(crate) fn token(text: &str) -> String {
    let word: String = text
        .chars()
        .take(64)
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if word.is_empty() { UNKNOWN.into() } else { word }
}

/// Whether some subject is covered by both patterns.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (mut a, mut b) = (one.split('.'), other.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == "*" || y == "*" || x == y => {}
            _ => return false,
        }
    }
}

fn checked(subject: String) -> Result<String> {
    match Topic::new(&subject) {
        Ok(_) => Ok(subject),
        Err(_) => Err(Error::new(
            ErrorKind::Invalid,
            "the agent or the verb of the request cannot be a word of a subject",
        )
        .with_operation("bus.call")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::new(text).unwrap()
    }

    #[test]
    fn a_status_has_its_object_in_the_subject_and_comes_back_as_its_topic() {
        let layout = Layout::new("acme.agent").unwrap();
        let status = topic("acme.agent.out.a1.status");
        let subject = layout.subject(&status, Some("web 1/ä"));
        assert_eq!(subject, "acme.agent.out.a1.status.web_1__");
        assert_eq!(layout.topic(&subject), Some(status.clone()));
        assert_eq!(layout.subject(&status, None), status.as_str());
        let metric = topic("acme.agent.out.a1.metric");
        assert_eq!(layout.subject(&metric, Some("web")), metric.as_str());
        assert_eq!(layout.topic(metric.as_str()), Some(metric));
        let long = topic(&format!("acme.agent.out.{}.status", "x".repeat(200)));
        assert_eq!(
            layout.subject(&long, Some(&"y".repeat(64))),
            long.as_str(),
            "never too long"
        );
    }

    #[test]
    fn lanes_are_by_topic() {
        let layout = Layout::default();
        for (text, lane) in [
            ("agent.out.a1.status", Lane::Durable(StreamName::Events)),
            ("agent.out.a1.result.process", Lane::Durable(StreamName::Result)),
            ("agent.out.a1.heartbeat", Lane::Core),
            ("agent.out.a1.log", Lane::Telemetry),
            ("agent.out.a1.lease.7", Lane::Telemetry),
            ("my.own.topic", Lane::Core),
        ] {
            assert_eq!(layout.lane(&topic(text)), lane, "{text}");
        }
    }

    #[test]
    fn a_pattern_of_status_covers_the_objects() {
        let layout = Layout::default();
        assert_eq!(
            layout.subjects("agent.out.*.status"),
            ["agent.out.*.status", "agent.out.*.status.*"]
        );
        assert_eq!(layout.subjects("agent.>"), ["agent.>"]);
        assert_eq!(layout.subjects("agent.out.a1.metric"), ["agent.out.a1.metric"]);
    }

    #[test]
    fn requests_are_words() {
        let layout = Layout::default();
        let subject = layout.request("a1", "create", "ray_job").unwrap();
        assert_eq!(layout.verb_of(&subject), Some(("create", "ray_job")));
        assert_eq!(layout.verb_of("agent.in.a1._credit"), Some((CREDIT, UNKNOWN)));
        assert_eq!(
            layout.verb_of("agent.q.a1.delete.process"),
            Some(("delete", "process"))
        );
        assert_eq!(layout.verb_of("agent.out.a1.status"), None);
        assert_eq!(layout.verb_of("agent.in.a1.a.b.c"), None);
        for bad in ["", "a b", "a.*", ">"] {
            assert!(layout.request("a1", bad, "_").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn streams_have_the_root_in_their_names_and_share_no_subject() {
        let layout = Layout::new("acme.agent").unwrap();
        assert_eq!(layout.stream(StreamName::In), "ACME_AGENT_IN");
        assert!(Layout::new("a b").is_err());
        let all = [
            StreamName::In,
            StreamName::Result,
            StreamName::Events,
            StreamName::Telemetry,
        ];
        for (n, one) in all.iter().enumerate() {
            for other in &all[n + 1..] {
                for a in layout.stream_subjects(*one) {
                    for b in layout.stream_subjects(*other) {
                        assert!(!overlap(&a, &b), "{a} and {b}");
                    }
                }
            }
        }
    }
}
