//! The chain of authorizers as an AuthorizationConfiguration orders it, exchanged when its file
//! changes. `system:masters` come before it, whatever it says.

use std::path::Path;
use std::sync::Arc;

use access::{Attributes, Decision, UserInfo};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;

use super::conditions::Condition;
use super::config::{AuthorizationConfiguration, AuthorizerConfiguration};
use super::webhook::WebhookAuthorizer;
use crate::filters::authz::{AlwaysAllow, AlwaysDeny, Nodes, Rbac};
use crate::filters::files::{Configured, ReloadError};
use crate::filters::webhook::Webhook;
use crate::metrics::identity::Reloads;
use crate::state::{Authorizer, Rules, State};

/// The chain.
pub struct Chain {
    links: ArcSwap<Vec<Link>>,
    /// Types that a changed file must still name: all but webhooks that were there at the start.
    required: Vec<String>,
}

struct Link {
    of: String,
    name: String,
    authorizer: Box<dyn Authorizer>,
}

impl Chain {
    /// Makes the chain of a configuration that was checked.
    pub fn new(
        configuration: &AuthorizationConfiguration,
        conditions: Vec<Vec<Condition>>,
    ) -> Result<Self, String> {
        let links = links(configuration, conditions)?;
        let types = links.iter().map(|l| l.of.clone());
        Ok(Self {
            required: types.filter(|t| t != "Webhook").collect(),
            links: ArcSwap::from_pointee(links),
        })
    }

    fn next(&self, bytes: &[u8]) -> Result<Vec<Link>, String> {
        let (read, conditions) = AuthorizationConfiguration::read(bytes)?;
        let has = |of: &String| read.authorizers.iter().any(|a| a.r#type == *of);
        let missing: Vec<&str> = self
            .required
            .iter()
            .filter(|of| !has(of))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        let late =
            |of: &str| matches!(of, "Node" | "RBAC") && !self.required.iter().any(|own| own == of);
        if let Some(one) = read.authorizers.iter().find(|a| late(&a.r#type)) {
            return Err(format!(
                "authorizer type {} is not allowed if it was not enabled at initial server startup",
                one.r#type
            ));
        }
        links(&read, conditions)
    }
}

fn links(
    configuration: &AuthorizationConfiguration,
    conditions: Vec<Vec<Condition>>,
) -> Result<Vec<Link>, String> {
    let all = configuration.authorizers.iter().zip(conditions);
    let one = |(one, conditions): (&AuthorizerConfiguration, _)| {
        let authorizer: Box<dyn Authorizer> = match (&*one.r#type, &one.webhook) {
            ("Node", _) => Box::new(Nodes),
            ("RBAC", _) => Box::new(Rbac),
            ("AlwaysAllow", _) => Box::new(AlwaysAllow),
            ("AlwaysDeny", _) => Box::new(AlwaysDeny),
            ("Webhook", Some(webhook)) => {
                let file = webhook.connection_info.kube_config_file.as_deref();
                let client = Webhook::read(Path::new(file.unwrap_or_default()))?;
                let made = WebhookAuthorizer::new(&one.name, webhook, client, conditions);
                Box::new(made)
            }
            (other, _) => return Err(format!("unknown authorization mode {other} specified")),
        };
        Ok(Link {
            of: one.r#type.clone(),
            name: one.name.clone(),
            authorizer,
        })
    };
    all.map(one).collect()
}

impl Authorizer for Chain {
    fn authorize<'a>(
        &'a self,
        state: &'a State,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
        errors: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(async move {
            let links = self.links.load_full();
            let metrics = &state.metrics().authorization;
            let mut reasons = Vec::new();
            for link in links.iter() {
                let mut own = Vec::new();
                let decision = link
                    .authorizer
                    .authorize(state, user, asked, &mut own)
                    .await;
                let word = match decision {
                    Decision::NoOpinion(why) => {
                        reasons.push(why);
                        errors.extend(own);
                        continue;
                    }
                    Decision::Allow(_) => "allowed",
                    Decision::Deny(_) => "denied",
                };
                metrics.decision(&link.of, &link.name, word);
                // What went wrong with others does not count any more.
                *errors = own;
                return decision;
            }
            reasons.retain(|why| !why.is_empty());
            Decision::NoOpinion(reasons.join("\n"))
        })
    }

    fn rules(&self, state: &State, user: &UserInfo, namespace: &str, rules: &mut Rules) {
        for link in self.links.load().iter() {
            link.authorizer.rules(state, user, namespace, rules);
        }
    }
}

impl Configured for Chain {
    fn what(&self) -> &'static str {
        "the authorization configuration"
    }

    fn reloads<'a>(&self, state: &'a State) -> &'a Reloads {
        &state.metrics().authorization.reloads
    }

    fn exchange<'a>(
        &'a self,
        _: &'a State,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<(), ReloadError>> {
        let done = self.next(bytes).map_err(ReloadError::Wrong);
        let done = done.map(|links| self.links.store(Arc::new(links)));
        Box::pin(std::future::ready(done))
    }
}
