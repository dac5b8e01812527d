//! What the shared cache drops of pods, nobody reads there: every field that [`control::trimmed`]
//! takes away is looked for in the sources of the parts that read the cache. A part that begins to
//! read such a field fails here, and not in a cluster, where the field would always be empty.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Volume};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor, value::Error};
use serde_json::{Value, json};

/// The parts that read pods from the shared cache.
const READERS: [&str; 3] = ["controllers", "scheduler", "control"];

/// These ask the server for what they read, so they see pods as they are.
const ASKING: &str = "scheduler/src/why/";

/// Reads of a field of the same name of another type: file and field.
const OTHER_TYPES: [(&str, &str); 18] = [
    // A Secret itself; pods are read whole there.
    ("controllers/src/service_account/tokens.rs", "secret"),
    ("controllers/src/service_account/unused_tokens.rs", "secret"),
    // Of a PersistentVolume.
    ("controllers/src/attach_detach/plan.rs", "csi"),
    ("controllers/src/metrics/volumes.rs", "csi"),
    ("controllers/src/metrics/volumes.rs", "fc"),
    ("controllers/src/metrics/volumes.rs", "host_path"),
    ("controllers/src/metrics/volumes.rs", "nfs"),
    ("controllers/src/volumes/expand.rs", "azure_disk"),
    ("controllers/src/volumes/expand.rs", "azure_file"),
    ("controllers/src/volumes/expand.rs", "cinder"),
    ("controllers/src/volumes/expand.rs", "csi"),
    ("controllers/src/volumes/expand.rs", "flex_volume"),
    ("controllers/src/volumes/expand.rs", "portworx_volume"),
    ("controllers/src/volumes/expand.rs", "vsphere_volume"),
    ("controllers/src/volumes/binder/volume.rs", "csi"),
    ("scheduler/src/plugins/volume_limits.rs", "csi"),
    ("scheduler/src/storage/objects.rs", "csi"),
    // Of a plugin in the scheduler's file.
    ("scheduler/src/config/plugins.rs", "args"),
];

/// Learns the names of a struct's fields, which it asks for when it is deserialized.
struct Names<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(serde::de::Error::custom("enough"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut names = Vec::new();
    let _ = T::deserialize(Names(&mut names));
    assert!(!names.is_empty(), "no fields");
    names
}

/// Values among which each field finds one of its type that is not its default.
fn candidates() -> Vec<Value> {
    // What the types inside of a pod demand, each something of these.
    const INNER: &str = r#"{ "name": "x", "key": "x", "path": "x", "type": "x", "state": {},
        "image": "x", "imageID": "x", "ready": true, "restartCount": 1, "mountPath": "/x",
        "devicePath": "/x", "resourceName": "x", "restartPolicy": "x", "containerPort": 1,
        "topologyKey": "x", "maxSkew": 1, "whenUnsatisfiable": "x", "conditionType": "x",
        "claimName": "x", "ip": "x", "status": "x", "action": "x", "volumeID": "x", "pdName": "x",
        "monitors": ["x"], "iqn": "x", "lun": 1, "targetPortal": "x", "server": "x",
        "driver": "x", "repository": "x", "endpoints": "x", "volume": "x", "registry": "x",
        "gateway": "x", "secretRef": {}, "system": "x", "datasetName": "x", "diskName": "x",
        "diskURI": "x", "secretName": "x", "shareName": "x", "volumePath": "x" }"#;
    let inner: Value = serde_json::from_str(INNER).expect("JSON");
    vec![
        json!("x"),
        json!(7),
        json!(true),
        json!({ "a": "b" }),
        inner.clone(),
        json!(["x"]),
        json!([{ "name": "x", "persistentVolumeClaim": { "claimName": "x" } }]),
        json!([{ "name": "x" }]),
        json!([inner]),
        json!("2006-01-02T15:04:05Z"),
    ]
}

/// Whether the value at the pointer survives a round through the type, and is not empty.
fn at(pod: &Pod, pointer: &str) -> bool {
    let value = serde_json::to_value(pod).expect("a value");
    let empty = [json!(null), json!([]), json!(""), json!(0), json!(false)];
    value.pointer(pointer).is_some_and(|v| !empty.contains(v))
}

