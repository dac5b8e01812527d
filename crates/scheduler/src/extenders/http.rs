//! Asks extenders over HTTP or HTTPS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{ConnectError, Web};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use serde_json::Value;

use super::messages::{self, Nonsense};
use super::{Chosen, Extender, No, Opinion, Source};
use crate::pod::Pod;
use crate::preempt::Candidate;

/// Bytes of an answer: the nodes of a large cluster, whole.
const LARGEST_ANSWER: usize = 64 << 20;
/// Victims whose objects are read for extenders that do not know them.
const VICTIMS: usize = 1_000;

/// Why an extender gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("failed {verb:?} with extender at URL {url}, code {code}")]
    Refused {
        verb: String,
        url: String,
        code: u16,
    },
    #[error("extender at URL {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("extender at URL {url}: {why}")]
    Nonsense { url: String, why: Nonsense },
    #[error("expected at least one victim pod on node {0:?}")]
    NoVictim(String),
    #[error("reading pod {0}: {1}")]
    Pod(String, kube::Error),
}

/// An extender that can be asked.
pub struct Line {
    pub extender: Extender,
    client: Client,
}

/// All extenders, in the order of the configuration.
pub type Lines = Arc<Vec<Line>>;

/// Makes the connections; nothing is asked yet. Files have been read.
///
/// # Errors
/// When an address or a certificate is none.
pub fn lines(extenders: &[Extender]) -> Result<Lines, ConnectError> {
    let lines = extenders.iter().map(|extender| {
        let data = |source: &Source| match source {
            Source::Data(data) => Some(data.clone()),
            Source::None | Source::File(_) => None,
        };
        let tls = &extender.tls;
        let authorities = data(&tls.authorities);
        // As upstream: what is asked for HTTPS and given no authorities is believed.
        let blind = extender.https && authorities.is_none();
        let web = Web {
            url: &extender.url,
            insecure: tls.insecure || blind,
            server_name: tls.server_name.clone(),
            authorities,
            identity: data(&tls.certificate).zip(data(&tls.key)),
            timeout: Duration::from_millis(extender.timeout_ms),
        };
        Ok(Line {
            extender: extender.clone(),
            client: client::of_web(web)?,
        })
    });
    Ok(Arc::new(lines.collect::<Result<_, ConnectError>>()?))
}

impl Line {
    async fn send(&self, verb: &str, message: &Value) -> Result<Value, AskError> {
        let url = format!("{}/{verb}", self.extender.url.trim_end_matches('/'));
        let failed = |why: String| AskError::Unreachable {
            url: url.clone(),
            why,
        };
        // The client puts the address before the path.
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(kube::client::Body::from(message.to_string().into_bytes()))
            .map_err(|e| failed(e.to_string()))?;
        let limit = Duration::from_millis(self.extender.timeout_ms);
        let exchange = async {
            let answer = self.client.send(request).await;
            let answer = answer.map_err(|e| failed(e.to_string()))?;
            let code = answer.status().as_u16();
            if code != 200 {
                return Err(AskError::Refused {
                    verb: verb.to_owned(),
                    url: url.clone(),
                    code,
                });
            }
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect();
            let body = body.await.map_err(|e| failed(e.to_string()))?;
            serde_json::from_slice(&body.to_bytes()).map_err(|e| failed(e.to_string()))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(format!("no answer within {limit:?}"))),
        }
    }

    fn nonsense(&self, why: Nonsense) -> AskError {
        AskError::Nonsense {
            url: self.extender.url.clone(),
            why,
        }
    }
}

/// A pod as the API has it, not as the caches keep it.
async fn whole_pod(api: &Client, pod: &Pod) -> Result<Value, AskError> {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|e| AskError::Pod(name.clone(), kube::Error::HttpError(e)))?;
    let read = api.request(request).await;
    read.map_err(|e| AskError::Pod(name, e))
}

