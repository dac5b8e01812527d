//! Services of SCTP at nodes whose kernels cannot serve them: each is named once, in the log and by an
//! event of the Service. Which Services those are is decided here, what the kernel lacks is given.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::model::Name;

/// Why rules for SCTP lead nowhere, or nobody is there.
pub const REASON: &str = "SCTPNotSupported";

/// What a kernel lacks of SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingSctp {
    /// Its connections are not tracked.
    pub tracking: bool,
    /// Programs cannot speak it.
    pub sockets: bool,
}

impl MissingSctp {
    /// Of this machine, as far as it is known.
    pub fn here() -> Self {
        Self {
            tracking: host::sctp::is_tracked() == Some(false),
            sockets: !host::sctp::has_sockets(),
        }
    }

    /// What that means for a Service with endpoints on this node, or without.
    fn message(self, has_endpoints: bool) -> Option<&'static str> {
        match (self.tracking, self.sockets && has_endpoints) {
            (true, _) => Some(
                "its kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP): what is sent from there to \
                 the Service's SCTP ports reaches no endpoint",
            ),
            (false, true) => Some(
                "its kernel has no sockets of SCTP (CONFIG_IP_SCTP): the Service's endpoints there \
                 cannot listen at their SCTP ports",
            ),
            (false, false) => None,
        }
    }
}

/// A Service with a port of SCTP.
#[derive(Debug, Default)]
struct Watched {
    uid: String,
    said: BTreeSet<&'static str>,
}

/// Services with ports of SCTP, and what was said of each.
#[derive(Debug, Default)]
pub struct SctpServices {
    all: BTreeMap<Name, Watched>,
    /// Those of a list that is being read: what is missing in it is gone.
    listed: BTreeSet<Name>,
}

impl SctpServices {
    /// Takes in an event.
    pub fn hear(&mut self, event: &Event<Service>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(service) => {
                if self.take(service) {
                    self.listed.insert(name_of(service));
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.all.retain(|name, _| listed.contains(name));
            }
            Event::Apply(service) => {
                self.take(service);
            }
            Event::Delete(service) => {
                self.all.remove(&name_of(service));
            }
        }
    }

    /// Whether it has such a port.
    fn take(&mut self, service: &Service) -> bool {
        let ports = service.spec.iter().flat_map(|spec| &spec.ports).flatten();
        let mut protocols = ports.map(|port| port.protocol.as_deref());
        if !protocols.any(|protocol| protocol == Some("SCTP")) {
            // Most have none, and need no name then.
            if !self.all.is_empty() {
                self.all.remove(&name_of(service));
            }
            return false;
        }
        let known = self.all.entry(name_of(service)).or_default();
        let uid = service.uid().unwrap_or_default();
        if known.uid != uid {
            *known = Watched {
                uid,
                ..Watched::default()
            };
        }
        true
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What is to be said now, and was not yet, of which Service.
    pub fn due(
        &mut self,
        missing: MissingSctp,
        has_endpoints: impl Fn(&Name) -> bool,
    ) -> Vec<(ObjectReference, &'static str)> {
        let mut due = Vec::new();
        for (name, watched) in &mut self.all {
            let Some(message) = missing.message(has_endpoints(name)) else {
                continue;
            };
            if watched.said.insert(message) {
                due.push((reference(name, &watched.uid), message));
            }
        }
        due
    }
}

fn name_of(service: &Service) -> Name {
    Name {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
    }
}

fn reference(of: &Name, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(of.namespace.clone()),
        name: Some(of.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(name: &str, protocol: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "n", "uid": format!("uid-{name}") },
            "spec": { "ports": [{ "port": 80 }, { "port": 81, "protocol": protocol }] },
        }))
        .expect("a Service")
    }

    #[test]
    fn what_a_kernel_lacks_is_said_once_of_each_service() {
        let mut all = SctpServices::default();
        for event in [
            Event::Init,
            Event::InitApply(service("a", "SCTP")),
            Event::InitApply(service("b", "UDP")),
            Event::InitDone,
        ] {
            all.hear(&event);
        }
        let missing = |tracking, sockets| MissingSctp { tracking, sockets };
        let names = |due: Vec<(ObjectReference, &str)>| -> Vec<String> {
            let name = |(about, _): (ObjectReference, _)| about.name.expect("a name");
            due.into_iter().map(name).collect()
        };
        let none = Vec::<String>::new();
        assert_eq!(names(all.due(missing(false, false), |_| true)), none);
        // Nobody on this node would speak it.
        assert_eq!(names(all.due(missing(false, true), |_| false)), none);
        assert_eq!(names(all.due(missing(false, true), |_| true)), ["a"]);
        assert_eq!(names(all.due(missing(false, true), |_| true)), none);
        assert_eq!(names(all.due(missing(true, true), |_| false)), ["a"]);
        // One that is made again, or gets such a port.
        all.hear(&Event::Delete(service("a", "SCTP")));
        all.hear(&Event::Apply(service("b", "SCTP")));
        assert_eq!(names(all.due(missing(true, true), |_| true)), ["b"]);
        all.hear(&Event::Apply(service("a", "SCTP")));
        assert_eq!(names(all.due(missing(true, true), |_| true)), ["a"]);
        all.hear(&Event::Apply(service("b", "TCP")));
        for event in [Event::Init, Event::InitDone] {
            all.hear(&event);
        }
        assert!(all.is_empty());
    }

    #[test]
    fn an_event_is_of_the_service() {
        let mut all = SctpServices::default();
        all.hear(&Event::Apply(service("a", "SCTP")));
        let missing = MissingSctp {
            tracking: true,
            sockets: false,
        };
        let due = all.due(missing, |_| false);
        let (about, message) = due.first().expect("one");
        assert_eq!(about.uid.as_deref(), Some("uid-a"));
        assert!(message.contains("CONFIG_NF_CT_PROTO_SCTP"), "{message}");
    }
}
