//! Clients behind a proxy that has found out who they are, and says so in headers. It is believed by
//! its certificate: of an authority of its own, and with one of the names that are allowed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use access::UserInfo;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use wire::followed::{FollowedFiles, LOOK_EVERY};
use wire::trust::Clients;

use super::Background;
use super::authn::{Authenticator, Credentials, Rejected};
use crate::http::request::decode_percent;
use crate::state::State;

/// What `--requestheader-*` say.
pub struct FrontProxy {
    pub authority: Clients,
    /// Common names of proxies; any when empty.
    pub names: Vec<String>,
    pub headers: Headers,
}

/// Which headers say what. Of names and uids the first that has a value counts, of groups and extra
/// all do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub users: Vec<HeaderName>,
    pub uids: Vec<HeaderName>,
    pub groups: Vec<HeaderName>,
    /// In lower case.
    pub extra_prefixes: Vec<String>,
}

impl Headers {
    /// Whom the headers of a proxy name.
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let first = |names: &[HeaderName]| {
            let values = names.iter().filter_map(|n| headers.get(n));
            values.map(text).find(|v| !v.is_empty())
        };
        let name = first(&self.users)?;
        let groups = self.groups.iter().flat_map(|n| headers.get_all(n));
        let groups = groups.map(text).filter(|g| !g.is_empty());
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra_prefixes {
            for (header, value) in headers {
                if let Some(key) = header.as_str().strip_prefix(&**prefix) {
                    let values = extra.entry(decode_percent(key)).or_default();
                    values.push(text(value));
                }
            }
        }
        Some(UserInfo {
            name,
            uid: first(&self.uids).unwrap_or_default(),
            groups: groups.collect(),
            extra,
        })
    }

    /// Takes what names a user out of a request.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for name in self.users.iter().chain(&self.uids).chain(&self.groups) {
            headers.remove(name);
        }
        let is_extra = |name: &&HeaderName| {
            let mut prefixes = self.extra_prefixes.iter();
            prefixes.any(|p| name.as_str().starts_with(&**p))
        };
        let names: Vec<HeaderName> = headers.keys().filter(is_extra).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

impl FrontProxy {
    fn check(&self, state: &State, shown: &Credentials<'_>) -> Result<Option<UserInfo>, Rejected> {
        let chain = match shown.peer {
            Some(peer) if !peer.certificates.is_empty() => &peer.certificates,
            _ => return Ok(None),
        };
        // Somebody with another certificate speaks for himself: his headers say nothing.
        if !self.authority.vouch_for(chain, state.now()) {
            return Ok(None);
        }
        if !self.names.is_empty() {
            let leaf = chain.first().map(|c| &**c).unwrap_or_default();
            let bad =
                |e| Rejected::new(format!("the front proxy's certificate cannot be read: {e}"));
            let name = wire::pki::certificate_names(leaf).map_err(bad)?.common_name;
            if !self.names.contains(&name) {
                return Err(Rejected::new(format!(
                    "x509: subject with cn={name} is not in the allowed list"
                )));
            }
        }
        let mut user = self.headers.user(shown.headers);
        if !state.has_feature("RemoteRequestHeaderUID") {
            user.iter_mut().for_each(|u| u.uid.clear());
        }
        Ok(user)
    }
}

impl Authenticator for FrontProxy {
    fn authenticate<'a>(
        &'a self,
        state: &'a State,
        credentials: &'a Credentials<'a>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, Rejected>> {
        Box::pin(std::future::ready(self.check(state, credentials)))
    }

    fn strip(&self, headers: &mut HeaderMap) {
        self.headers.strip(headers);
    }
}

/// The file of proxies' authorities: what it says is in effect some seconds after it was written.
pub struct AuthorityFile(Mutex<FollowedFiles>);

impl AuthorityFile {
    /// `first`: what it held when `authority` was made of it.
    pub fn new(path: PathBuf, first: Vec<u8>, authority: Clients) -> Self {
        let apply = move |found: &[Vec<u8>]| {
            let pem = found.first().map(Vec::as_slice).unwrap_or_default();
            authority.exchange(pem).map_err(|e| e.to_string())
        };
        let what = "the authority of proxies in front";
        let files = FollowedFiles::new(what, vec![(path, first)], apply);
        Self(Mutex::new(files))
    }

    /// Looks at it; whether it says something else that is in effect from now on.
    pub fn look(&self) -> bool {
        self.0.lock().look()
    }
}

impl Background for AuthorityFile {
    fn run(self: Arc<Self>, state: State) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    biased;
                    () = state.stop().cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                self.look();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_of_another_authority_are_believed_when_the_file_says_so() {
        use wire::pki::{Ca, Subject};
        let now: i64 = 1_800_000_000;
        let [one, two] = ["one", "two"].map(|name| Ca::generate(name, now).expect("ca"));
        let chain = |ca: &Ca| {
            let leaf = ca.issue(&Subject::client("front", &[]), now, 1);
            let leaf = leaf.expect("a certificate").cert_pem;
            wire::trust::certificates(leaf.as_bytes()).expect("pem")
        };
        let (of_one, of_two) = (chain(&one), chain(&two));
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("ca.crt");
        let first = one.pair.cert_pem.clone().into_bytes();
        std::fs::write(&path, &first).expect("file");
        let authority = Clients::of(&first).expect("an authority");
        let file = AuthorityFile::new(path.clone(), first, authority.clone());
        let believed = || [&of_one, &of_two].map(|chain| authority.vouch_for(chain, now));
        assert!(!file.look());
        assert_eq!(believed(), [true, false]);
        std::fs::write(&path, "half of it").expect("file");
        assert!(!file.look());
        assert_eq!(believed(), [true, false]);
        std::fs::write(&path, &two.pair.cert_pem).expect("file");
        assert!(file.look());
        assert_eq!(believed(), [false, true]);
    }

    #[test]
    fn headers_name_a_user() {
        let name = HeaderName::from_static;
        let read = Headers {
            users: vec![name("x-remote-user"), name("x-other-user")],
            uids: vec![name("x-remote-uid")],
            groups: vec![name("x-remote-group")],
            extra_prefixes: vec!["x-remote-extra-".into()],
        };
        let mut headers = HeaderMap::new();
        assert_eq!(read.user(&headers), None);
        for (name, value) in [
            ("x-remote-user", ""),
            ("x-other-user", "jane"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.io%2fteam", "blue"),
            ("accept", "x"),
        ] {
            headers.append(name, value.parse().expect("value"));
        }
        let user = read.user(&headers).expect("a user");
        assert_eq!((&*user.name, &*user.uid), ("jane", "7"));
        assert_eq!(user.groups, ["a", "b"]);
        assert_eq!(user.extra["acme.io/team"], ["blue"]);
        read.strip(&mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["accept"]);
    }
}
