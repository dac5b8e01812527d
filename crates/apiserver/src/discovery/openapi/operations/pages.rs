//! The pages about the server itself, as paths of OpenAPI.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{FORMS, Item, OK, Operation, Shape, place, root};
use crate::discovery::openapi::edition::Edition;
use crate::discovery::openapi::roots::Roots;
use crate::http::negotiate::JSON;

/// Pages about the server itself: for each its document of v3 (`api`, `apis/apps`, `version`) and
/// what it holds. `apis/apps/v1` stands with the kinds of that version.
pub fn pages(groups: &[(Arc<str>, Vec<Arc<str>>)]) -> Vec<Page> {
    let mut all = vec![
        Page::new("api", "getCoreAPIVersions", "core", "APIVersions"),
        Page::new("apis", "getAPIVersions", "apis", "APIGroupList"),
    ];
    for (group, versions) in groups {
        if !group.is_empty() {
            let (id, tag) = place(group, None);
            let (path, id) = (format!("apis/{group}"), format!("get{id}APIGroup"));
            all.push(Page::new(&path, &id, &tag, "APIGroup"));
        }
        for version in versions {
            let (id, tag) = place(group, Some(version));
            let id = format!("get{id}APIResources");
            let path = root(group, version);
            let path = path.trim_start_matches('/');
            all.push(Page::new(path, &id, &tag, "APIResourceList"));
        }
    }
    let text = |path: &str, id: &str, tag: &str, form: &'static [&'static str]| {
        let mut page = Page::new(path, id, tag, "");
        page.shape = Shape::Text;
        page.consumes = &[];
        page.produces = form;
        page
    };
    let mut version = text("version", "getCodeVersion", "version", &[JSON]);
    version.consumes = &[JSON];
    let info = "io.k8s.apimachinery.pkg.version.Info";
    version.shape = Shape::Type(schema::builtin().clone(), info.to_owned());
    all.extend([
        version,
        text(
            ".well-known/openid-configuration",
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
            &[JSON],
        ),
        text(
            "openid/v1/jwks",
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
            &["application/jwk-set+json"],
        ),
    ]);
    all
}

/// One page, with GET alone.
pub struct Page {
    /// Without slashes around it.
    pub name: String,
    id: String,
    tag: String,
    consumes: &'static [&'static str],
    produces: &'static [&'static str],
    shape: Shape,
}

impl Page {
    fn new(name: &str, id: &str, tag: &str, shape: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: id.to_owned(),
            tag: tag.to_owned(),
            consumes: FORMS,
            produces: FORMS,
            shape: Shape::meta(shape),
        }
    }

    pub fn write(self, edition: Edition, paths: &mut Map<String, Value>, roots: &mut Roots) {
        let operation = Operation {
            method: "get",
            id: self.id,
            tag: self.tag,
            action: None,
            kind: None,
            query: BTreeMap::new(),
            body: None,
            consumes: self.consumes,
            produces: self.produces,
            answers: OK,
            answer: Some(self.shape),
        };
        let item = Item {
            path: format!("/{}/", self.name),
            operations: vec![operation],
        };
        item.write(edition, paths, roots);
    }
}
