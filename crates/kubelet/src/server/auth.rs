//! The permission that a path of the kubelet's port needs; authentication and authorization are
//! [`client::component_auth`]'s.

use client::component_auth::{self, RequestAttributes, verb};
use http::Request;

pub use client::component_auth::Refusal;

/// Decides on requests.
#[derive(Debug)]
pub struct Gate {
    gate: component_auth::Gate,
    node: String,
}

impl Gate {
    pub(super) fn new(client: kube::Client, node: &str) -> Self {
        Self {
            gate: component_auth::Gate::new(client),
            node: node.to_owned(),
        }
    }

    pub(super) async fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let user = self.gate.user(request).await?;
        let verb = verb(request.method());
        let all = subresources(request.uri().path());
        // A finer permission is tried first; the old, wide one includes it.
        for subresource in all {
            let asked = RequestAttributes::Node {
                verb,
                node: self.node.clone(),
                subresource,
            };
            if self.gate.allowed(&user, &asked).await? {
                return Ok(());
            }
        }
        let subresource = all.last().copied().unwrap_or("proxy");
        Err(Refusal::Forbidden(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource=[{subresource}])",
            user.name
        )))
    }
}

/// Which permissions open a path, the narrowest first.
fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.split('/').find(|p| !p.is_empty()).unwrap_or_default();
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "checkpoint" => &["checkpoint"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn paths_need_the_permissions_that_upstream_asks_for() {
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(subresources("/configz"), ["configz", "proxy"]);
        assert_eq!(subresources("/statusz"), ["statusz"]);
        assert_eq!(subresources("/flagz"), ["configz"]);
        assert_eq!(subresources("/debug/pprof/profile"), ["proxy"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(verb(&Method::POST), "create");
    }
}
