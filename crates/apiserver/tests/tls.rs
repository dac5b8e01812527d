//! Over TLS with client certificates: kube-rs client, informer and a refused stranger.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authz::Masters;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use wire::kubeconfig::Credential;
use wire::pki::{Ca, Subject};

struct Running {
    server: ApiServer,
    url: String,
    ca: Ca,
    now: i64,
}

async fn start() -> Running {
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("test", now).expect("ca");
    let ip = "127.0.0.1".parse().expect("ip");
    let pair = ca
        .issue(&Subject::server("apiserver", &["localhost"], &[ip]), now, 1)
        .expect("pair");
    let tls = wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("tls");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("port");
    let port = listener.local_addr().expect("address").port();
    let mut config = common::config_at("192.0.2.1", port);
    config.authenticators = vec![Arc::new(ClientCertificates::default())];
    config.authorizers = vec![Arc::new(Masters)];
    let server = common::server_with(config).await;
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, tls).await });
    Running {
        server,
        url: format!("https://127.0.0.1:{port}"),
        ca,
        now,
    }
}

impl Running {
    async fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        let pair = self
            .ca
            .issue(&Subject::client(user, groups), self.now, 1)
            .expect("pair");
        let text = wire::kubeconfig::Kubeconfig {
            name: "test",
            server: &self.url,
            ca_pem: &self.ca.pair.cert_pem,
            credential: Credential::Certificate(&pair),
        }
        .to_yaml();
        let file = Kubeconfig::from_yaml(&text).expect("kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options);
        kube::Client::try_from(config.await.expect("config")).expect("client")
    }
}

fn cm(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "a": "b" } }))
        .expect("cm")
}

#[tokio::test]
async fn kube_reads_writes_and_watches() {
    let running = start().await;
    let client = running.client("admin", &["system:masters"]).await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let made = api
        .create(&PostParams::default(), &cm("one"))
        .await
        .expect("create");
    assert!(made.metadata.uid.is_some());
    let mut informer = watcher::watcher(api.clone(), watcher::Config::default()).boxed();
    let mut seen = Vec::new();
    while let Some(e) = informer.try_next().await.expect("watch") {
        match e {
            Event::InitApply(o) => seen.push(o.metadata.name.unwrap_or_default()),
            Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(seen, ["one"]);
    api.create(&PostParams::default(), &cm("two"))
        .await
        .expect("create");
    let merge = Patch::Merge(json!({ "data": { "c": "d" } }));
    api.patch("two", &PatchParams::default(), &merge)
        .await
        .expect("patch");
    api.delete("two", &DeleteParams::default())
        .await
        .expect("delete");
    let mut words = Vec::new();
    while words.len() < 3 {
        match informer.try_next().await.expect("watch").expect("more") {
            Event::Apply(o) => words.push(format!("apply {}", o.data.map_or(0, |d| d.len()))),
            Event::Delete(_) => words.push("delete".into()),
            _ => {}
        }
    }
    assert_eq!(words, ["apply 1", "apply 2", "delete"]);

    // Metadata only, and streaming lists.
    let partial = api
        .list_metadata(&ListParams::default())
        .await
        .expect("metadata");
    assert_eq!(partial.items.len(), 1);
    let streaming = watcher::Config::default().streaming_lists();
    let mut informer = watcher::watcher(api, streaming).boxed();
    loop {
        if let Some(Event::InitDone) = informer.try_next().await.expect("watch") {
            break;
        }
    }
    running.server.stop().cancel();
}

#[tokio::test]
async fn strangers_are_refused_in_upstreams_words() {
    let running = start().await;
    let client = running.client("jane", &[]).await;
    let e = Api::<Namespace>::all(client)
        .list(&ListParams::default())
        .await
        .expect_err("refused");
    let kube::Error::Api(s) = e else {
        panic!("{e}")
    };
    assert_eq!(s.code, 403);
    assert_eq!(
        s.message,
        "namespaces is forbidden: User \"jane\" cannot list resource \"namespaces\" in API group \"\" at the cluster scope"
    );
}

#[tokio::test]
async fn the_same_client_works_in_process() {
    let server = common::server().await;
    let user = apiserver::UserInfo::new("system:kube-controller-manager", &[]);
    let client = kube::Client::new(server.local_service(user), "default");
    let api: Api<ConfigMap> = Api::namespaced(client, "default");
    api.create(&PostParams::default(), &cm("one"))
        .await
        .expect("create");
    assert_eq!(
        api.list(&ListParams::default())
            .await
            .expect("list")
            .items
            .len(),
        1
    );
}
