//! Starts all controllers on shared informers.

use std::sync::Arc;
use std::time::Duration;

use client::{Accounts, Informers};
use control::{Controller, Recorder};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::jwt::Signer;
use wire::pki::Ca;

use crate::chosen::{Chosen, NAMES};
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
    /// Which of them run.
    pub chosen: Chosen,
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
            chosen: Chosen::default(),
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
    chosen: &'a Chosen,
    informers: &'a Informers,
    accounts: &'a Accounts,
    host: &'a str,
    tracer: &'a traces::Tracer,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

impl Starter<'_> {
    /// Makes and starts the controller of a name of [`NAMES`], if it is chosen.
    fn start<C: Controller>(&mut self, name: &str, make: impl FnOnce(&Informers) -> C)
    where
        C::Observed: Send,
    {
        debug_assert!(NAMES.contains(&name), "{name}");
        if !self.chosen.has(name) {
            tracing::info!("{name} does not run here, as --controllers says");
            return;
        }
        let controller = make(self.informers);
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
    for name in config.chosen.in_vain() {
        tracing::warn!(
            "--controllers: {name} chooses nothing: it is not a controller of its own here"
        );
    }
    let mut all = Starter {
        chosen: &config.chosen,
        informers,
        accounts,
        host: &config.host,
        tracer: &config.tracer,
        shutdown: shutdown.clone(),
        running: JoinSet::new(),
    };
    all.start("replicaset-controller", replica::ReplicaSets::new);
    all.start(
        "replicationcontroller-controller",
        replica::ReplicationControllers::new,
    );
    all.start("deployment-controller", deployment::Deployments::new);
    all.start("daemonset-controller", daemon::DaemonSets::new);
    all.start("job-controller", job::Jobs::new);
    all.start("cronjob-controller", cron::CronJobs::new);
    all.start("ttl-after-finished-controller", ttl::TtlAfterFinished::new);
    all.start("disruption-controller", disruption::Disruptions::new);
    all.start(
        "disruption-controller",
        disruption::stale::StaleDisruptions::new,
    );
    all.start("horizontal-pod-autoscaler-controller", |informers| {
        autoscaler::Autoscalers::new(informers, config.autoscaling)
    });
    all.start("statefulset-controller", |informers| {
        stateful::StatefulSets::new(informers, config.template_defaults)
    });
    all.start("endpointslice-controller", endpoints::EndpointSlices::new);
    all.start(
        "endpointslice-mirroring-controller",
        endpoint_slice_mirroring::Mirror::new,
    );
    all.start("endpoints-controller", endpoints::LegacyEndpoints::new);
    if let Some(source) = config.load_balancer {
        all.start("service-lb-controller", |informers| {
            load_balancer::LoadBalancers::new(informers, source)
        });
    }
    all.start(
        "serviceaccount-controller",
        service_account::ServiceAccounts::new,
    );
    if !config.ca_pem.is_empty() {
        all.start("root-ca-certificate-publisher-controller", |informers| {
            service_account::RootCa::new(informers, &config.ca_pem)
        });
    }
    if let Some(signer) = config.token_signer {
        all.start("serviceaccount-token-controller", |informers| {
            service_account::Tokens::new(informers, &config.ca_pem, signer)
        });
    }
    all.start(
        "legacy-serviceaccount-token-cleaner-controller",
        service_account::UnusedTokens::new,
    );
    all.start(
        "clusterrole-aggregation-controller",
        cluster_roles::AggregatedRoles::new,
    );
    all.start("service-cidr-controller", service_cidrs::ServiceCidrs::new);
    all.start("ttl-controller", nodes::ttl::NodeTtls::new);
    let (grace, rates) = (config.node_grace, config.eviction_rates);
    all.start("node-lifecycle-controller", |informers| {
        nodes::Nodes::new(informers, grace, rates)
    });
    all.start(
        "pod-garbage-collector-controller",
        nodes::pod_gc::PodGc::new,
    );
    if let Some(most) = config.most_ended_pods {
        all.start("pod-garbage-collector-controller", |informers| {
            nodes::terminated_pods::EndedPods::new(informers, most)
        });
    }
    if let Some(ranges) = config.pod_cidrs {
        all.start("node-ipam-controller", |informers| {
            nodes::cidr::PodCidrs::new(informers, ranges)
        });
    }
    all.start(
        "certificatesigningrequest-signing-controller",
        |informers| certificates::Certificates::new(informers, config.ca.clone()),
    );
    all.start("node-certificate-approver", certificates::NodeApprover::new);
    all.start("cluster-dns-controller", cluster_dns::ClusterDns::new);
    all.start(
        "validatingadmissionpolicy-status-controller",
        policy_status::PolicyStatus::new,
    );
    all.start(
        "persistentvolume-binder-controller",
        volumes::binder::Binder::new,
    );
    all.start(
        "persistentvolumeclaim-protection-controller",
        volumes::protection::ClaimProtection::new,
    );
    all.start(
        "persistentvolume-protection-controller",
        volumes::protection::VolumeProtection::new,
    );
    all.start(
        "volumeattributesclass-protection-controller",
        volumes::protection::ClassProtection::new,
    );
    all.start(
        "ephemeral-volume-controller",
        volumes::ephemeral::EphemeralVolumes::new,
    );
    all.start(
        "persistentvolume-expander-controller",
        volumes::expand::Expansions::new,
    );
    all.start(
        "local-volume-provisioner",
        volumes::local::LocalVolumes::new,
    );
    all.start(
        "persistentvolume-attach-detach-controller",
        attach_detach::Attachments::new,
    );
    all.start(
        "resourceclaim-controller",
        resource_claim::ResourceClaims::new,
    );
    all.start(
        "device-taint-eviction-controller",
        device_taints::DeviceTaints::new,
    );
    let client = accounts.of(namespace::Namespaces::ACCOUNT);
    all.start("namespace-controller", |informers| {
        namespace::Namespaces::new(informers, client)
    });
    let client = accounts.of(resource_quota::ResourceQuotas::ACCOUNT);
    all.start("resourcequota-controller", |informers| {
        resource_quota::ResourceQuotas::new(informers, client)
    });
    let client = accounts.of(storage_migration::Migrations::ACCOUNT);
    all.start("storage-version-migrator-controller", |informers| {
        storage_migration::Migrations::new(informers, client)
    });
    let client = accounts.of(pod_groups::PodGroupProtection::ACCOUNT);
    all.start("podgroup-protection-controller", |informers| {
        pod_groups::PodGroupProtection::new(informers, client)
    });
    let client = accounts.of(garbage::Garbage::ACCOUNT);
    all.start("garbage-collector-controller", |informers| {
        garbage::Garbage::new(informers, client)
    });
    let mut running = all.running;
    if running.is_empty() {
        // Who leads with nothing to do goes on leading.
        shutdown.cancelled().await;
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}
