//! Each controller does its work as its own service account, with no more than the roles that
//! upstream gives it: in the server's process, and over HTTPS with tokens. What a role no longer
//! grants is refused, counted, and harms no other controller.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::admission::Options;
use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, UserInfo};
use client::Accounts;
use common::{TestKind, create, until};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest as Request;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::pki::{Ca, Subject};

const MANAGER: &str = "system:kube-controller-manager";

struct Cluster {
    server: ApiServer,
    ca: Ca,
    admin: Client,
    stop: CancellationToken,
    _end: DropGuard,
    dir: tempfile::TempDir,
}

fn now() -> i64 {
    clock::Clock::system().seconds()
}

async fn cluster() -> Cluster {
    let stop = CancellationToken::new();
    let dir = tempfile::tempdir().expect("folder");
    let store = store::Embedded::open(&dir.path().join("store"), store::Options::default());
    let signer = wire::jwt::Signer::load_or_create(&dir.path().join("key")).expect("key");
    let address: IpAddr = "192.0.2.1".parse().expect("address");
    let mut options = Options::default();
    options.default_not_ready_toleration_seconds = 1;
    options.default_unreachable_toleration_seconds = 1;
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config = apiserver::Config::new(
        address,
        6443,
        clock::Clock::system(),
        clock::Random::system(),
    )
    .secured(tokens, &options);
    let server = ApiServer::new(config, Arc::new(store.expect("store")), stop.clone())
        .await
        .expect("server");
    server.bootstrap().await.expect("first objects");
    let user = UserInfo::new("tester", &["system:masters"]);
    let admin = client::in_process(server.local_service(user));
    Cluster {
        server,
        ca: Ca::generate("test", now()).expect("ca"),
        admin,
        _end: stop.clone().drop_guard(),
        stop,
        dir,
    }
}

impl Cluster {
    fn run(&self, accounts: Accounts) {
        self.run_chosen(accounts, "*");
    }

    fn run_chosen(&self, accounts: Accounts, list: &str) {
        use controllers::nodes::cidr::{NODE_PREFIX_IPV4, NODE_PREFIX_IPV6, Ranges};
        let pods = "10.244.0.0/16".parse().expect("a range");
        let ranges = Ranges::new(&pods, NODE_PREFIX_IPV4, NODE_PREFIX_IPV6).expect("ranges");
        let config = controllers::Config {
            chosen: list.parse().expect("names of controllers"),
            ca_pem: self.ca.pair.cert_pem.clone(),
            ca: Some(Arc::new(self.ca.clone())),
            pod_cidrs: Some(ranges),
            node_grace: Duration::from_secs(1),
            ..controllers::Config::default()
        };
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        let informers = control::trimmed::informers(accounts.own().clone(), clock, random);
        let stop = self.stop.clone();
        tokio::spawn(async move { controllers::run(&informers, &accounts, config, stop).await });
    }

    fn as_user(&self, name: &str, groups: &[&str]) -> Client {
        let user = UserInfo::new(name, groups);
        client::in_process(self.server.local_service(user))
    }

    /// As within the server's process; notes which accounts were asked for.
    fn local(&self) -> (Accounts, Arc<Mutex<BTreeSet<String>>>) {
        let own = client::refusals::counted(self.as_user(MANAGER, &[]), MANAGER);
        let (server, asked) = (self.server.clone(), Arc::new(Mutex::new(BTreeSet::new())));
        let noted = asked.clone();
        let accounts = Accounts::new(own, move |account| {
            noted.lock().insert(account.to_owned());
            let (name, groups) = client::accounts::user_of(account);
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            let user = UserInfo::new(&name, &groups);
            let client = client::in_process(server.local_service(user));
            client::refusals::counted(client, account)
        });
        (accounts, asked)
    }

    /// As `tiphys controller-manager` does: by its kubeconfig.
    async fn remote(&self) -> Accounts {
        let ip = "127.0.0.1".parse().expect("ip");
        let subject = Subject::server("apiserver", &["localhost"], &[ip]);
        let pair = self.ca.issue(&subject, now(), 1).expect("pair");
        let tls = wire::tls::server_config(&pair, Some(&self.ca.pair.cert_pem)).expect("tls");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let serving = self.server.clone();
        tokio::spawn(async move { serving.serve(listener, tls).await });
        let subject = Subject::client(MANAGER, &[]);
        let pair = self.ca.issue(&subject, now(), 1).expect("pair");
        let path = self.dir.path().join("kubeconfig");
        let file = wire::kubeconfig::Kubeconfig {
            name: "test",
            server: &format!("https://127.0.0.1:{port}"),
            ca_pem: &self.ca.pair.cert_pem,
            credential: wire::kubeconfig::Credential::Certificate(&pair),
        };
        file.write(&path).expect("kubeconfig");
        client::accounts_of(&path, "test").await.expect("clients")
    }
}

