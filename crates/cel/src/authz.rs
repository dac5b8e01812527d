//! What the authorizer library asks, and what answers it.

use std::rc::Rc;

/// What an expression asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of the service account that is asked about; none for the requester.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    /// A path that is not a resource; the fields below are empty then.
    pub path: Option<String>,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// As written; the answerer reads them.
    pub field_selector: Option<String>,
    pub label_selector: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// What answers the checks. Synchronous: decisions come from caches.
pub trait Authorizer {
    fn authorize(&self, check: &Check) -> Decision;
}

/// Values of the library.
#[derive(Clone)]
pub enum AuthzValue<'a> {
    Authorizer(&'a dyn Authorizer, Rc<Check>),
    Path(&'a dyn Authorizer, Rc<Check>),
    Group(&'a dyn Authorizer, Rc<Check>),
    Resource(&'a dyn Authorizer, Rc<Check>),
    Decision(Rc<Decision>),
}

impl std::fmt::Debug for AuthzValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.type_name())
    }
}

impl PartialEq for AuthzValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decision(a), Self::Decision(b)) => a == b,
            (Self::Authorizer(_, a), Self::Authorizer(_, b))
            | (Self::Path(_, a), Self::Path(_, b))
            | (Self::Group(_, a), Self::Group(_, b))
            | (Self::Resource(_, a), Self::Resource(_, b)) => a == b,
            _ => false,
        }
    }
}

impl AuthzValue<'_> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(..) => "kubernetes.authorization.Authorizer",
            Self::Path(..) => "kubernetes.authorization.PathCheck",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
