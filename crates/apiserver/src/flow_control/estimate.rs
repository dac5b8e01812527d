//! What a request costs, by what the cache knows of what it is about.

use flowcontrol::work::{self, Work};
use registry::Kinds;

use crate::cache::Cache;
use crate::http::request::{Query, RequestInfo};

/// What a request costs; of a write, how many watchers are sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub work: Work,
    pub watchers: Option<usize>,
}

/// What a request costs, when it may take `most` seats. Paths, kinds that are not stored and
/// those of extension servers cost one.
pub fn estimate(
    kinds: &Kinds,
    cache: &Cache,
    info: &RequestInfo,
    query: &Query,
    most: u32,
) -> Estimate {
    let one = Estimate {
        work: Work::ONE,
        watchers: None,
    };
    let (is_list, is_write) = match &*info.verb {
        "list" => (true, false),
        // Before its first event a watch may send all objects, as a list does.
        "watch" => (begins_with_all(query), false),
        "create" | "update" | "patch" | "delete" => (false, true),
        _ => return one,
    };
    // Of one object, whatever the verb says. A token is written nowhere.
    let is_single = is_list && !info.name.is_empty();
    let is_token = info.resource == "serviceaccounts" && info.subresource == "token";
    if !info.is_resource || !(is_list || is_write) || is_single || is_token {
        return one;
    }
    let row = kinds.resource(&info.group, &info.resource);
    let Some(cache) = row.filter(|r| !r.virtual_kind).and_then(|r| cache.of(r)) else {
        return one;
    };
    if is_write {
        let watchers = cache.watchers(&info.namespace);
        return Estimate {
            work: work::write(watchers, most),
            watchers: Some(watchers),
        };
    }
    let (objects, bytes) = cache.size();
    let limit = query.get("limit").and_then(|l| l.parse().ok());
    let limit = limit.filter(|l| *l > 0);
    Estimate {
        work: work::list(objects as u64, bytes as u64, limit, most),
        watchers: None,
    }
}

fn begins_with_all(query: &Query) -> bool {
    query.flag("sendInitialEvents") || matches!(query.get("resourceVersion"), None | Some("0"))
}