async fn until_one<K: TestKind>(api: &Api<K>, name: &str, good: impl Fn(&K) -> bool) {
    let named = |all: &[K]| all.iter().any(|o| o.name_any() == name && good(o));
    until(api, named).await;
}

fn template() -> Value {
    json!({
        "metadata": { "labels": { "app": "a" } },
        "spec": { "containers": [{ "name": "c", "image": "i", "ports": [{ "containerPort": 80 }] }] },
    })
}

/// Deployments and what is below them; Services and what stands behind them.
async fn workloads(admin: &Client) {
    let ns = "work";
    create(
        &Api::<Namespace>::all(admin.clone()),
        json!({ "metadata": { "name": ns } }),
    )
    .await;
    until_one(
        &Api::<ServiceAccount>::namespaced(admin.clone(), ns),
        "default",
        |_| true,
    )
    .await;
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), ns);
    until_one(&maps, "kube-root-ca.crt", |_| true).await;
    // Somebody else's bundle is replaced.
    let other = json!({ "data": { "ca.crt": "other" } });
    maps.patch(
        "kube-root-ca.crt",
        &PatchParams::default(),
        &Patch::Merge(other),
    )
    .await
    .expect("changed");
    let is_ours = |m: &ConfigMap| m.data.as_ref().is_some_and(|d| d["ca.crt"].len() > 100);
    until_one(&maps, "kube-root-ca.crt", is_ours).await;

    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), ns);
    let spec = json!({ "replicas": 2, "selector": { "matchLabels": { "app": "a" } }, "template": template() });
    create(
        &deployments,
        json!({ "metadata": { "name": "d" }, "spec": spec }),
    )
    .await;
    let done = |d: &Deployment| {
        let published = d.status.as_ref().and_then(|s| s.replicas) == Some(2);
        published && d.annotations()["deployment.kubernetes.io/revision"] == "1"
    };
    until_one(&deployments, "d", done).await;
    let controllers: Api<ReplicationController> = Api::namespaced(admin.clone(), ns);
    let mut template = template();
    template["metadata"]["labels"] = json!({ "app": "rc" });
    let spec = json!({ "replicas": 1, "selector": { "app": "rc" }, "template": template });
    create(
        &controllers,
        json!({ "metadata": { "name": "rc" }, "spec": spec }),
    )
    .await;
    let published =
        |rc: &ReplicationController| rc.status.as_ref().is_some_and(|s| s.replicas == 1);
    until_one(&controllers, "rc", published).await;

    let services: Api<Service> = Api::namespaced(admin.clone(), ns);
    for (name, selector) in [("s", json!({ "app": "a" })), ("people", Value::Null)] {
        let spec = json!({ "ports": [{ "port": 80 }], "selector": selector });
        create(
            &services,
            json!({ "metadata": { "name": name }, "spec": spec }),
        )
        .await;
    }
    let endpoints: Api<Endpoints> = Api::namespaced(admin.clone(), ns);
    let kept = json!([{ "addresses": [{ "ip": "192.0.2.9" }], "ports": [{ "port": 80 }] }]);
    create(
        &endpoints,
        json!({ "metadata": { "name": "people" }, "subsets": kept }),
    )
    .await;
    until_one(&endpoints, "s", |_| true).await;
    let slices: Api<EndpointSlice> = Api::namespaced(admin.clone(), ns);
    for service in ["s", "people"] {
        let of = |s: &EndpointSlice| s.labels()["kubernetes.io/service-name"] == service;
        until(&slices, |all| all.iter().any(of)).await;
    }

    // An owner's deletion in the foreground, and a whole namespace's.
    let foreground = DeleteParams::foreground();
    deployments.delete("d", &foreground).await.expect("deleted");
    until(&deployments, <[Deployment]>::is_empty).await;
    let sets: Api<ReplicaSet> = Api::namespaced(admin.clone(), ns);
    until(&sets, <[ReplicaSet]>::is_empty).await;
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let held = Patch::Merge(json!({ "metadata": { "finalizers": ["test/hold"] } }));
    let params = PatchParams::default();
    let hold = maps.patch("kube-root-ca.crt", &params, &held);
    hold.await.expect("held");
    let background = DeleteParams::default();
    namespaces.delete(ns, &background).await.expect("ends");
    let says_why = |n: &Namespace| {
        let mut all = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
        all.any(|c| c.type_ == "NamespaceFinalizersRemaining" && c.status == "True")
    };
    until_one(&namespaces, ns, says_why).await;
    let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let freed = maps.patch("kube-root-ca.crt", &params, &free);
    freed.await.expect("freed");
    until(&namespaces, |all| all.iter().all(|n| n.name_any() != ns)).await;
}

