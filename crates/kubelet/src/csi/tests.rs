//! What a driver is asked, in which order, and what is left on the disk.

use super::publish::Group;
use super::record::Record;
use super::testing::{Api, Fake, NAME, csi, with};
use super::*;
use host::plugins::csi::node_service_capability::rpc::Type as Rpc;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tonic::Status;

fn pod(uid: &str) -> Pod {
    let meta = json!({ "name": uid, "namespace": "a", "uid": uid });
    let spec = json!({ "containers": [], "serviceAccountName": "sa" });
    serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap()
}

fn asked() -> CsiVolume {
    CsiVolume {
        name: "pv".into(),
        driver: NAME.into(),
        handle: "h".into(),
        ..CsiVolume::default()
    }
}

fn driver(spec: Value) -> Api {
    let api = Api::default();
    let path = format!("/apis/storage.k8s.io/v1/csidrivers/{NAME}");
    api.put(&path, json!({ "metadata": { "name": NAME }, "spec": spec }));
    api
}

fn plain() -> Api {
    driver(json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"] }))
}

#[tokio::test]
async fn a_volume_is_staged_once_and_published_to_each_pod() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake {
        can: vec![Rpc::StageUnstageVolume],
        ..Fake::default()
    };
    let (csi, _serving) = with(dir.path(), &plain(), &fake);
    let first = csi
        .publish(&asked(), &pod("p1"), Group::default())
        .await
        .unwrap();
    let volumes = |uid: &str| {
        dir.path()
            .join(format!("pods/{uid}/volumes/kubernetes.io~csi/pv"))
    };
    assert_eq!(first, volumes("p1").join("mount"));
    csi.publish(&asked(), &pod("p2"), Group::default())
        .await
        .unwrap();
    assert_eq!(fake.taken(), ["stage h", "publish h", "publish h"]);
    let record = Record::load(&volumes("p2")).unwrap().unwrap();
    assert_eq!(
        (record.driver_name.as_str(), record.volume_handle.as_str()),
        (NAME, "h")
    );
    csi.unpublish(&volumes("p1")).await.unwrap();
    assert_eq!(fake.taken(), ["unpublish h"]);
    // Another kubelet knows only what is on the disk.
    let (csi, _again) = (super::testing::csi(dir.path(), &plain()), ());
    assert_eq!(csi.in_use.names(), [api::csi::unique_name(NAME, "h")]);
    let lost = csi.unpublish(&volumes("p2")).await.unwrap_err();
    assert!(matches!(lost, Error::NotRegistered(_)), "{lost}");
    csi.note(Driver::at(NAME, &dir.path().join("csi.sock")));
    csi.unpublish(&volumes("p2")).await.unwrap();
    assert_eq!(fake.taken(), ["unpublish h", "unstage h"]);
    assert!(!volumes("p2").exists() && csi.in_use.names().is_empty());
    let staged = dir.path().join("plugins/kubernetes.io/csi").join(NAME);
    assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0);
}

#[tokio::test]
async fn what_fails_leaves_the_record_and_is_taken_back_later() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::default();
    let (csi, _serving) = with(dir.path(), &plain(), &fake);
    *fake.fails.lock() = Some(Status::internal("disk on fire"));
    let failed = csi.publish(&asked(), &pod("p"), Group::default()).await;
    let text = failed.unwrap_err().to_string();
    assert_eq!(text, "rpc error: code = Internal desc = disk on fire");
    let volume = dir.path().join("pods/p/volumes/kubernetes.io~csi/pv");
    assert!(csi.unpublish(&volume).await.is_err() && volume.exists());
    *fake.fails.lock() = None;
    csi.unpublish(&volume).await.unwrap();
    assert!(!volume.exists());
    assert_eq!(fake.taken(), ["publish h", "unpublish h", "unpublish h"]);
    // Nothing there is nothing to do.
    csi.unpublish(&volume).await.unwrap();
    assert!(fake.taken().is_empty());
}

