//! The scheduler's configuration: a KubeSchedulerConfiguration in YAML or JSON, or the defaults.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use scheduler::config::{Election, Settings};
use scheduler::extenders::{Extender, Source};
use serde_json::Value;
use traces::Tracer;

use crate::machine::read;

/// What a file says, as values: a scheduler is made of it for each of its terms.
#[derive(Clone, Default)]
pub struct SchedulerFile {
    value: Option<Value>,
    /// Makes spans of what the scheduler does; not the file's.
    pub tracer: Tracer,
}

impl SchedulerFile {
    /// Reads and checks it, and says what in it has no effect.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let text = read(path)?;
        let fault = || format!("the scheduler's configuration {}", path.display());
        let decoded = schema::decode::yaml(text.as_bytes()).with_context(fault)?;
        if let Some(problem) = decoded.problems.first() {
            bail!("{}: {problem}", fault());
        }
        let file = Self {
            value: Some(decoded.value),
            ..Self::default()
        };
        // So that what an extender lacks shows at the start.
        file.config().with_context(fault)?;
        for warning in file.settings().with_context(fault)?.warnings {
            tracing::warn!("{}: {warning}", path.display());
        }
        Ok(file)
    }

    /// The configuration as it was given.
    pub fn value(&self) -> Value {
        self.value.clone().unwrap_or_else(scheduler::config::empty)
    }

    fn settings(&self) -> Result<Settings> {
        Ok(scheduler::config::read(self.value())?)
    }

    /// The scheduler as the file wants it.
    pub fn config(&self) -> Result<scheduler::Config> {
        let Settings {
            profiles,
            waits,
            mut extenders,
            ..
        } = self.settings()?;
        extenders.iter_mut().try_for_each(load)?;
        Ok(scheduler::Config {
            profiles,
            waits,
            extenders,
            tracer: self.tracer.clone(),
            ..scheduler::Config::default()
        })
    }

    /// The profiles alone, for questions that the scheduler is asked.
    pub fn profiles(&self) -> Result<Vec<scheduler::Profile>, String> {
        let config = self.config().map_err(|e| format!("{e:#}"))?;
        Ok(config.profiles)
    }

    /// The kubeconfig that the file names.
    pub fn kubeconfig(&self) -> Result<Option<PathBuf>> {
        let named = self.settings()?.kubeconfig;
        Ok(named.filter(|p| !p.is_empty()).map(PathBuf::from))
    }

    /// How the file wants leaders elected.
    pub fn election(&self) -> Result<Election> {
        Ok(self.settings()?.election)
    }
}