fn request(name: &str, signer: &str, usage: &str, subject: &Subject) -> Request {
    let (pem, _) = wire::pki::make_request(subject).expect("request");
    let mut request: Request = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "request": "", "signerName": format!("kubernetes.io/{signer}"),
                  "usages": ["digital signature", usage] },
    }))
    .expect("object");
    request.spec.request = ByteString(pem.into_bytes());
    request
}

/// A node joins: all its certificates are approved and signed.
async fn certificates(cluster: &Cluster) {
    let joins = cluster.as_user("system:bootstrap:abcdef", &["system:bootstrappers"]);
    let node = cluster.as_user("system:node:n1", &["system:nodes"]);
    let client = Subject::client("system:node:n1", &["system:nodes"]);
    let ip = "192.0.2.7".parse().expect("ip");
    let mut serving = Subject::server("system:node:n1", &["n1"], &[ip]);
    serving.organizations = vec!["system:nodes".into()];
    let proxy = Subject::client("system:kube-proxy", &[]);
    let (kubelet, other) = ("kube-apiserver-client-kubelet", "kube-apiserver-client");
    for (user, request) in [
        (&joins, request("join", kubelet, "client auth", &client)),
        (&node, request("renew", kubelet, "client auth", &client)),
        (
            &node,
            request("serve", "kubelet-serving", "server auth", &serving),
        ),
        (&node, request("proxy", other, "client auth", &proxy)),
    ] {
        let api: Api<Request> = Api::all(user.clone());
        let made = api.create(&PostParams::default(), &request).await;
        made.expect("asked");
        let issued = |r: &Request| r.status.as_ref().is_some_and(|s| s.certificate.is_some());
        let all: Api<Request> = Api::all(cluster.admin.clone());
        until_one(&all, &request.name_any(), issued).await;
    }
}

