//! A kind that a test makes while the server runs: `Ship`, with a table of types of its own.

use std::sync::Arc;
use std::time::Duration;

use apiserver::ApiServer;
use apiserver::http::Body;
use http::Request;
use http_body_util::{BodyExt, Full};
use registry::{
    CellFn, Column, Conversion, Encoding, FieldRead, Row, SelectableField, ServedVersion,
    Subresource, WithStatus,
};
use schema::{FieldDef, FieldType, ListKey, ListType, Type, TypeDef, TypeTable};
use serde_json::Value;

use super::send;

pub const GROUP: &str = "sea.example.com";

fn push(
    table: &mut TypeTable,
    version: &str,
    name: &str,
    fields: Vec<FieldDef>,
    kind: Option<&str>,
) -> FieldType {
    let id = table.push(TypeDef {
        name: format!("com.example.sea.{version}.{name}").into(),
        fields,
        atomic: false,
        preserve_unknown: false,
        custom: true,
        gvks: kind
            .map(|k| (GROUP.into(), version.into(), k.into()))
            .into_iter()
            .collect(),
    });
    FieldType::Object(id)
}

fn import(table: &mut TypeTable, name: &str) -> FieldType {
    let from = schema::builtin();
    let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    let id = from.by_name(&name).expect("a built-in type");
    FieldType::Object(table.import(from, id))
}

/// The table of the kind's own types in one version; `first` and `more` are fields of its spec.
pub fn table(version: &str, first: &str, more: &[&str]) -> Arc<TypeTable> {
    let mut t = TypeTable::default();
    let text = |name: &str| FieldDef::plain(name, FieldType::String);
    let oar = push(
        &mut t,
        version,
        "Oar",
        vec![text("name"), FieldDef::plain("length", FieldType::Int64)],
        None,
    );
    let oars = FieldType::List(
        oar.into(),
        ListType::Map(vec![ListKey {
            name: "name".into(),
            default: None,
        }]),
    );
    let mut spec = vec![text(first), FieldDef::plain("oars", oars)];
    spec.extend(more.iter().map(|name| text(name)));
    let spec = push(&mut t, version, "ShipSpec", spec, None);
    let status = push(&mut t, version, "ShipStatus", vec![text("place")], None);
    let meta = import(&mut t, "ObjectMeta");
    let list_meta = import(&mut t, "ListMeta");
    let head = [text("kind"), text("apiVersion")];
    let body = [
        FieldDef::plain("metadata", meta),
        FieldDef::plain("spec", spec),
        FieldDef::plain("status", status),
    ];
    let ship = push(
        &mut t,
        version,
        "Ship",
        head.iter().cloned().chain(body).collect(),
        Some("Ship"),
    );
    let items = FieldType::List(ship.into(), ListType::Atomic);
    let list = [
        FieldDef::plain("metadata", list_meta),
        FieldDef::plain("items", items),
    ];
    push(
        &mut t,
        version,
        "ShipList",
        head.into_iter().chain(list).collect(),
        Some("ShipList"),
    );
    Arc::new(t)
}

/// The type `Ship` of one version.
pub fn ship(version: &str, first: &str, more: &[&str]) -> Type {
    let name = format!("com.example.sea.{version}.Ship");
    Type::named(&table(version, first, more), &name).expect("just made")
}

pub fn ships(more: &[&str]) -> Arc<Row> {
    let ty = ship("v1", "helmsman", more);
    let column = |name: &str, path: &str| Column {
        name: name.into(),
        ty: "string",
        format: "",
        description: "".into(),
        priority: 0,
        cell: CellFn::Path(path.into()),
    };
    let words = |all: &[&str]| all.iter().map(|w| Arc::from(*w)).collect::<Vec<Arc<str>>>();
    Arc::new(Row {
        group: GROUP.into(),
        kind: "Ship".into(),
        list_kind: "ShipList".into(),
        resource: "ships".into(),
        singular: "ship".into(),
        short_names: words(&["sh"]),
        categories: words(&["all"]),
        namespaced: true,
        verbs: words(&[
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]),
        versions: vec![ServedVersion {
            version: "v1".into(),
            ty: ty.clone(),
            deprecated: false,
            own: None,
        }],
        storage_group: GROUP.into(),
        storage_version: "v1".into(),
        storage_type: ty.clone(),
        conversion: Conversion::Pure,
        encoding: Encoding::Json,
        storage_prefix: "/registry/sea.example.com/ships".into(),
        subresources: vec![Subresource {
            name: "status".into(),
            verbs: words(&["get", "patch", "update"]),
            group: GROUP.into(),
            version: "v1".into(),
            kind: "Ship".into(),
            ty: Some(ty),
        }],
        columns: vec![
            column("Name", ".metadata.name"),
            column("Helmsman", ".spec.helmsman"),
        ],
        selectable_fields: vec![SelectableField {
            name: "spec.helmsman".into(),
            read: FieldRead::Pointer("/spec/helmsman".into()),
            indexed: true,
        }],
        virtual_kind: false,
        inert: false,
        returns_deleted: false,
        needs_version: true,
        put_creates: false,
        expires_after_seconds: None,
        strategy: Arc::new(WithStatus),
    })
}

pub async fn install(server: &ApiServer, row: Arc<Row>) {
    let change = |rows: &mut Vec<Arc<Row>>| {
        rows.retain(|r| (&r.group, &r.resource) != (&row.group, &row.resource));
        rows.push(row);
    };
    server.change_rows(change).await.expect("rows change");
}

/// The events of a watch, one by one: those that are ready together come in one frame.
pub struct Events {
    body: Body,
    read: Vec<u8>,
}

impl Events {
    /// The next event; none when the watch has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame())
                .await
                .expect("the watch says something")?;
            let data = frame.expect("a frame").into_data().ok()?;
            self.read.extend_from_slice(&data);
        }
    }
}

pub async fn watch(server: &ApiServer, uri: &str) -> Events {
    let r = Request::get(uri).body(Full::default()).expect("request");
    let r = send(server, r).await;
    assert_eq!(r.status(), 200, "{uri}");
    Events {
        body: r.into_body(),
        read: Vec::new(),
    }
}