/// Asks which of these nodes are good for a pod, one extender after the other, and then all at once
/// how good they are.
///
/// # Errors
/// When an extender that must be heard gives no answer.
pub async fn about_nodes(
    lines: Lines,
    api: Client,
    pod: Arc<Pod>,
    nodes: Vec<Arc<Node>>,
) -> Result<Opinion, AskError> {
    let whole = whole_pod(&api, &pod).await?;
    let mut nodes: Vec<(String, Value)> = nodes
        .iter()
        .filter_map(|n| Some((n.metadata.name.clone()?, serde_json::to_value(&**n).ok()?)))
        .collect();
    let mut opinion = Opinion::default();
    let interested = || lines.iter().filter(|l| l.extender.is_interested(&pod));
    for line in interested().filter(|l| !l.extender.filter.is_empty()) {
        if nodes.is_empty() {
            break;
        }
        let message = messages::about_nodes(&line.extender, &whole, &nodes);
        let answer = line.send(&line.extender.filter, &message).await;
        let answer = answer.and_then(|a| {
            messages::filtered(&line.extender, &a, &nodes).map_err(|e| line.nonsense(e))
        });
        let filtered = match answer {
            Ok(filtered) => filtered,
            Err(e) if line.extender.ignorable => {
                tracing::info!("an extender that may be ignored is: {e}");
                continue;
            }
            Err(e) => return Err(e),
        };
        for (never, list) in [(true, filtered.never), (false, filtered.not_now)] {
            for (node, why) in list {
                let no = No { why, never };
                opinion.refused.entry(node.into()).or_insert(no);
            }
        }
        let before = std::mem::take(&mut nodes);
        nodes = before
            .into_iter()
            .filter(|(name, _)| filtered.good.contains(name))
            .collect();
    }
    opinion.good = nodes.iter().map(|(n, _)| n.as_str().into()).collect();
    opinion.refused.retain(|n, _| !opinion.good.contains(n));
    if nodes.len() < 2 {
        return Ok(opinion);
    }
    let asked = interested().filter(|l| !l.extender.prioritize.is_empty());
    let answers = asked.map(|line| {
        let message = messages::about_nodes(&line.extender, &whole, &nodes);
        async move {
            let answer = line.send(&line.extender.prioritize, &message).await;
            let points = answer.and_then(|a| messages::points(&a).map_err(|e| line.nonsense(e)));
            (line, points)
        }
    });
    for (line, points) in futures::future::join_all(answers).await {
        match points {
            Ok(points) => opinion.add(&line.extender, points.into_iter()),
            // As upstream: others give points, too.
            Err(e) => tracing::info!("an extender gives no points: {e}"),
        }
    }
    Ok(opinion)
}

/// Asks whose room may be taken, one extender after the other.
///
/// # Errors
/// When an extender that must be heard gives no answer, or names no victims of a node.
pub async fn about_victims(
    lines: Lines,
    api: Client,
    pod: Arc<Pod>,
    candidates: Vec<Arc<Candidate>>,
) -> Result<Vec<Chosen>, AskError> {
    let whole = whole_pod(&api, &pod).await?;
    let mut chosen: Vec<Chosen> = candidates.iter().map(|c| Chosen::of(c)).collect();
    let asked = lines.iter().filter(|l| {
        let extender = &l.extender;
        !extender.preempt.is_empty() && extender.is_interested(&pod)
    });
    let asked: Vec<&Line> = asked.collect();
    let mut pods: HashMap<String, Value> = HashMap::new();
    if asked.iter().any(|l| !l.extender.knows_nodes) {
        let victims = candidates.iter().flat_map(|c| &c.victims);
        for victim in victims.take(VICTIMS) {
            match whole_pod(&api, victim).await {
                Ok(object) => drop(pods.insert(victim.uid.to_string(), object)),
                // One that is gone cannot be shown.
                Err(AskError::Pod(_, kube::Error::Api(status))) if status.code == 404 => {}
                Err(e) => return Err(e),
            }
        }
    }
    for line in asked {
        let extender = &line.extender;
        let message =
            messages::about_victims(extender, &whole, &chosen, &|uid| pods.get(uid).cloned());
        let answer = line.send(&extender.preempt, &message).await;
        let answer = answer.and_then(|a| messages::victims(&a).map_err(|e| line.nonsense(e)));
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(e) if extender.ignorable => {
                tracing::info!("an extender that may be ignored is: {e}");
                continue;
            }
            Err(e) => return Err(e),
        };
        if let Some(none) = answer.iter().find(|c| c.victims.is_empty()) {
            if !extender.ignorable {
                return Err(AskError::NoVictim(none.node.clone()));
            }
            answer.retain(|c| !c.victims.is_empty());
        }
        chosen = answer;
        if chosen.is_empty() {
            break;
        }
    }
    Ok(chosen)
}

/// The extender that binds a pod, if one does.
pub fn binder<'a>(lines: &'a Lines, pod: &Pod) -> Option<&'a Line> {
    let mut all = lines.iter();
    all.find(|l| !l.extender.bind.is_empty() && l.extender.is_interested(pod))
}

/// Lets an extender bind a pod.
///
/// # Errors
/// When it says that it has not, or says nothing.
pub async fn bind(line: &Line, pod: &Pod, node: &str) -> Result<(), AskError> {
    let message = messages::binding(&pod.namespace, &pod.name, &pod.uid, node);
    let answer = line.send(&line.extender.bind, &message).await?;
    messages::bound(&answer).map_err(|e| line.nonsense(e))
}
