//! Pages about a running component, as upstream's components serve them: `/statusz`, `/flagz`,
//! `/configz`, `/debug/pprof/` and the level of logs at `/debug/flags/v`. Whoever serves them has asked
//! already whether the user may; this crate knows neither sockets nor users.
//!
//! What they show belongs to the process: the flags of its command line, the configurations of the
//! components in it. A process of several components shows those of all.
#![forbid(unsafe_code)]

mod configz;
mod flagz;
mod logs;
mod negotiate;
mod page;
mod profile;
mod profiling;
mod statusz;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

pub use configz::{duration, show as show_config};
pub use flagz::show as show_flags;
pub use logs::set_by as set_logs_by;
pub use page::{CLASSIFIED, Component};

use page::{PageRequest, text};

/// Bytes of a request's body: a filter of logs is a line.
const MOST_BODY: usize = 4096;

/// Whether this is a path of these pages.
pub fn serves(path: &str) -> bool {
    matches!(path, "/statusz" | "/flagz" | "/configz" | logs::PATH)
        || path == "/debug/pprof"
        || path.starts_with(profiling::BASE)
}

impl Component {
    /// Answers one of these pages; of another path the request is given back. A profile of the CPU
    /// takes as long as the request says, by default 30 s.
    pub async fn answer<B>(&self, head: &Parts, body: B) -> Result<Response<Bytes>, B>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let path = head.uri.path();
        if !serves(path) {
            return Err(body);
        }
        let sent = match head.method {
            Method::PUT => match Limited::new(body, MOST_BODY).collect().await {
                Ok(sent) => sent.to_bytes(),
                Err(_) => {
                    let why = format!("error reading request body of at most {MOST_BODY} bytes\n");
                    return Ok(text(StatusCode::BAD_REQUEST, why));
                }
            },
            _ => Bytes::new(),
        };
        let accept = head.headers.get(http::header::ACCEPT);
        let asked = PageRequest {
            method: &head.method,
            path,
            query: head.uri.query().unwrap_or_default(),
            accept: accept.and_then(|v| v.to_str().ok()),
            body: sent,
        };
        Ok(self.page(&asked).await)
    }

    async fn page(&self, asked: &PageRequest<'_>) -> Response<Bytes> {
        match asked.path {
            "/statusz" => statusz::answer(self, asked),
            "/flagz" => flagz::answer(self, asked),
            "/configz" => configz::answer(),
            logs::PATH => logs::answer(asked),
            _ => profiling::answer(asked).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_paths_are_not_answered() {
        let component = Component {
            name: "kube-test",
            paths: &[],
        };
        for (path, is_ours) in [
            ("/statusz", true),
            ("/flagz", true),
            ("/configz", true),
            ("/debug/pprof", true),
            ("/debug/pprof/cmdline", true),
            ("/debug/pprofile", false),
            ("/debug/flags/v", true),
            ("/metrics", false),
        ] {
            let (head, ()) = http::Request::get(path)
                .body(())
                .expect("a request")
                .into_parts();
            let body = http_body_util::Empty::<Bytes>::new();
            let answer = component.answer(&head, body).await;
            assert_eq!(answer.is_ok(), is_ours, "{path}");
            assert_eq!(serves(path), is_ours, "{path}");
        }
    }
}