/// A node falls silent beside one that does not: its pod is evicted, and removed when people say
/// that the node is out of service.
async fn nodes(admin: &Client) {
    let nodes: Api<Node> = Api::all(admin.clone());
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let lease_ns = json!({ "metadata": { "name": "kube-node-lease" } });
    if namespaces
        .get_opt("kube-node-lease")
        .await
        .expect("get")
        .is_none()
    {
        create(&namespaces, lease_ns).await;
    }
    let status = json!({
        "addresses": [{ "type": "InternalIP", "address": "192.0.2.7" }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    });
    for name in ["n1", "n2"] {
        create(
            &nodes,
            json!({ "metadata": { "name": name }, "status": status }),
        )
        .await;
    }
    let leases: Api<Lease> = Api::namespaced(admin.clone(), "kube-node-lease");
    create(
        &leases,
        json!({ "metadata": { "name": "n2" }, "spec": { "holderIdentity": "n2" } }),
    )
    .await;
    let beats = tokio::spawn(async move {
        let mut number = 0;
        loop {
            number += 1;
            let time = format!("{:.6}", clock::Clock::system().now());
            let spec = json!({ "leaseTransitions": number, "renewTime": time });
            let patch = Patch::Merge(json!({ "spec": spec }));
            let beat = leases.patch("n2", &PatchParams::default(), &patch).await;
            beat.expect("a heartbeat");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let has_range = |n: &Node| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some());
    until_one(&nodes, "n1", has_range).await;
    let dns: Api<EndpointSlice> = Api::namespaced(admin.clone(), "kube-system");
    let has_both = |s: &EndpointSlice| s.endpoints.as_ref().is_some_and(|e| e.len() == 2);
    until_one(&dns, "kube-dns-nodes", has_both).await;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let mut spec = template()["spec"].take();
    spec["nodeName"] = json!("n1");
    create(&pods, json!({ "metadata": { "name": "p" }, "spec": spec })).await;
    let evicted = |p: &Pod| p.metadata.deletion_timestamp.is_some();
    until_one(&pods, "p", evicted).await;
    let out = json!({ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" });
    let taint = Patch::Strategic(json!({ "spec": { "taints": [out] } }));
    let params = PatchParams::default();
    let tainted = nodes.patch("n1", &params, &taint);
    tainted.await.expect("tainted");
    until(&pods, |all| all.iter().all(|p| p.name_any() != "p")).await;
    beats.abort();
}

fn refusals() -> Vec<String> {
    let text = client::refusals::metrics();
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The accounts of upstream's bindings, by their names.
async fn bound(admin: &Client) -> BTreeSet<String> {
    let bindings: Api<ClusterRoleBinding> = Api::all(admin.clone());
    let all = bindings.list(&ListParams::default()).await.expect("list");
    let controllers = all.items.iter().filter_map(|b| {
        let name = b.name_any();
        let account = name
            .strip_prefix("system:controller:")
            .or_else(|| name.strip_prefix("tiphys:controller:"))?;
        let subject = b.subjects.as_ref()?.first()?;
        assert_eq!(
            (subject.kind.as_str(), &*subject.name),
            ("ServiceAccount", account)
        );
        assert_eq!(b.role_ref.name, name);
        Some(account.to_owned())
    });
    controllers.collect()
}

#[tokio::test]
async fn what_is_not_chosen_does_not_run() {
    let cluster = cluster().await;
    let (accounts, asked) = cluster.local();
    cluster.run_chosen(accounts, "serviceaccount-controller");
    let space = json!({ "metadata": { "name": "chosen" } });
    create(&Api::<Namespace>::all(cluster.admin.clone()), space).await;
    let made: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), "chosen");
    until_one(&made, "default", |_| true).await;
    // On one thread all are made before any of them works, and each asks for its client when it is made.
    let asked = asked.lock().clone();
    assert!(asked.contains("service-account-controller"), "{asked:?}");
    assert!(!asked.contains("deployment-controller"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_do_their_work_as_their_own_accounts() {
    let first = cluster().await;
    let (accounts, asked) = first.local();
    first.run(accounts);
    workloads(&first.admin).await;
    certificates(&first).await;
    nodes(&first.admin).await;
    let used = asked.lock().clone();
    let bound = bound(&first.admin).await;
    assert!(used.is_subset(&bound), "{used:?}");
    assert!(used.len() > 12, "{used:?}");

    let second = cluster().await;
    second.run(second.remote().await);
    workloads(&second.admin).await;
    certificates(&second).await;
    nodes(&second.admin).await;
    let there: Api<ServiceAccount> = Api::namespaced(second.admin.clone(), "kube-system");
    let made = there.list(&ListParams::default()).await.expect("list");
    let mut made: BTreeSet<String> = made.items.iter().map(ResourceExt::name_any).collect();
    // Of the namespace, as of each. The others are made when they have something to do.
    made.remove("default");
    assert!(made.is_subset(&used) && made.len() > 10, "{made:?}");
    assert_eq!(refusals(), Vec::<String>::new());
    second.stop.cancel();

    // Without its binding one controller stands still, and it is seen which; others go on.
    let bindings: Api<ClusterRoleBinding> = Api::all(first.admin.clone());
    let name = "system:controller:replicaset-controller";
    let gone = bindings.delete(name, &DeleteParams::default()).await;
    gone.expect("deleted");
    let deployments: Api<Deployment> = Api::namespaced(first.admin.clone(), "default");
    let spec = json!({ "replicas": 1, "selector": { "matchLabels": { "app": "a" } }, "template": template() });
    create(
        &deployments,
        json!({ "metadata": { "name": "d" }, "spec": spec }),
    )
    .await;
    let sets: Api<ReplicaSet> = Api::namespaced(first.admin.clone(), "default");
    let set = until(&sets, |all| !all.is_empty()).await;
    let refused = |l: &String| {
        l.contains("component=\"replicaset-controller\"")
            && l.contains("method=\"POST\",resource=\"api/v1/pods\",code=\"403\"")
    };
    // Only the counter shows it, so it is looked at again and again.
    while !refusals().iter().any(refused) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let others = |l: &String| !l.contains("component=\"replicaset-controller\"");
    assert!(!refusals().iter().any(others), "{:?}", refusals());
    let events: Api<Event> = Api::namespaced(first.admin.clone(), "default");
    let about = |e: &Event| e.involved_object.name.as_deref() == Some(&*set[0].name_any());
    let published = events.list(&ListParams::default()).await.expect("events");
    assert!(
        !published.items.iter().any(about),
        "it may not write events either"
    );
    // The role comes back with the next start of a server.
    first.server.bootstrap().await.expect("first objects");
    let pods: Api<Pod> = Api::namespaced(first.admin.clone(), "default");
    until(&pods, |all| !all.is_empty()).await;
    let secrets: Api<Secret> = Api::all(first.as_user(MANAGER, &[]));
    let read = secrets.list(&ListParams::default()).await;
    read.expect("upstream's role lets it list");
}
