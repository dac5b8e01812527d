//! Not a test: writes what a server with all versions and all features says of itself into a
//! folder, which `cargo xtask compare` holds against published documents. `cargo test` leaves it
//! out; `cargo test -p apiserver --test documents -- FOLDER` runs it. Folders of upstream's golden
//! files may follow: what the server makes of those is written, too.

mod common;
#[path = "common/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiserver::filters::authz::AlwaysAllow;
use apiserver::{ApiServer, Config};
use common::{raw, request, server_with};
use golden::Files;
use http::Method;
use registry::{Features, Kinds, served_versions};
use serde_json::Value;

/// As upstream's published documents are made.
const GATES: &[&str] = &["AllAlpha=true,AllBeta=true"];
const APIS: &[&str] = &["api/all=true"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn main() {
    let mut folders = std::env::args().skip(1).map(PathBuf::from);
    let folder = folders.next().expect("a folder to write into");
    let theirs: BTreeMap<String, Files> = folders.flat_map(|of| triples(&of)).collect();
    if !theirs.is_empty() {
        let (kinds, _) = everything();
        let made = serde_json::to_value(golden::golden(&theirs, &kinds)).expect("it is JSON");
        save(&folder, "golden", &made);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(write_all(&folder));
}

/// All that can be served, and what it depends on.
fn everything() -> (Arc<Kinds>, Features) {
    let features = Features::read(GATES).expect("known gates");
    let served = served_versions::configured(APIS, &features).expect("known APIs");
    (served.kinds, features)
}

/// The golden files of a folder, by their names without an ending.
fn triples(folder: &Path) -> Vec<(String, Files)> {
    let read = |name: &str, ending: &str| {
        let file = folder.join(format!("{name}.{ending}"));
        std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    };
    let entries = std::fs::read_dir(folder).expect("a folder of golden files");
    let files = entries.map(|entry| entry.expect("an entry").file_name());
    let names = files.filter_map(|file| Some(file.to_str()?.strip_suffix(".pb")?.to_owned()));
    let all = names.map(|name| {
        let files = Files {
            protobuf: read(&name, "pb"),
            json: read(&name, "json"),
            yaml: read(&name, "yaml"),
        };
        (name, files)
    });
    all.collect()
}

#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
async fn write_all(folder: &Path) {
    let (clock, random) = (clock::Clock::system(), clock::Random::system());
    let mut config = Config::new("192.0.2.1".parse().expect("address"), 6443, clock, random);
    let (kinds, features) = everything();
    config.settings.kinds = kinds;
    config.settings.features = Arc::new(features);
    config.authorizers = vec![Arc::new(AlwaysAllow)];
    let server = server_with(config).await;
    discovery(&server, folder).await;
    save(
        folder,
        "openapi-v2",
        &page(&server, "/openapi/v2", "").await,
    );
    let index = page(&server, "/openapi/v3", "").await;
    for name in index["paths"].as_object().into_iter().flatten() {
        let document = page(&server, &format!("/openapi/v3/{}", name.0), "").await;
        let file = format!("v3/{}_openapi", name.0.replace('/', "__"));
        save(folder, &file, &document);
    }
}

/// The pages that lead from one to the next, each in a file named after its path.
async fn discovery(server: &ApiServer, folder: &Path) {
    let aggregated = page(server, "/apis", AGGREGATED).await;
    save(folder, "discovery/aggregated_v2", &aggregated);
    let groups = page(server, "/apis", "").await;
    let mut open = vec!["api".to_owned(), "api/v1".to_owned(), "apis".to_owned()];
    for group in groups["groups"].as_array().into_iter().flatten() {
        open.push(format!("apis/{}", group["name"].as_str().expect("a name")));
        let versions = group["versions"].as_array().into_iter().flatten();
        open.extend(versions.map(|v| format!("apis/{}", v["groupVersion"].as_str().expect("it"))));
    }
    for path in open {
        let document = page(server, &format!("/{path}"), "").await;
        let file = format!("discovery/{}", path.replace('/', "__"));
        save(folder, &file, &document);
    }
}

async fn page(server: &ApiServer, path: &str, accept: &str) -> Value {
    let mut request = request(Method::GET, path, common::JSON, "");
    if !accept.is_empty() {
        let accept = accept.parse().expect("a header");
        request.headers_mut().insert("accept", accept);
    }
    let (code, document) = raw(server, request).await;
    assert_eq!(code, 200, "{path}: {document}");
    document
}

fn save(folder: &Path, name: &str, document: &Value) {
    let file = folder.join(format!("{name}.json"));
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("it can be made");
    std::fs::write(&file, document.to_string()).expect("it can be written");
}
