//! Lifecycle hooks: what a container wants done after its start and before its stop.

use super::ask::{self, Answer, Target};
use crate::events::Severity;
use crate::metrics::COUNTS;
use crate::pod::deps::Deps;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod};
use std::time::Duration;

/// Runs a hook to its end.
pub async fn run(
    deps: &Deps,
    pod: &Pod,
    container: &Container,
    handler: &LifecycleHandler,
    id: &str,
    ip: Option<&str>,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let answer = deps
            .runtime
            .exec_sync(id, command, None)
            .await
            .map_err(|e| e.message())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        return Err(format!(
            "Exec lifecycle hook ({command:?}) for Container \"{}\" in Pod \"{}\" failed - error: command exited with {}, message: \"{text}\"",
            container.name,
            spec::full_name(pod),
            answer.exit_code
        ));
    }
    if let Some(get) = &handler.http_get {
        let own = deps.config.node_ip.to_string();
        let host = ip.filter(|_| !spec::host_network(pod)).unwrap_or(&own);
        let target = Target {
            runtime: &*deps.runtime,
            container,
            id,
            host,
        };
        if let Some(at) = ask_http(&target, get).await? {
            COUNTS.hook_without_tls();
            let text = format!(
                "request to HTTPS lifecycle hook {at} got HTTP response, retry with HTTP succeeded"
            );
            let recorder = &deps.recorder;
            recorder.pod(pod, None, Severity::Warning, "LifecycleHTTPFallback", text);
        }
        return Ok(());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
        return Ok(());
    }
    Err("invalid handler".into())
}

/// Asks by HTTP. A server that is to be asked by HTTPS and does not speak it is asked again without, and
/// without the header that nobody may read on the way, as upstream: then the answer is where that was.
async fn ask_http(target: &Target<'_>, get: &HTTPGetAction) -> Result<Option<String>, String> {
    let Err(failed) = ask_once(target, get).await else {
        return Ok(None);
    };
    if !failed.ends_with(ask::PLAIN) {
        return Err(failed);
    }
    let mut plain = get.clone();
    plain.scheme = None;
    if let Some(headers) = &mut plain.http_headers {
        headers.retain(|h| !h.name.eq_ignore_ascii_case("authorization"));
    }
    if ask_once(target, &plain).await.is_err() {
        return Err(failed);
    }
    ask::first(target, &plain).map(|place| Some(api::host_port(&place.host, place.port)))
}

/// A hook's answer is not looked at, as upstream: only whether it could be asked.
async fn ask_once(target: &Target<'_>, get: &HTTPGetAction) -> Result<(), String> {
    match ask::http_get(target, get, ask::HOOK).await {
        Answer::Good | Answer::Warned(_) => Ok(()),
        Answer::Bad(text) if text.starts_with("HTTP probe failed") => Ok(()),
        Answer::Bad(text) | Answer::Unknown(text) => Err(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_does_not_speak_https_is_asked_by_http() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (said, mut asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 8192];
                let length = stream.read(&mut bytes).await.unwrap();
                bytes.truncate(length);
                let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = said.send(String::from_utf8_lossy(&bytes).to_lowercase());
            }
        });
        let runtime = host::runtime::fake::Fake::new(0);
        let target = Target {
            runtime: &runtime,
            container: &Container::default(),
            id: "id",
            host: "127.0.0.1",
        };
        let get = serde_json::json!({ "port": port, "scheme": "HTTPS", "httpHeaders": [
            { "name": "Authorization", "value": "secret" }, { "name": "X-Word", "value": "one" }] });
        let get: HTTPGetAction = serde_json::from_value(get).unwrap();
        let at = format!("127.0.0.1:{port}");
        assert_eq!(ask_http(&target, &get).await, Ok(Some(at)));
        assert!(asked.recv().await.unwrap().starts_with('\u{16}'));
        let plain = asked.recv().await.unwrap();
        assert!(plain.contains("x-word: one\r\n"), "{plain}");
        assert!(!plain.contains("authorization"), "{plain}");
        let nobody = HTTPGetAction {
            port: k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(1),
            ..get
        };
        assert!(ask_http(&target, &nobody).await.is_err());
    }
}
