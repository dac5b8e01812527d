//! `/tiphys/why`: the answers of `tiphys why`, over the API. What they are made of is read as whoever
//! asks, by a client in this process, so that they hold only what he may read.

use std::sync::{Arc, OnceLock};

use api::Status;
use api::status::Details;
use apiserver::hooks::{Explain, WhyQuestion};
use apiserver::{ApiServer, UserInfo};
use futures::future::BoxFuture;
use scheduler::why::{Change, Question, State, WhyError, answer};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::components::SchedulerFile;

/// Questions that are answered at once: each may hold a copy of the cluster's state.
const AT_ONCE: usize = 2;

pub struct Explainer {
    /// Known when it has been made, by a configuration that this is part of.
    server: OnceLock<ApiServer>,
    scheduling: SchedulerFile,
    places: Arc<Semaphore>,
}

impl Explainer {
    pub fn new(scheduling: SchedulerFile) -> Arc<Self> {
        Arc::new(Self {
            server: OnceLock::new(),
            scheduling,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }
    pub fn answers_from(&self, server: &ApiServer) {
        let _ = self.server.set(server.clone());
    }
}

impl Explain for Explainer {
    fn explain(
        &self,
        asked: WhyQuestion,
        user: UserInfo,
    ) -> BoxFuture<'static, Result<Value, Status>> {
        let server = self.server.get().cloned();
        let (scheduling, places) = (self.scheduling.clone(), self.places.clone());
        Box::pin(async move {
            let server = server.ok_or_else(|| Status::unavailable("the server is starting"))?;
            let place = places
                .try_acquire_owned()
                .map_err(|_| Status::too_many_requests("other questions are being answered", 1))?;
            let question: Option<Question> = match &asked.of {
                Some(of) => Some(of.parse().map_err(|e: WhyError| wrong(&e))?),
                None => None,
            };
            let changes = asked.suppose.iter().map(|c| c.parse::<Change>());
            let changes: Vec<Change> = changes
                .collect::<Result<_, WhyError>>()
                .map_err(|e| wrong(&e))?;
            let client = client::in_process(server.local_service(user));
            let namespace = asked.namespace;
            let state = State::load(&client, &namespace, question.as_ref(), &changes);
            let state = state.await.map_err(unreadable)?;
            let work = move || {
                // Held until the work has ended, also when whoever asked has gone.
                let _place = place;
                let profiles = || scheduling.profiles();
                answer(&state, &namespace, question.as_ref(), &changes, &profiles)
            };
            // It computes, for seconds where much is supposed.
            let answered = tokio::task::spawn_blocking(work).await;
            let answered = answered.map_err(Status::internal)?.map_err(|e| wrong(&e))?;
            serde_json::to_value(&answered).map_err(Status::internal)
        })
    }
}

fn wrong(error: &WhyError) -> Status {
    let mut status = Status::bad_request(error.to_string());
    match error {
        WhyError::NotFound(_) => {
            status.code = 404;
            status.reason = "NotFound".to_owned();
        }
        WhyError::Profiles(_) => status = Status::internal(error),
        WhyError::Question(_) | WhyError::Supposition(_) | WhyError::Scale { .. } => {}
    }
    status
}

/// What the asker's own reading was answered with.
fn unreadable(error: kube::Error) -> Status {
    let kube::Error::Api(refused) = error else {
        return Status::internal(format!("reading the state of the cluster: {error}"));
    };
    let mut status = Status::internal("");
    status.code = refused.code;
    status.message = format!(
        "the answer depends on what you may not read: {}",
        refused.message
    );
    if refused.code != 403 {
        status.message = format!("reading the state of the cluster: {}", refused.message);
    }
    status.reason = refused.reason.clone();
    status.details = refused.details.as_ref().map(|d| Details {
        group: d.group.clone(),
        kind: d.kind.clone(),
        ..Details::default()
    });
    status
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use apiserver::filters::tokens::Tokens;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use wire::jwt::Signer;

    use super::*;
    use crate::server::local;

    async fn cluster() -> (ApiServer, Arc<Explainer>) {
        let explainer = Explainer::new(SchedulerFile::default());
        let (signer, _) = Signer::generate().expect("a key");
        let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
        let mut config = apiserver::Config::new(
            "127.0.0.1".parse().expect("an address"),
            6443,
            clock::Clock::system(),
            clock::Random::system(),
        )
        .secured(tokens, &apiserver::admission::Options::default());
        config.explain = Some(explainer.clone());
        let store = Arc::new(store::Memory::new(clock::Clock::system()));
        let server = ApiServer::new(config, store, CancellationToken::new());
        let server = server.await.expect("a server");
        server.bootstrap().await.expect("its first objects");
        explainer.answers_from(&server);
        (server, explainer)
    }

    async fn create(client: &kube::Client, path: &str, object: Value) {
        let body = serde_json::to_vec(&object).expect("JSON");
        let request = http::Request::post(path).body(body).expect("a request");
        client.request::<Value>(request).await.expect("created");
    }

    async fn ask(client: &kube::Client, query: &str) -> Result<Value, (u16, String)> {
        let request = http::Request::get(format!("/tiphys/why?{query}"));
        let request = request.body(Vec::new()).expect("a request");
        match client.request::<Value>(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
            Err(e) => panic!("{e}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_holds_what_its_asker_may_read() {
        let (server, _) = cluster().await;
        let admin = local(&server, "admin", &["system:masters"]);
        create(
            &admin,
            "/api/v1/namespaces/default/services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                   "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        )
        .await;
        let answer = ask(&admin, "of=service/web").await.expect("an answer");
        assert_eq!(answer["cause"], "no pod has the labels app=web");
        let jane = local(&server, "jane", &["system:authenticated"]);
        let (code, why) = ask(&jane, "of=service/web").await.expect_err("no right");
        assert_eq!(code, 403, "{why}");
        assert!(why.contains("cannot list resource \"pods\""), "{why}");
        create(
            &admin,
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                   "metadata": {"name": "jane"},
                   "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                               "name": "view"},
                   "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                                 "name": "jane"}]}),
        )
        .await;
        let answer = ask(&jane, "of=service/web").await.expect("an answer");
        assert_eq!(answer["cause"], "no pod has the labels app=web");
        // Of other namespaces, and of nodes, she learns nothing.
        for query in [
            "of=service/web&namespace=kube-system",
            "of=pod/web",
            "of=service/web&if=drain/n",
        ] {
            let (code, why) = ask(&jane, query).await.expect_err(query);
            assert_eq!(code, 403, "{query}: {why}");
        }
        let nobody = local(&server, "nobody", &[]);
        let (code, _) = ask(&nobody, "of=service/web").await.expect_err("no right");
        assert_eq!(code, 403);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bad_question_is_answered_clearly() {
        let (server, explainer) = cluster().await;
        let admin = local(&server, "admin", &["system:masters"]);
        for (query, code, why) in [
            ("", 400, "name what is asked about"),
            ("of=web", 400, "ask pod/NAME"),
            ("of=pod/web", 404, "pod default/web not found"),
            ("of=pod/web&depth=3", 400, "\"depth\" is not a parameter"),
            ("if=drain/", 400, "suppose node/NAME"),
            ("if=node/n+memory=2Gi", 404, "node n not found"),
        ] {
            let (was, said) = ask(&admin, query).await.expect_err(query);
            assert_eq!(was, code, "{query}: {said}");
            assert!(said.contains(why), "{query}: {said}");
        }
        let busy = explainer.places.try_acquire_many(2).expect("places");
        let (code, _) = ask(&admin, "of=pod/web").await.expect_err("it is busy");
        assert_eq!(code, 429);
        drop(busy);
    }
}
