//! Starts all controllers on shared informers.

use std::sync::Arc;
use std::time::Duration;

use client::{Accounts, Informers};
use control::{Controller, Recorder};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::jwt::Signer;
use wire::pki::Ca;

use crate::revisions::TemplateDefaults;
use crate::{
    attach_detach, autoscaler, certificates, cluster_dns, cluster_roles, cron, daemon, deployment,
    device_taints, disruption, endpoint_slice_mirroring, endpoints, garbage, job, load_balancer,
    metrics, namespace, nodes, pod_groups, policy_status, replica, resource_claim, resource_quota,
    service_account, service_cidrs, stateful, storage_migration, ttl, volumes,
};

/// The configuration of the controllers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Published to every namespace; empty publishes nothing.
    pub ca_pem: String,
    /// The host that events name as their source; may be empty.
    pub host: String,
    /// The CA that signs certificate requests; without it somebody else signs.
    pub ca: Option<Arc<Ca>>,
    /// Signs the tokens that lie in Secrets; without it nobody fills such Secrets.
    pub token_signer: Option<Arc<Signer>>,
    /// The ranges that are divided among nodes for their pods; without them nobody divides any.
    pub pod_cidrs: Option<nodes::cidr::Ranges>,
    /// Silence after which a node is taken for failed. 10 s: heartbeats come every 2 s, so three
    /// may be lost.
    pub node_grace: Duration,
    /// How fast nodes that have failed lose their pods.
    pub eviction_rates: nodes::zones::Rates,
    /// Pods that ended and are kept at most; none: all are kept. Upstream's number.
    pub most_ended_pods: Option<usize>,
    /// Where Services of type LoadBalancer get their addresses; without it somebody else gives them.
    pub load_balancer: Option<load_balancer::Source>,
    /// What holds for all autoscalers.
    pub autoscaling: autoscaler::Options,
    /// What the server fills into a pod template; by itself nothing.
    pub template_defaults: TemplateDefaults,
    /// Makes spans of what is done.
    pub tracer: traces::Tracer,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ca_pem: String::new(),
            host: String::new(),
            ca: None,
            token_signer: None,
            pod_cidrs: None,
            node_grace: Duration::from_secs(10),
            eviction_rates: nodes::zones::Rates::default(),
            most_ended_pods: Some(12_500),
            load_balancer: Some(load_balancer::Source::default()),
            autoscaling: autoscaler::Options::USUAL,
            template_defaults: as_it_is,
            tracer: traces::Tracer::default(),
        }
    }
}

/// Fills in nothing.
fn as_it_is(_: &mut serde_json::Value) {}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("a controller has ended badly: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

struct Starter<'a> {
    informers: &'a Informers,
    accounts: &'a Accounts,
    host: &'a str,
    tracer: &'a traces::Tracer,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

impl Starter<'_> {
    fn start<C: Controller>(&mut self, controller: C)
    where
        C::Observed: Send,
    {
        let client = match C::ACCOUNT {
            "" => self.accounts.own().clone(),
            account => self.accounts.of(account),
        };
        let recorder = Recorder::new(client.clone(), C::NAME, self.host, self.informers.clock())
            .traced(self.tracer.clone());
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move {
            metrics::runs(C::QUEUE, true);
            control::run(controller, client, recorder, shutdown).await;
            metrics::runs(C::QUEUE, false);
        });
    }
}

/// As [`run`], on informers that others share.
pub async fn run(
    informers: &Informers,
    accounts: &Accounts,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let mut all = Starter {
        informers,
        accounts,
        host: &config.host,
        tracer: &config.tracer,
        shutdown,
        running: JoinSet::new(),
    };
    all.start(replica::ReplicaSets::new(informers));
    all.start(replica::ReplicationControllers::new(informers));
    all.start(deployment::Deployments::new(informers));
    all.start(daemon::DaemonSets::new(informers));
    all.start(job::Jobs::new(informers));
    all.start(cron::CronJobs::new(informers));
    all.start(ttl::TtlAfterFinished::new(informers));
    all.start(disruption::Disruptions::new(informers));
    all.start(disruption::stale::StaleDisruptions::new(informers));
    all.start(autoscaler::Autoscalers::new(informers, config.autoscaling));
    all.start(stateful::StatefulSets::new(
        informers,
        config.template_defaults,
    ));
    all.start(endpoints::EndpointSlices::new(informers));
    all.start(endpoint_slice_mirroring::Mirror::new(informers));
    all.start(endpoints::LegacyEndpoints::new(informers));
    if let Some(source) = config.load_balancer {
        all.start(load_balancer::LoadBalancers::new(informers, source));
    }
    all.start(service_account::ServiceAccounts::new(informers));
    if !config.ca_pem.is_empty() {
        all.start(service_account::RootCa::new(informers, &config.ca_pem));
    }
    if let Some(signer) = config.token_signer {
        let tokens = service_account::Tokens::new(informers, &config.ca_pem, signer);
        all.start(tokens);
    }
    all.start(service_account::UnusedTokens::new(informers));
    all.start(cluster_roles::AggregatedRoles::new(informers));
    all.start(service_cidrs::ServiceCidrs::new(informers));
    all.start(nodes::ttl::NodeTtls::new(informers));
    let (grace, rates) = (config.node_grace, config.eviction_rates);
    all.start(nodes::Nodes::new(informers, grace, rates));
    all.start(nodes::pod_gc::PodGc::new(informers));
    if let Some(most) = config.most_ended_pods {
        all.start(nodes::terminated_pods::EndedPods::new(informers, most));
    }
    if let Some(ranges) = config.pod_cidrs {
        all.start(nodes::cidr::PodCidrs::new(informers, ranges));
    }
    all.start(certificates::Certificates::new(
        informers,
        config.ca.clone(),
    ));
    all.start(certificates::NodeApprover::new(informers));
    all.start(cluster_dns::ClusterDns::new(informers));
    all.start(policy_status::PolicyStatus::new(informers));
    all.start(volumes::binder::Binder::new(informers));
    all.start(volumes::protection::ClaimProtection::new(informers));
    all.start(volumes::protection::VolumeProtection::new(informers));
    all.start(volumes::protection::ClassProtection::new(informers));
    all.start(volumes::ephemeral::EphemeralVolumes::new(informers));
    all.start(volumes::expand::Expansions::new(informers));
    all.start(volumes::local::LocalVolumes::new(informers));
    all.start(attach_detach::Attachments::new(informers));
    all.start(resource_claim::ResourceClaims::new(informers));
    all.start(device_taints::DeviceTaints::new(informers));
    let client = accounts.of(namespace::Namespaces::ACCOUNT);
    all.start(namespace::Namespaces::new(informers, client));
    let client = accounts.of(resource_quota::ResourceQuotas::ACCOUNT);
    all.start(resource_quota::ResourceQuotas::new(informers, client));
    let client = accounts.of(storage_migration::Migrations::ACCOUNT);
    all.start(storage_migration::Migrations::new(informers, client));
    let client = accounts.of(pod_groups::PodGroupProtection::ACCOUNT);
    all.start(pod_groups::PodGroupProtection::new(informers, client));
    let client = accounts.of(garbage::Garbage::ACCOUNT);
    all.start(garbage::Garbage::new(informers, client));
    let mut running = all.running;
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}
