//! What a request asks for, read from its method, path and query alone: the verb, the resource
//! and its name, or a path that is not a resource. Authorization, routing and metrics share it.

use std::borrow::Cow;
use std::collections::HashMap;

use api::FieldSelector;
use http::Method;

/// A request's target in the API's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource; if not, `verb` is the lower-case method.
    pub is_resource: bool,
    /// get, list, watch, create, update, patch, delete, deletecollection, or a method's name.
    pub verb: String,
    pub path: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// What follows the subresource: the path behind `proxy/`.
    pub rest: String,
    /// The path begins with the deprecated `/watch/`: it is a watch, of a collection or of the
    /// one object that it names, and nothing else.
    pub legacy_watch: bool,
}

impl RequestInfo {
    /// Reads a request; a `metadata.name` field selector names the object of a list or watch, so
    /// that authorization by name works for them. What is named here is what the verb functions
    /// serve ([`crate::verbs::list::selection`]): a name is never authorized and then forgotten.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let page = |mut info: Self| {
            info.verb = method.as_str().to_ascii_lowercase();
            info
        };
        // As upstream: slashes around a path mean nothing, an empty segment within it is one, which
        // no resource has as its name. (A path that begins with two is none of the API's.) A slash that
        // is encoded is one as well, as it is to an extension server: what is authorized must be what
        // that server reads.
        let whole = decoded(path);
        if whole.starts_with("//") {
            return page(info);
        }
        let parts: Vec<&str> = whole.trim_matches('/').split('/').collect();
        let mut parts = match parts.as_slice() {
            [api, version, rest @ ..] if *api == "api" && !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            [apis, group, version, rest @ ..] if *apis == "apis" && !rest.is_empty() => {
                (info.group, info.version) = ((*group).to_owned(), (*version).to_owned());
                rest
            }
            _ => return page(info),
        };
        info.is_resource = true;
        if let [first, rest @ ..] = parts
            && *first == "watch"
            && !rest.is_empty()
        {
            info.legacy_watch = true;
            parts = rest;
        }
        info.read_resource(parts);
        info.verb = info.resource_verb(method, query);
        let takes_name = !info.legacy_watch && matches!(&*info.verb, "list" | "watch");
        if takes_name && info.name.is_empty() {
            info.name = query
                .get("fieldSelector")
                .and_then(single_name)
                .unwrap_or_default();
        }
        info
    }

    fn read_resource(&mut self, parts: &[&str]) {
        let mut rest = parts;
        if let [first, ns, tail @ ..] = parts
            && *first == "namespaces"
        {
            self.namespace = (*ns).to_owned();
            // `namespaces/x/status` is a subresource, `namespaces/x/pods` another resource.
            let own = matches!(tail.first(), Some(&("status" | "finalize")));
            if !tail.is_empty() && !own {
                rest = tail;
            }
        }
        let mut it = rest.iter().copied();
        let mut next = || it.next().unwrap_or_default().to_owned();
        (self.resource, self.name, self.subresource) = (next(), next(), next());
        self.rest = it.collect::<Vec<_>>().join("/");
        if self.path.ends_with('/') && !self.rest.is_empty() {
            self.rest.push('/');
        }
    }

    fn resource_verb(&self, method: &Method, query: &Query) -> String {
        match *method {
            _ if self.legacy_watch => "watch",
            // One object is read, whatever the query says: as upstream.
            Method::GET | Method::HEAD if !self.name.is_empty() => "get",
            Method::GET | Method::HEAD if query.flag("watch") => "watch",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned()
    }

    /// Whether the request takes selectors that authorization may look at: a watch by the
    /// deprecated path does not, as upstream.
    pub fn takes_selectors(&self) -> bool {
        !self.legacy_watch && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
    }

    /// Requests without a time limit: they last as long as the client wants.
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy" | "log"
            )
            || (!self.is_resource && self.path.starts_with("/debug/pprof/"))
    }
}

/// The one name that a field selector demands, among whatever else it demands.
fn single_name(selector: &str) -> Option<String> {
    let parsed = FieldSelector::parse(selector).ok()?;
    let name = parsed.exact("metadata.name")?;
    let is_segment = !matches!(name, "." | "..") && !name.contains(['/', '%']);
    is_segment.then(|| name.to_owned())
}

/// The parameters of a query; the first value of each name counts.
#[derive(Clone, Debug, Default)]
pub struct Query {
    first: HashMap<String, String>,
    all: Vec<(String, String)>,
}

impl Query {
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            let (k, v) = (
                decode_percent(&k.replace('+', " ")),
                decode_percent(&v.replace('+', " ")),
            );
            query.first.entry(k.clone()).or_insert_with(|| v.clone());
            query.all.push((k, v));
        }
        query
    }
    /// The value, unless it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.first
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }
    /// All values of a name (`dryRun=All&dryRun=x`, `command=…`).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all
            .iter()
            .filter(move |(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }
    /// The names of all parameters, as often as they are given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(k, _)| k.as_str())
    }
    /// A boolean as upstream reads those of options: what is there is true, unless it says that it
    /// is not.
    pub fn flag(&self, name: &str) -> bool {
        self.first
            .get(name)
            .is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
    /// A boolean, when it is given.
    pub fn tristate(&self, name: &str) -> Option<bool> {
        self.first.contains_key(name).then(|| self.flag(name))
    }
}