#[tokio::test]
async fn secrets_and_what_the_pod_is_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let api = driver(json!({ "attachRequired": false, "podInfoOnMount": true }));
    let secret = json!({ "metadata": { "name": "s" }, "data": { "key": "dmFsdWU=" } });
    api.put("/api/v1/namespaces/x/secrets/s", secret);
    let fake = Fake {
        can: vec![Rpc::StageUnstageVolume, Rpc::VolumeMountGroup],
        ..Fake::default()
    };
    let (csi, _serving) = with(dir.path(), &api, &fake);
    let secret = Some(("x".to_owned(), "s".to_owned()));
    let asked = CsiVolume {
        stage_secret: secret.clone(),
        publish_secret: secret,
        attributes: [("size".to_owned(), "1".to_owned())].into(),
        read_only: true,
        ..asked()
    };
    let group = Group {
        gid: Some(77),
        ..Group::default()
    };
    csi.publish(&asked, &pod("p"), group).await.unwrap();
    assert_eq!(fake.taken(), ["stage with secret h", "publish h"]);
    let told = fake.published.lock().clone().unwrap();
    assert_eq!(
        (told.secrets["key"].as_str(), told.readonly),
        ("value", true)
    );
    assert_eq!(told.volume_context["csi.storage.k8s.io/pod.name"], "p");
    assert_eq!(told.volume_context["size"], "1");
    let missing = CsiVolume {
        publish_secret: Some(("x".into(), "t".into())),
        ..asked
    };
    let error = csi.publish(&missing, &pod("p"), group).await.unwrap_err();
    assert!(
        error.to_string().contains("NodePublishSecretRef x/t"),
        "{error}"
    );
}

#[tokio::test]
async fn an_inline_volume_needs_a_driver_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake {
        can: vec![Rpc::StageUnstageVolume],
        ..Fake::default()
    };
    let (csi, _serving) = with(dir.path(), &plain(), &fake);
    let own = CsiVolume {
        ephemeral: true,
        ..asked()
    };
    csi.publish(&own, &pod("p"), Group::default())
        .await
        .unwrap();
    csi.unpublish(&dir.path().join("pods/p/volumes/kubernetes.io~csi/pv"))
        .await
        .unwrap();
    assert_eq!(fake.taken(), ["publish h", "unpublish h"]);
    let only = driver(json!({ "attachRequired": false, "volumeLifecycleModes": ["Persistent"] }));
    let other = tempfile::tempdir().unwrap();
    let (csi, _also) = with(other.path(), &only, &fake);
    let refused = csi
        .publish(&own, &pod("p"), Group::default())
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("only supports"), "{refused}");
    assert!(fake.taken().is_empty());
}

#[tokio::test]
async fn a_device_is_linked_for_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake {
        can: vec![Rpc::StageUnstageVolume],
        ..Fake::default()
    };
    let (csi, _serving) = with(dir.path(), &plain(), &fake);
    let asked = CsiVolume {
        block: true,
        ..asked()
    };
    let at = csi
        .publish(&asked, &pod("p"), Group::default())
        .await
        .unwrap();
    let devices = dir.path().join("plugins/kubernetes.io/csi/volumeDevices");
    assert_eq!(at, devices.join("publish/pv/p"));
    let link = dir.path().join("pods/p/volumeDevices/kubernetes.io~csi/pv");
    assert_eq!(std::fs::read_link(&link).unwrap(), at);
    csi.unpublish_devices("p").await.unwrap();
    assert_eq!(
        fake.taken(),
        ["stage h", "publish h", "unpublish h", "unstage h"]
    );
    assert!(!link.exists() && !devices.join("pv").exists() && !at.exists());
}

#[tokio::test]
async fn a_driver_is_registered_with_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let api = plain();
    api.put(
        "/api/v1/nodes/n",
        json!({ "metadata": { "name": "n", "uid": "n1" } }),
    );
    let fake = Fake::default();
    let socket = dir.path().join("csi.sock");
    let _serving = fake.serve(&socket);
    let csi = csi(dir.path(), &api);
    assert!(csi.register(NAME, &socket, &["2.0".into()]).await.is_err());
    csi.register(NAME, &socket, &["1.0.0".into()])
        .await
        .unwrap();
    let object = api.get("/apis/storage.k8s.io/v1/csinodes/n").unwrap();
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "n1");
    let driver = &object["spec"]["drivers"][0];
    assert_eq!(
        (&driver["nodeID"], &driver["allocatable"]["count"]),
        (&json!("node-id"), &json!(5))
    );
    assert!(csi.driver(NAME).is_ok());
    csi.unregister(NAME).await.unwrap();
    let object = api.get("/apis/storage.k8s.io/v1/csinodes/n").unwrap();
    assert_eq!(object["spec"]["drivers"], json!([]));
}
