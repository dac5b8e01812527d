//! A driver in this process and an API of a few objects, for the tests of what is asked of drivers.

use super::{Csi, Driver};
use crate::events::Recorder;
use crate::objects::Objects;
use crate::volumes::tokens::Tokens;
use bytes::Bytes;
use clock::{Clock, Random};
use host::plugins::csi::node_server::{Node, NodeServer};
use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
use host::plugins::csi::node_service_capability::{Rpc as Ability, Type};
use host::plugins::csi::*;
use http::{Request, Response as Answer};
use http_body_util::Full;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;
use tonic::{Request as Call, Response, Status};

/// The driver's name.
pub const NAME: &str = "fake.example.com";

/// A driver that makes folders and remembers what it was asked.
#[derive(Clone, Default)]
pub struct Fake {
    /// What it can do.
    pub can: Vec<Rpc>,
    /// Calls as they came.
    pub calls: Arc<Mutex<Vec<String>>>,
    /// The last publication.
    pub published: Arc<Mutex<Option<NodePublishVolumeRequest>>>,
    /// Publishing, unpublishing and growing fail like this.
    pub fails: Arc<Mutex<Option<Status>>>,
    /// It never says how full a volume is.
    pub hangs: bool,
    /// What it says is wrong with all volumes.
    pub wrong: Option<String>,
}

impl Fake {
    fn heard(&self, call: &str, volume: &str) -> Result<(), Status> {
        self.calls.lock().push(format!("{call} {volume}"));
        let fails = self.fails.lock().clone();
        fails
            .filter(|_| call.contains("publish") || call == "expand")
            .map_or(Ok(()), Err)
    }

    /// The calls since the last time.
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock())
    }

    /// Listens on a socket for as long as the answer lives.
    pub fn serve(&self, socket: &Path) -> tokio::task::JoinHandle<()> {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let service = NodeServer::new(self.clone());
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        })
    }
}

#[tonic::async_trait]
impl Node for Fake {
    async fn node_stage_volume(
        &self,
        call: Call<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let secret = call.get_ref().secrets.contains_key("key");
        let call_name = if secret { "stage with secret" } else { "stage" };
        self.heard(call_name, &call.get_ref().volume_id)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        call: Call<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.heard("unstage", &call.get_ref().volume_id)?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        call: Call<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = call.into_inner();
        self.heard("publish", &request.volume_id)?;
        let _ = std::fs::create_dir(&request.target_path);
        *self.published.lock() = Some(request);
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Call<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.heard("unpublish", &call.get_ref().volume_id)?;
        let _ = std::fs::remove_dir(&call.get_ref().target_path);
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        call: Call<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.heard("stats", &call.get_ref().volume_id)?;
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let usage = VolumeUsage {
            available: 7,
            total: 10,
            used: 3,
            unit: volume_usage::Unit::Bytes.into(),
        };
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![usage],
            volume_condition: self.wrong.clone().map(|message| VolumeCondition {
                abnormal: true,
                message,
            }),
        }))
    }

    async fn node_expand_volume(
        &self,
        call: Call<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.heard("expand", &call.get_ref().volume_id)?;
        Ok(Response::new(NodeExpandVolumeResponse {
            capacity_bytes: 0,
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Call<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let ability = |rpc: &Rpc| NodeServiceCapability {
            r#type: Some(Type::Rpc(Ability {
                r#type: (*rpc).into(),
            })),
        };
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: self.can.iter().map(ability).collect(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Call<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "node-id".into(),
            max_volumes_per_node: 5,
            accessible_topology: None,
        }))
    }
}

/// Objects by path, as an API of nothing else.
#[derive(Clone, Default)]
pub struct Api(pub Arc<Mutex<BTreeMap<String, Value>>>);

impl Api {
    /// Puts an object there.
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().insert(path.to_owned(), object);
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().get(path).cloned()
    }

    /// A client of it.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Answer<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = http_body_util::BodyExt::collect(body)
            .await
            .unwrap()
            .to_bytes();
        let sent: Option<Value> = serde_json::from_slice(&body).ok();
        let path = head.uri.path().to_owned();
        let mut all = self.0.lock();
        let found = match (head.method.as_str(), sent) {
            ("GET", _) => all.get(&path).cloned(),
            ("POST", Some(object)) => {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                all.insert(format!("{path}/{name}"), object.clone());
                Some(object)
            }
            ("PATCH", Some(patch)) => all.get_mut(&path).map(|object| {
                merge(object, &patch);
                object.clone()
            }),
            (_, Some(object)) => {
                all.insert(path, object.clone());
                Some(object)
            }
            _ => None,
        };
        let (code, value) = match found {
            Some(object) => (200, object),
            None => {
                let status = json!({ "kind": "Status", "status": "Failure", "code": 404,
                    "reason": "NotFound", "message": "not found" });
                (404, status)
            }
        };
        let body = Full::new(Bytes::from(value.to_string()));
        Answer::builder().status(code).body(body).unwrap()
    }
}

fn merge(object: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    for (key, value) in fields {
        match object.as_object_mut() {
            Some(all) if value.is_null() => drop(all.remove(key)),
            _ => merge(&mut object[key], value),
        }
    }
}

/// The volumes of a node below a folder.
pub fn csi(root: &Path, api: &Api) -> Csi {
    let client = api.client();
    let objects = Arc::new(Objects::new(client.clone(), Random::seeded(1)));
    let tokens = Arc::new(Tokens::new(
        client.clone(),
        Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH),
    ));
    let clock = Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
    let recorder = Recorder::start(client.clone(), "n", clock);
    let changed = Arc::new(Notify::new());
    Csi::new(root, "n", client, (objects, tokens), recorder, changed)
}

/// A node's volumes with the fake driver among them.
pub fn with(root: &Path, api: &Api, fake: &Fake) -> (Csi, tokio::task::JoinHandle<()>) {
    let socket = root.join("csi.sock");
    let serving = fake.serve(&socket);
    let all = csi(root, api);
    all.note(Driver::at(NAME, &socket));
    (all, serving)
}