/// Undoes percent-encoding; what is not a valid encoding stays as it is.
pub fn decode_percent(text: &str) -> String {
    decoded(text).into_owned()
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return text.into();
    }
    String::from_utf8_lossy(&decoded_bytes(text))
        .into_owned()
        .into()
}

/// [`decode_percent`] of what need not be text.
pub fn decoded_bytes(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        let hex = (b == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten()
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(b);
                i += 1;
            }
        }
    }
    out
}

/// A path as it is sent to others: all but a path's plain characters encoded, and
/// nothing else, so that both sides read the same segments.
pub fn encoded_path(path: &[u8]) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*".contains(&b);
    api::percent::encoded(path, is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list||v1|pods|||"),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b",
                "get||v1|pods||a|b",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a",
                "get||v1|namespaces||a|a",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                "update||v1|namespaces|finalize|a|a",
            ),
            (
                Method::GET,
                "/apis/apps/v1/namespaces/a/deployments?watch=1",
                "watch|apps|v1|deployments||a|",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods",
                "watch||v1|pods||a|",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/a/pods",
                "deletecollection||v1|pods||a|",
            ),
            (
                Method::POST,
                "/api/v1/namespaces/a/pods/b/binding",
                "create||v1|pods|binding|a|b",
            ),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=metadata.name%3Dx",
                "list||v1|pods|||x",
            ),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=status.phase%21%3DFailed,metadata.name%3D%3Dx&watch=1",
                "watch||v1|pods|||x",
            ),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=metadata.name%21%3Dx",
                "list||v1|pods|||",
            ),
            (
                Method::GET,
                "/api/v1/pods?fieldSelector=a%21%3Db%5C,metadata.name%3Dx",
                "list||v1|pods|||",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/a/pods/b?watch=1",
                "get||v1|pods||a|b",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods/b",
                "watch||v1|pods||a|b",
            ),
            (
                Method::DELETE,
                "/api/v1/watch/namespaces/a/pods/b",
                "watch||v1|pods||a|b",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/a/pods/b/log",
                "watch||v1|pods|log|a|b",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx",
                "deletecollection||v1|pods||a|",
            ),
        ];
        for (method, uri, want) in cases {
            let i = info(method, uri);
            let got = format!(
                "{}|{}|{}|{}|{}|{}|{}",
                i.verb, i.group, i.version, i.resource, i.subresource, i.namespace, i.name
            );
            assert_eq!(got, want, "{uri}");
        }
        let cases = [
            ("/api/v1/pods/", "v1|pods|||"),
            ("/api/v1/namespaces/a/pods//", "v1|pods||a|"),
            // Nothing is called "".
            ("/api//v1/pods", "|v1|||pods"),
            ("/api/v1//pods", "v1||||pods"),
            ("/api/v1/namespaces/a//pods", "v1|||a|pods"),
            // The namespace that is left out means all of them.
            ("/api/v1/namespaces//pods", "v1|pods|||"),
            ("/api/v1/namespaces/a/pods//log", "v1|pods|log|a|"),
        ];
        for (uri, want) in cases {
            let i = info(Method::GET, uri);
            let (sub, ns) = (&i.subresource, &i.namespace);
            let got = format!("{}|{}|{sub}|{ns}|{}", i.version, i.resource, i.name);
            assert_eq!(got, want, "{uri}");
        }
        let inside = info(Method::PUT, "/apis/x.io/v1/namespaces/a/things/b%2Fstatus");
        assert_eq!((&*inside.name, &*inside.subresource), ("b", "status"));
        let twice = info(Method::GET, "/api/v1/namespaces/a/pods/b%252Flog");
        assert_eq!((&*twice.name, &*twice.subresource), ("b%2Flog", ""));
        let proxied = info(Method::GET, "/api/v1/namespaces/a/pods/b/proxy/c//d/");
        assert_eq!(proxied.rest, "c//d/", "what is passed on stays as it is");
        assert!(!info(Method::GET, "//api/v1/pods").is_resource);
        assert!(!info(Method::GET, "/apis/apps/v1").is_resource);
        assert!(!info(Method::GET, "/healthz").is_resource);
    }

    #[test]
    fn a_path_is_sent_as_it_is_read() {
        for (came, sent) in [
            ("/a/b:c@d;e=f", "/a/b:c@d;e=f"),
            ("/a%2Fb/%2e%2e/c", "/a/b/../c"),
            ("/%252e%252e%252f", "/%252e%252e%252f"),
            ("/%ff%00%20%3f%23", "/%FF%00%20%3F%23"),
            ("/%61*", "/a*"),
        ] {
            assert_eq!(encoded_path(&decoded_bytes(came)), sent);
        }
    }
}