/// Of a type's fields, those that are gone when a pod was trimmed, and those that are kept; `make`
/// puts a value of one into a pod, where the pointer finds it.
fn sorted(
    names: &[&'static str],
    folder: &str,
    make: impl Fn(&str, Value) -> Value,
) -> [Vec<&'static str>; 2] {
    let (mut gone, mut kept, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let pointer = format!("{folder}/{name}");
        let read = |v: Value| serde_json::from_value::<Pod>(make(name, v)).ok();
        let mut whole = candidates().into_iter().filter_map(read);
        let Some(mut pod) = whole.find(|pod| at(pod, &pointer)) else {
            unknown.push(pointer);
            continue;
        };
        control::trimmed::pod(&mut pod);
        match at(&pod, &pointer) {
            true => kept.push(*name),
            false => gone.push(*name),
        }
    }
    assert!(
        unknown.is_empty(),
        "name a value of {unknown:?} among the candidates"
    );
    [gone, kept]
}

/// `imagePullSecrets` as Rust names it.
fn rust_name(json: &str) -> String {
    let letters: Vec<char> = json.chars().collect();
    let mut out = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|b| letters[b]);
        if letter.is_uppercase() && before.is_some_and(|b| !b.is_uppercase()) {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|e| e.expect("an entry").path());
    let of = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    };
    paths.flat_map(of).collect()
}

/// Whether a source reads `.name` of something; a call of that name is not a read.
fn reads(code: &str, name: &str) -> bool {
    let access = format!(".{name}");
    let mut places = code.match_indices(&access);
    places.any(|(at, found)| {
        let next = code[at + found.len()..].chars().next();
        next.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '(')
    })
}

#[test]
fn what_is_dropped_of_pods_is_read_by_no_part_of_the_control_plane() {
    let spec = |name: &str, v: Value| json!({ "spec": { "containers": [], name: v } });
    let status = |name: &str, v: Value| json!({ "status": { name: v } });
    let container = |name: &str, v: Value| {
        let mut one = json!({ "name": "c" });
        one[name] = v;
        json!({ "spec": { "containers": [one] } })
    };
    let container_status = |name: &str, v: Value| {
        let mut one = json!({ "name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0 });
        one[name] = v;
        json!({ "status": { "containerStatuses": [one] } })
    };
    let volume = |name: &str, v: Value| {
        let mut one = json!({ "name": "v" });
        one[name] = v;
        json!({ "spec": { "containers": [], "volumes": [one] } })
    };
    let folder = "/status/containerStatuses/0";
    let all = [
        sorted(&fields::<PodSpec>(), "/spec", spec),
        sorted(&fields::<PodStatus>(), "/status", status),
        sorted(&fields::<Container>(), "/spec/containers/0", container),
        sorted(&fields::<ContainerStatus>(), folder, container_status),
        sorted(&fields::<Volume>(), "/spec/volumes/0", volume),
    ];
    let of = |which: usize| all.iter().flat_map(move |both| both[which].iter().copied());
    // A name that another type's kept field has says nothing of which one is read.
    let kept: Vec<&str> = of(1).collect();
    let gone: Vec<&str> = of(0).filter(|name| !kept.contains(name)).collect();
    for expected in ["securityContext", "env", "imageID", "emptyDir"] {
        assert!(
            gone.contains(&expected),
            "{expected} is not dropped: {gone:?}"
        );
    }

    let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("crates");
    let mut wrong = Vec::new();
    for reader in READERS {
        for file in sources(&crates.join(reader).join("src")) {
            let name = file
                .strip_prefix(crates)
                .expect("below")
                .display()
                .to_string();
            let is_exempt = name == "control/src/trimmed.rs" || name.starts_with(ASKING);
            if is_exempt || name.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).expect("a source");
            let code = text.split("\n#[cfg(test)]\n").next().unwrap_or(&text);
            for field in gone.iter().map(|f| rust_name(f)) {
                let other = OTHER_TYPES.contains(&(&name, &field));
                if !other && reads(code, &field) {
                    wrong.push(format!("{name} reads `{field}`"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the cache of pods drops what is read: keep it in crates/control/src/trimmed.rs, or name the \
         other type that has such a field in this test: {wrong:#?}"
    );
}