/// Reads the files that an extender's TLS names.
fn load(extender: &mut Extender) -> Result<()> {
    let tls = &mut extender.tls;
    for source in [&mut tls.certificate, &mut tls.key, &mut tls.authorities] {
        if let Source::File(path) = source {
            let pem = read(Path::new(path));
            let pem = pem.with_context(|| format!("the extender {}", extender.url))?;
            *source = Source::Data(pem.into_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str) -> Result<SchedulerFile> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        SchedulerFile::open(Some(file.path()))
    }

    const HEAD: &str =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    #[test]
    fn a_file_makes_profiles_and_elections() {
        let file = open(&format!(
            "{HEAD}profiles:\n- schedulerName: bins\nleaderElection:\n  leaderElect: false\n"
        ))
        .expect("a file");
        let config = file.config().expect("a configuration");
        let names: Vec<&str> = config
            .profiles
            .iter()
            .map(|p| p.scheduler.as_str())
            .collect();
        assert_eq!(names, ["bins"]);
        let election = file.election().expect("an election");
        assert_eq!(election.leader_elect, Some(false));
        assert!(SchedulerFile::default().config().is_ok());
    }

    #[test]
    fn a_wrong_file_is_refused() {
        for text in [
            "apiVersion: v1\nkind: Pod\n",
            "not: [yaml",
            &format!("{HEAD}profile: []\n"),
            &format!("{HEAD}parallelism: 1\nparallelism: 2\n"),
        ] {
            assert!(open(text).is_err(), "{text}");
        }
    }
}

#[cfg(test)]
mod extenders_over_tls {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};
    use k8s_openapi::api::core::v1::{Node, Pod};
    use scheduler::extenders::http::{about_nodes, lines};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use wire::pki::{Ca, LEAF_DAYS, Subject};

    use super::*;

    type ExtenderCalls = Arc<Mutex<Vec<(String, Value)>>>;

    /// An extender over TLS that asks for a client certificate: it likes node `b`, not `c`.
    async fn extender(ca: &Ca, now: i64, stop: CancellationToken) -> (String, ExtenderCalls) {
        let names = Subject::server("extender", &["extender.example"], &[]);
        let pair = ca.issue(&names, now, LEAF_DAYS).expect("a certificate");
        let tls = wire::tls::server_config(&pair, Some(&ca.pair.cert_pem)).expect("TLS");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heard = ExtenderCalls::default();
        let log = heard.clone();
        let handle = move |request: http::Request<wire::serve::RequestBody>| {
            let log = log.clone();
            async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.expect("a body");
                let body = serde_json::from_slice(&body.to_bytes()).expect("JSON");
                let answer = match path.as_str() {
                    "/v1/filter" => {
                        json!({"NodeNames": ["a", "b"], "FailedNodes": {"c": "no GPU"}})
                    }
                    "/v1/prioritize" => json!([{"Host": "b", "Score": 10}]),
                    _ => json!({"Error": "what?"}),
                };
                log.lock().expect("a log").push((path, body));
                http::Response::new(Full::new(bytes::Bytes::from(answer.to_string())))
            }
        };
        tokio::spawn(wire::serve::serve(listener, tls, handle, stop));
        (format!("https://{address}/v1/"), heard)
    }

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("an object")
    }

    #[tokio::test]
    async fn extenders_are_asked_over_tls() {
        let now = clock::Clock::system().seconds();
        let ca = Ca::generate("test", now).expect("an authority");
        let stop = CancellationToken::new();
        let (url, heard) = extender(&ca, now, stop.clone()).await;
        let dir = tempfile::tempdir().expect("a folder");
        let pair = ca.issue(&Subject::client("scheduler", &[]), now, LEAF_DAYS);
        let pair = pair.expect("a certificate");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let tls = json!({"serverName": "extender.example",
            "caFile": file("ca", &ca.pair.cert_pem),
            "certFile": file("cert", &pair.cert_pem), "keyFile": file("key", &pair.key_pem)});
        let config = |tls: Value| {
            json!({"apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "extenders": [{"urlPrefix": url, "filterVerb": "filter", "enableHTTPS": true,
                    "prioritizeVerb": "prioritize", "weight": 2, "nodeCacheCapable": true,
                    "tlsConfig": tls}]})
        };
        let open = |tls: Value| {
            let path = file("config", &config(tls).to_string());
            SchedulerFile::open(Some(Path::new(&path)))
        };
        let missing = json!({"caFile": dir.path().join("none")});
        assert!(open(missing).is_err(), "it shows at the start");
        let scheduler = open(tls).expect("a file").config().expect("a scheduler");
        let pod: Pod = typed(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}}));
        let whole = json!({"metadata": {"name": "p", "annotations": {"whole": "yes"}}});
        let api = client::in_process(tower::service_fn(move |_| {
            let body = Full::new(bytes::Bytes::from(whole.to_string()));
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        }));
        let pod = scheduler::Pod::read(&pod, &mut scheduler::interned::Strings::default());
        let pod = Arc::new(pod);
        let nodes = ["a", "b", "c"].map(|name| {
            let node: Node = typed(json!({"metadata": {"name": name}}));
            Arc::new(node)
        });
        let asked = |extenders: &[Extender]| {
            let lines = lines(extenders).expect("connections");
            about_nodes(lines, api.clone(), pod.clone(), nodes.to_vec())
        };
        let opinion = asked(&scheduler.extenders).await.expect("an opinion");
        assert_eq!(opinion.good, ["a".into(), "b".into()].into());
        assert_eq!(opinion.refused["c"].why, "no GPU");
        assert_eq!(opinion.scores, [("b".into(), 200)].into());
        {
            let heard = heard.lock().expect("a log");
            let paths: Vec<&str> = heard.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(paths, ["/v1/filter", "/v1/prioritize"]);
            assert_eq!(heard[0].1["Pod"]["metadata"]["annotations"]["whole"], "yes");
            assert_eq!(heard[1].1["NodeNames"], json!(["a", "b"]));
        }
        // A server that is not who it should be is not heard; one that may be ignored is.
        let mut other = scheduler.extenders.clone();
        other[0].tls.server_name = Some("other.example".to_owned());
        assert!(asked(&other).await.is_err());
        other[0].ignorable = true;
        let without = asked(&other).await.expect("without it");
        assert_eq!(without.good.len(), 3);
        stop.cancel();
    }
}
