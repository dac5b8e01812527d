//! Events about pods and the node, in the words that people look for. How they are counted and
//! bounded, and where they are written, is `control`'s.

use clock::Clock;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

/// Whether something is worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Someone should look.
    Warning,
}

/// Takes events and sends them in the background.
#[derive(Clone, Debug)]
pub struct Recorder(control::Recorder);

impl Recorder {
    /// A recorder whose events come from this node.
    #[must_use]
    pub fn start(client: kube::Client, node: &str, clock: Clock) -> Self {
        Self(control::Recorder::new(client, "kubelet", node, clock))
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock()
    }

    /// An event about a pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let field_path = container.map(|name| {
            if crate::pod::spec::is_init(pod, name) {
                format!("spec.initContainers{{{name}}}")
            } else if crate::pod::spec::container(pod, name).is_none() {
                format!("spec.ephemeralContainers{{{name}}}")
            } else {
                format!("spec.containers{{{name}}}")
            }
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        self.about(&about, severity, reason, message);
    }

    /// An event about the node.
    pub fn node(&self, name: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.about(&about, severity, reason, message);
    }

    /// An event about any object.
    pub fn about(
        &self,
        about: &ObjectReference,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let warning = severity == Severity::Warning;
        self.0.event(about, warning, reason, &message.into());
    }
}
