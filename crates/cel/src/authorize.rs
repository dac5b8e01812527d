//! The authorizer library: `authorizer.group('apps').resource('deployments').check('create')`.
//! The caller says what answers; this file only gathers what is asked.

use std::rc::Rc;

use crate::authz::{Authorizer, AuthzValue, Check, Decision};
use crate::error::EvalError;
use crate::value::{Evaluated, Value};

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
    use AuthzValue::{Group, Path, Resource};
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
        (AuthzValue::Authorizer(a, c), "path") => {
            let path = text()?;
            if path.is_empty() {
                return Err(EvalError::new("path must not be empty"));
            }
            Path(*a, with(c, &|c| c.path = Some(path.clone())))
        }
        (AuthzValue::Authorizer(a, c), "group") => {
            let group = text()?;
            Group(*a, with(c, &|c| c.group = group.clone()))
        }
        (AuthzValue::Authorizer(a, c), "serviceAccount") => {
            let account = (text()?, text()?);
            check_account(&account)?;
            AuthzValue::Authorizer(*a, with(c, &|c| c.service_account = Some(account.clone())))
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
