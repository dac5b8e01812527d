//! What a plan may do: a closed list, so that what a controller can change is seen at a glance.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde_json::Value;

/// A resource by its names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    pub resource: ApiResource,
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    pub name: String,
}

impl Target {
    pub fn of<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// How a patch is meant.
#[derive(Clone, PartialEq, Debug)]
pub enum Patch {
    Merge(Value),
    Strategic(Value),
    /// RFC 6902, with its tests as preconditions.
    Json(Value),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// The target's name may be empty when the object has a `generateName`.
    Create { target: Target, object: Value },
    Patch {
        target: Target,
        subresource: &'static str,
        patch: Patch,
    },
    /// Replaces the object; it carries the resourceVersion that it was planned on, or none where it does
    /// not matter what has changed since.
    Update {
        target: Target,
        subresource: &'static str,
        object: Value,
    },
    Delete {
        target: Target,
        /// Refused when the object is another one by now.
        uid: Option<String>,
        resource_version: Option<String>,
        grace_seconds: Option<u32>,
        propagation: Option<Propagation>,
    },
    /// Deletes all objects of the target's resource in its namespace; the target has no name. What
    /// the server does not serve, or not so, holds nothing.
    DeleteCollection {
        target: Target,
        propagation: Option<Propagation>,
    },
    /// Reports by an event on `about` how the action ended; `{error}` in the text of a failure is
    /// replaced by the error.
    Noted {
        action: Box<Action>,
        about: Box<ObjectReference>,
        /// Reason and message; of most, only a failure is worth telling.
        success: Option<(&'static str, String)>,
        failure: (&'static str, String),
    },
    Event {
        about: ObjectReference,
        warning: bool,
        reason: &'static str,
        message: String,
    },
}

impl Action {
    /// The action, with an event that reports how it ended.
    #[must_use]
    pub fn noted(
        self,
        about: &ObjectReference,
        success: (&'static str, String),
        failure: (&'static str, String),
    ) -> Self {
        Self::Noted {
            action: Box::new(self),
            about: Box::new(about.clone()),
            success: Some(success),
            failure,
        }
    }
    /// The action, with an event if it fails.
    #[must_use]
    pub fn noted_failure(self, about: &ObjectReference, failure: (&'static str, String)) -> Self {
        Self::Noted {
            action: Box::new(self),
            about: Box::new(about.clone()),
            success: None,
            failure,
        }
    }
    /// What it writes to; `None` for an event.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Create { target, .. }
            | Self::Patch { target, .. }
            | Self::Update { target, .. }
            | Self::Delete { target, .. }
            | Self::DeleteCollection { target, .. } => Some(target),
            Self::Noted { action, .. } => action.target(),
            Self::Event { .. } => None,
        }
    }
    /// Whose status it writes.
    pub(crate) fn status_of(&self) -> Option<&Target> {
        match self {
            Self::Update {
                target,
                subresource,
                ..
            }
            | Self::Patch {
                target,
                subresource,
                ..
            } => Some(target).filter(|_| *subresource == "status"),
            Self::Noted { action, .. } => action.status_of(),
            _ => None,
        }
    }
    /// Whether it is an event on this object.
    pub(crate) fn is_event_on(&self, target: &Target) -> bool {
        let Self::Event { about, .. } = self else {
            return false;
        };
        about.kind.as_deref() == Some(&*target.resource.kind)
            && about.namespace.as_deref().unwrap_or_default() == target.namespace
            && about.name.as_deref() == Some(&*target.name)
    }
    /// Whether it makes an object that has an owner.
    pub(crate) fn makes_owned(&self) -> bool {
        match self {
            Self::Create { object, .. } => object["metadata"]["ownerReferences"].is_array(),
            Self::Noted { action, .. } => action.makes_owned(),
            _ => false,
        }
    }
    /// Whether it gives something that is there an owner that controls it: of a controller that
    /// [adopts](crate::Controller::ADOPTS), no other patch names one.
    pub(crate) fn adopts(&self) -> bool {
        match self {
            Self::Patch {
                patch: Patch::Merge(patch),
                ..
            } => {
                let owners = patch["metadata"]["ownerReferences"].as_array();
                let mut owners = owners.into_iter().flatten();
                owners.any(|owner| owner["controller"] == true)
            }
            Self::Noted { action, .. } => action.adopts(),
            _ => false,
        }
    }
    pub fn delete(target: Target, uid: Option<String>) -> Self {
        Self::Delete {
            target,
            uid,
            resource_version: None,
            grace_seconds: None,
            propagation: None,
        }
    }
    pub fn merge(target: Target, patch: Value) -> Self {
        Self::Patch {
            target,
            subresource: "",
            patch: Patch::Merge(patch),
        }
    }
    pub fn merge_status(target: Target, status: Value) -> Self {
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        Self::Patch {
            target,
            subresource: "status",
            patch,
        }
    }
}

/// What is to be done for one key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Done side by side.
    pub actions: Vec<Action>,
    /// Done after the actions if all of them went well: what says that they were done.
    pub then: Vec<Action>,
    /// Done instead of these if one did not.
    pub otherwise: Vec<Action>,
    /// Done after these, whether they went well or not; but what an action failed on stays as it is.
    pub last: Vec<Action>,
    /// Look again after so many milliseconds, though nothing changed.
    pub wake_after_millis: Option<u64>,
    /// Why, for the log.
    pub reasons: Vec<String>,
}

impl Plan {
    /// All actions, without what is noted about them.
    pub fn all(&self) -> impl Iterator<Item = &Action> {
        let all = self.actions.iter().chain(&self.then).chain(&self.otherwise);
        let all = all.chain(&self.last);
        all.map(|action| {
            let mut action = action;
            while let Action::Noted { action: inner, .. } = action {
                action = inner;
            }
            action
        })
    }
}

impl From<Action> for Plan {
    fn from(action: Action) -> Self {
        Self {
            actions: vec![action],
            ..Self::default()
        }
    }
}

impl Plan {
    pub fn nothing() -> Self {
        Self::default()
    }
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }
    /// Leaves out what would be made for an owner; where something would be adopted, all: the rest
    /// counts on that.
    pub(crate) fn give_nothing(&mut self) {
        if self.all().any(Action::adopts) {
            *self = Self::nothing();
        }
        for stage in [
            &mut self.actions,
            &mut self.then,
            &mut self.otherwise,
            &mut self.last,
        ] {
            stage.retain(|action| !action.makes_owned());
        }
    }
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.reasons.push(why.into());
        self
    }
}

/// A reference to an object, as events carry it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    object.object_ref(&())
}

/// An object of any kind, from its value.
pub fn dynamic(value: Value) -> Result<DynamicObject, serde_json::Error> {
    serde_json::from_value(value)
}
