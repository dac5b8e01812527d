//! Places in lists: tokens by which a client reads the next page, in upstream's form, and what is said
//! of those that are none.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::errors::CONTINUE_EXPIRED;

/// A place in a list: continue behind `start` in the state at `rv`; -1 for the newest state.
#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ContinueToken {
    v: String,
    pub rv: i64,
    pub start: String,
}

const VERSION: &str = "meta.k8s.io/v1";
const INVALID: &str = "continue key is not valid";

impl ContinueToken {
    /// Behind a key.
    pub fn behind(key: &str, revision: u64) -> Self {
        Self::new(
            i64::try_from(revision).unwrap_or(i64::MAX),
            format!("{key}\0"),
        )
    }

    fn new(rv: i64, start: String) -> Self {
        let v = VERSION.to_owned();
        Self { v, rv, start }
    }

    pub fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_string(self).unwrap_or_default())
    }

    /// The place that a client names.
    pub fn read(token: &str) -> Result<Self, Status> {
        let bad = |why: String| Status::bad_request(format!("invalid continue token: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|e| bad(format!("{INVALID}: {}", base64_words(&e))))?;
        let place: Self =
            serde_json::from_slice(&bytes).map_err(|e| bad(format!("{INVALID}: {e}")))?;
        place.check().map_err(bad)?;
        Ok(place)
    }

    fn check(&self) -> Result<(), String> {
        if self.v != VERSION {
            let version = &self.v;
            return Err(format!(
                "{INVALID}: server does not recognize this encoded version {version}"
            ));
        }
        if self.rv == 0 {
            return Err(format!(
                "{INVALID}: incorrect encoded start resourceVersion (version {VERSION})"
            ));
        }
        if self.start.is_empty() {
            return Err(format!(
                "{INVALID}: encoded start key empty (version {VERSION})"
            ));
        }
        let key = self.start.strip_prefix('/').unwrap_or(&self.start);
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!("{INVALID}: {}", self.start));
        }
        Ok(())
    }

    /// What is said where the state of this place is forgotten: the client is offered a token that
    /// goes on in the newest state.
    pub fn expired(self) -> Status {
        let mut status = Status::expired(CONTINUE_EXPIRED.to_owned());
        status.next = Self::new(-1, self.start).token();
        status
    }
}

/// As Go says it, up to the place where its reader gives up on short ends.
fn base64_words(error: &base64::DecodeError) -> String {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    let at = match error {
        InvalidByte(at, _) | InvalidLength(at) => *at,
        InvalidLastSymbol { offset, .. } => *offset,
        InvalidPadding => 0,
    };
    format!("illegal base64 data at input byte {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_or_refused_in_upstreams_words() {
        let place =
            ContinueToken::read(&ContinueToken::behind("default/a", 7).token()).expect("own");
        assert_eq!((place.rv, &*place.start), (7, "default/a\0"));
        assert!(ContinueToken::read(&place.expired().next).is_ok_and(|p| p.rv == -1));
        let refused = |json: &str| {
            let token = URL_SAFE_NO_PAD.encode(json);
            ContinueToken::read(&token)
                .err()
                .map(|s| s.message)
                .unwrap_or_default()
        };
        for (json, why) in [
            (
                r#"{"v":"v2","rv":1,"start":"a"}"#,
                "server does not recognize this encoded version v2",
            ),
            (
                r#"{"v":"meta.k8s.io/v1","start":"a"}"#,
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                r#"{"v":"meta.k8s.io/v1","rv":1}"#,
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#, "../a"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/a//b"}"#, "/a//b"),
        ] {
            assert_eq!(
                refused(json),
                format!("invalid continue token: {INVALID}: {why}")
            );
        }
        let told = ContinueToken::read("a=b").err().map(|s| s.message);
        let words = "invalid continue token: continue key is not valid: illegal base64 data at input byte 1";
        assert_eq!(told.as_deref(), Some(words));
    }
}
