//! `serviceaccounts/token`: a signed token for an account, bound to a pod, a secret or a node,
//! which it does not outlive.

use api::{FieldError, FieldPath, GroupKind, GroupResource, Status};
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::call::{Answer, Call};
use crate::filters::tokens::{
    Audience, Claims, EXTENDED_SECONDS, POD_TOKEN_SECONDS, Private, Ref, Tokens,
};
use crate::object::{meta_mut, meta_text, time_text};
use crate::verbs::admit::Admission;
use crate::verbs::decode::decode_body;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;

/// Issues a token for the service account of the path.
pub async fn create(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let mut request = decode_body(call, body)?;
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    match_metadata(&request, "name", name)?;
    match_metadata(&request, "namespace", namespace)?;
    let config = call.state.settings();
    let tokens = config
        .tokens
        .as_ref()
        .ok_or_else(|| Status::method_not_supported(&call.resource(), "create"))?;
    let account = call.stored(name).await?.to_value();
    let uid = meta_text(&account, "uid");
    let asked = meta_text(&request, "uid");
    if !asked.is_empty() && asked != uid {
        return Err(Status::conflict(
            &GroupResource::new(GROUP, KIND),
            name,
            &format!(
                "the UID in the token request ({asked}) does not match the UID of the service account ({uid})"
            ),
        ));
    }
    let dry_run = call.write_options()?;
    let now = call.state.now();
    complete(&mut request, tokens, (namespace, name, uid), now);
    admit(call, &mut request, dry_run).await?;
    check(&request)?;
    let bound = bound_to(call, &request).await?;
    if let Some(asked) = shorten(&mut request, tokens) {
        let given = seconds(&request);
        call.warn(format!(
            "requested expiration of {asked} seconds shortened to {given} seconds"
        ));
    }
    let (claims, shown_until) = claims(&request, tokens, &bound, (now, call.state.random().uuid()));
    let failed = |why: String| Status::internal(format!("failed to generate token: {why}"));
    let claims = serde_json::to_value(&claims).map_err(|e| failed(e.to_string()))?;
    let token = tokens.signer.sign(&claims).await;
    let token = token.map_err(|e| failed(e.to_string()))?;
    request["status"] = json!({ "token": token, "expirationTimestamp": time_text(shown_until) });
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    Ok(Answer::Value {
        code: 201,
        value: request,
        ty: sub.ty.clone(),
    })
}

fn match_metadata(request: &Value, field: &str, want: &str) -> Result<(), Status> {
    let have = meta_text(request, field);
    if have.is_empty() || have == want {
        return Ok(());
    }
    let path = FieldPath::new("metadata").child(field);
    let why = format!("must match the service account {field} if specified");
    let error = FieldError::invalid(&path, &have.into(), &why);
    Err(Status::invalid(
        &GroupKind::new(GROUP, KIND),
        want,
        &[error],
    ))
}

/// What the client left out.
fn complete(request: &mut Value, tokens: &Tokens, own: (&str, &str, &str), now: i64) {
    let (namespace, name, uid) = own;
    request["kind"] = KIND.into();
    request["apiVersion"] = format!("{GROUP}/v1").into();
    let meta = meta_mut(request);
    meta.insert("name".into(), name.into());
    meta.insert("namespace".into(), namespace.into());
    meta.insert("uid".into(), uid.into());
    meta.insert("creationTimestamp".into(), time_text(now).into());
    if let Some(all) = request.as_object_mut() {
        all.remove("status");
    }
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    let spec = &mut request["spec"];
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!(tokens.audiences);
    }
    if spec["expirationSeconds"].is_null() {
        spec["expirationSeconds"] = DEFAULT_SECONDS.into();
    }
    if spec.get("boundObjectRef").is_none_or(Value::is_null) {
        spec["boundObjectRef"] = Value::Null;
    }
}

async fn admit(call: &Call, request: &mut Value, dry_run: bool) -> Result<(), Status> {
    let mut admission = Admission::new(call, Operation::Create, "token", &call.info.name, dry_run);
    admission.mutate(Some(request), None).await?;
    admission.validate(Some(request), None).await
}

fn seconds(request: &Value) -> i64 {
    request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(DEFAULT_SECONDS)
}

fn check(request: &Value) -> Result<(), Status> {
    let seconds = seconds(request);
    let why = if seconds < LEAST_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MOST_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = FieldPath::new("spec").child("expirationSeconds");
    let error = FieldError::invalid(&path, &seconds.into(), why);
    Err(Status::invalid(&GroupKind::new(GROUP, KIND), "", &[error]))
}

/// Has a token that would live longer than tokens may live as long as those; what was asked for then.
fn shorten(request: &mut Value, tokens: &Tokens) -> Option<i64> {
    let longest = tokens.longest_seconds;
    let longest = longest.or_else(|| tokens.signer.longest_seconds())?;
    let asked = seconds(request);
    if asked <= longest {
        return None;
    }
    request["spec"]["expirationSeconds"] = longest.into();
    Some(asked)
}

/// The objects that the token is bound to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bound {
    pod: Option<Ref>,
    node: Option<Ref>,
    secret: Option<Ref>,
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

async fn object(call: &Call, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    // As new as the store: the object may have been deleted and made again just now.
    let found = call.state.newest("", resource, namespace, name).await?;
    found
        .map(|o| o.to_value())
        .ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
}

