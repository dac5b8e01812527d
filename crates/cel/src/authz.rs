//! The authorizer library: `authorizer.group('apps').resource('deployments').check('create')`.
//! Who answers is the caller's; this file only gathers what is asked.

use std::rc::Rc;

use crate::error::EvalError;
use crate::value::{Evaluated, Value};

/// What an expression asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name of the service account that is asked about; none for the requester.
    pub service_account: Option<(String, String)>,
    pub verb: String,
    /// A path that is no resource; the fields below are empty then.
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

/// Who answers. Synchronous: decisions come from caches.
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

impl<'a> Value<'a> {
    /// The variable `authorizer`.
    pub fn authorizer(answers: &'a dyn Authorizer) -> Self {
        Self::Authz(AuthzValue::Authorizer(answers, Rc::default()))
    }

    /// A check with everything but its verb, such as the variable `authorizer.requestResource`.
    pub fn resource_check(answers: &'a dyn Authorizer, check: Check) -> Self {
        Self::Authz(AuthzValue::Resource(answers, Rc::new(check)))
    }
}

/// A function of the library on its receiver.
pub(crate) fn call<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    use AuthzValue::{Authorizer, Group, Path, Resource};
    let wrong = EvalError::no_overload;
    let Some(Value::Authz(receiver)) = args.first() else {
        return Err(wrong());
    };
    let mut texts = args[1..].iter().map(|arg| match arg {
        Value::String(text) => Ok(text.to_string()),
        _ => Err(wrong()),
    });
    let mut text = || texts.next().unwrap_or_else(|| Err(wrong()));
    let with = |check: &Rc<Check>, change: &dyn Fn(&mut Check)| {
        let mut check = (**check).clone();
        change(&mut check);
        Rc::new(check)
    };
    Ok(Value::Authz(match (receiver, name) {
        (Authorizer(a, c), "path") => {
            let path = text()?;
            if path.is_empty() {
                return Err(EvalError::new("path must not be empty"));
            }
            Path(*a, with(c, &|c| c.path = Some(path.clone())))
        }
        (Authorizer(a, c), "group") => {
            let group = text()?;
            Group(*a, with(c, &|c| c.group = group.clone()))
        }
        (Authorizer(a, c), "serviceAccount") => {
            let account = (text()?, text()?);
            check_account(&account)?;
            Authorizer(*a, with(c, &|c| c.service_account = Some(account.clone())))
        }
        (Group(a, c), "resource") => {
            let resource = text()?;
            Resource(*a, with(c, &|c| c.resource = resource.clone()))
        }
        (Resource(a, c), "subresource" | "namespace" | "name") => {
            let text = text()?;
            let c = with(c, &|c| {
                *match name {
                    "subresource" => &mut c.subresource,
                    "namespace" => &mut c.namespace,
                    _ => &mut c.name,
                } = text.clone();
            });
            Resource(*a, c)
        }
        (Resource(a, c), "fieldSelector") => {
            let text = text()?;
            Resource(*a, with(c, &|c| c.field_selector = Some(text.clone())))
        }
        (Resource(a, c), "labelSelector") => {
            let text = text()?;
            Resource(*a, with(c, &|c| c.label_selector = Some(text.clone())))
        }
        (Path(a, c) | Resource(a, c), "check") => {
            let verb = text()?;
            let check = with(c, &|c| c.verb = verb.clone());
            AuthzValue::Decision(Rc::new(a.authorize(&check)))
        }
        (AuthzValue::Decision(d), _) => return decision(d, name),
        _ => return Err(wrong()),
    }))
}

fn check_account((namespace, name): &(String, String)) -> Result<(), EvalError> {
    if let Some(what) = api::names::is_dns1123_subdomain(name).first() {
        return Err(EvalError::new(format!(
            "Invalid service account name: {what}"
        )));
    }
    if let Some(what) = api::names::is_dns1123_label(namespace).first() {
        return Err(EvalError::new(format!(
            "Invalid service account namespace: {what}"
        )));
    }
    Ok(())
}

fn decision<'a>(decision: &Decision, name: &str) -> Evaluated<'a> {
    Ok(match name {
        "allowed" => Value::Bool(decision.allowed),
        "errored" => Value::Bool(decision.error.is_some()),
        "error" => Value::text(decision.error.clone().unwrap_or_default()),
        "reason" => Value::text(decision.reason.clone()),
        _ => return Err(EvalError::no_overload()),
    })
}