async fn bound_to(call: &Call, request: &Value) -> Result<Bound, Status> {
    let part = |f: &str| text(request, &format!("/spec/boundObjectRef/{f}"));
    if request
        .pointer("/spec/boundObjectRef")
        .is_none_or(Value::is_null)
    {
        return Ok(Bound::default());
    }
    let (kind, name, uid) = (part("kind"), part("name"), part("uid"));
    let namespace = call.info.namespace.as_str();
    let mut bound = Bound::default();
    let (found, place) = match (part("apiVersion"), kind) {
        ("v1", "Pod") => {
            let pod = object(call, "pods", namespace, name).await?;
            if text(&pod, "/spec/serviceAccountName") != call.info.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.info.name
                )));
            }
            bound.node = node_of(call, &pod).await?;
            (pod, &mut bound.pod)
        }
        ("v1", "Node") => (object(call, "nodes", "", name).await?, &mut bound.node),
        ("v1", "Secret") => (
            object(call, "secrets", namespace, name).await?,
            &mut bound.secret,
        ),
        (version, kind) => {
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    };
    let have = meta_text(&found, "uid");
    if !uid.is_empty() && uid != have {
        return Err(Status::conflict(
            &GroupResource::new("", kind),
            name,
            &format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        ));
    }
    *place = Some(Ref {
        name: name.to_owned(),
        uid: have.to_owned(),
    });
    Ok(bound)
}

/// The pod's node, for readers of the token; its uid only if it exists.
async fn node_of(call: &Call, pod: &Value) -> Result<Option<Ref>, Status> {
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let node = call.state.fresh("", "nodes", "", name).await?;
    let uid = node.map(|n| meta_text(&n.to_value(), "uid").to_owned());
    Ok(Some(Ref {
        name: name.to_owned(),
        uid: uid.unwrap_or_default(),
    }))
}

/// The claims of a token with this identity, issued now, and when the token ends as its owner is
/// given it.
fn claims(
    request: &Value,
    tokens: &Tokens,
    bound: &Bound,
    (now, id): (i64, String),
) -> (Claims, i64) {
    let audiences: Vec<String> = request
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let asked = seconds(request);
    let extended = tokens.extend
        && bound.pod.is_some()
        && asked == POD_TOKEN_SECONDS
        && audiences.iter().all(|a| tokens.audiences.contains(a));
    let lives = match tokens.signer.longest_seconds() {
        _ if !extended => asked,
        Some(longest) => EXTENDED_SECONDS.min(longest),
        None => EXTENDED_SECONDS,
    };
    let (namespace, name) = (meta_text(request, "namespace"), meta_text(request, "name"));
    let claims = Claims {
        aud: Audience(audiences),
        exp: Some(now + lives),
        iat: Some(now),
        nbf: Some(now),
        iss: tokens.issuer.clone(),
        jti: id,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        private: Some(Private {
            namespace: namespace.to_owned(),
            node: bound.node.clone(),
            pod: bound.pod.clone(),
            secret: bound.secret.clone(),
            serviceaccount: Ref {
                name: name.to_owned(),
                uid: meta_text(request, "uid").to_owned(),
            },
            warnafter: extended.then_some(now + asked),
        }),
        legacy: None,
    };
    (claims, now + asked)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_pods_token_outlives_what_it_shows() {
        let (signer, _) = wire::jwt::Signer::generate().expect("key");
        let tokens = Tokens::new(Arc::new(signer), "https://k");
        let mut request = json!({ "spec": { "expirationSeconds": POD_TOKEN_SECONDS } });
        complete(&mut request, &tokens, ("a", "b", "u"), 1000);
        let pod = Bound {
            pod: Some(Ref::default()),
            ..Bound::default()
        };
        let (with_pod, shown) = claims(&request, &tokens, &pod, (1000, String::new()));
        assert_eq!(with_pod.exp, Some(1000 + EXTENDED_SECONDS));
        assert_eq!(shown, 1000 + POD_TOKEN_SECONDS);
        let warn = with_pod.private.and_then(|p| p.warnafter);
        assert_eq!(warn, Some(1000 + POD_TOKEN_SECONDS));
        let (free, _) = claims(&request, &tokens, &Bound::default(), (1000, String::new()));
        assert_eq!(free.exp, Some(1000 + POD_TOKEN_SECONDS));
        request["spec"]["audiences"] = json!(["vault"]);
        let (foreign, _) = claims(&request, &tokens, &pod, (1000, String::new()));
        assert_eq!(foreign.exp, Some(1000 + POD_TOKEN_SECONDS));
    }

    #[test]
    fn what_is_asked_for_longer_than_tokens_live_is_shortened() {
        let (signer, _) = wire::jwt::Signer::generate().expect("key");
        let mut tokens = Tokens::new(Arc::new(signer), "https://k");
        let mut request = json!({ "spec": { "expirationSeconds": 9000 } });
        assert_eq!(shorten(&mut request, &tokens), None);
        tokens.longest_seconds = Some(9000);
        assert_eq!(shorten(&mut request, &tokens), None);
        tokens.longest_seconds = Some(3600);
        assert_eq!(shorten(&mut request, &tokens), Some(9000));
        assert_eq!(seconds(&request), 3600);
    }

    #[test]
    fn durations_have_bounds() {
        for (seconds, good) in [(599, false), (600, true), (MOST_SECONDS + 1, false)] {
            let request = json!({ "spec": { "expirationSeconds": seconds } });
            assert_eq!(check(&request).is_ok(), good, "{seconds}");
        }
    }
}
