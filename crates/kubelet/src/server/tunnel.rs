//! `/exec`, `/attach`, `/portForward` and `/run`: which container or sandbox is meant, and what
//! the runtime is asked. The streams themselves are [`crate::streaming`]'s.

use super::common::{Answer, Query, Shared, find_pod, full, text};
use crate::pod::runtime_state::Run;
use crate::pod::spec;
use crate::streaming::{self, Pod};
use host::runtime::Streams;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use wire::stream::remote::RequestedStreams;

pub(super) async fn serve(
    server: &Shared,
    parts: &[&str],
    query: &Query,
    request: &mut Request<wire::serve::RequestBody>,
) -> Answer {
    let outcome = match parts {
        ["portForward", namespace, pod] => port_forward(server, namespace, pod, None, query).await,
        ["portForward", namespace, pod, uid] => {
            port_forward(server, namespace, pod, Some(uid), query).await
        }
        [what, namespace, pod, container] => {
            in_container(server, what, (namespace, pod, None), container, query).await
        }
        [what, namespace, pod, uid, container] => {
            in_container(server, what, (namespace, pod, Some(*uid)), container, query).await
        }
        _ => Err(Box::new(text(
            StatusCode::NOT_FOUND,
            "404 page not found\n",
        ))),
    };
    match outcome {
        Ok(Goal::Command(streams)) => streaming::command(streams, request)
            .await
            .map(BodyExt::boxed),
        Ok(Goal::Ports(pod, ports)) => {
            let idle = server.deps.config.stream_idle;
            streaming::forward(pod, ports, idle, request).map(BodyExt::boxed)
        }
        Ok(Goal::Done(answer)) => *answer,
        Err(answer) => *answer,
    }
}

enum Goal {
    Command(streaming::CommandStreams),
    Ports(Pod, Vec<u16>),
    Done(Box<Answer>),
}

fn failed(e: &host::runtime::Error) -> Box<Answer> {
    let code = if e.is_not_found() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Box::new(text(code, &e.message()))
}

async fn port_forward(
    server: &Shared,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    query: &Query,
) -> Result<Goal, Box<Answer>> {
    let snapshot = find_pod(server, namespace, pod, uid)?;
    let Some(sandbox) = snapshot.seen.ready_sandbox() else {
        return Err(Box::new(text(StatusCode::NOT_FOUND, "pod not found")));
    };
    let uid = spec::uid(&snapshot.pod);
    let found = Pod::of_sandbox(&*server.deps.runtime, &sandbox.id, pod, uid).await;
    let ports = query.all("port");
    let ports = streaming::ports_of(ports.iter().map(String::as_str));
    Ok(Goal::Ports(found.map_err(|e| failed(&e))?, ports))
}

async fn in_container(
    server: &Shared,
    what: &str,
    (namespace, pod, uid): (&str, &str, Option<&str>),
    container: &str,
    query: &Query,
) -> Result<Goal, Box<Answer>> {
    let snapshot = find_pod(server, namespace, pod, uid)?;
    let running = snapshot
        .seen
        .newest(container)
        .filter(|c| c.run == Run::Running);
    let Some(found) = running else {
        return Err(Box::new(text(
            StatusCode::NOT_FOUND,
            &format!("container not found (\"{container}\")"),
        )));
    };
    let (stdin, tty) = (query.flag(&["input", "stdin"]), query.flag(&["tty"]));
    let (stdout, stderr) = (
        query.flag(&["output", "stdout"]),
        query.flag(&["error", "stderr"]) && !tty,
    );
    let id = found.id.clone();
    let mut wanted = RequestedStreams {
        stdin,
        stdout,
        stderr,
        tty,
    };
    let runtime = &server.deps.runtime;
    match what {
        "exec" => {
            let streams = Streams {
                stdin,
                stdout,
                stderr,
                tty,
            };
            let command = query.all("command");
            let url = runtime.exec(&id, &command, &streams).await;
            Ok(Goal::Command(streaming::CommandStreams {
                url: url.map_err(|e| failed(&e))?,
                wanted,
                command: Some(server.deps.commands.expect(&id, &command)),
                idle: server.deps.config.stream_idle,
            }))
        }
        "attach" => {
            // A container without a terminal has none to attach to, whatever was asked.
            let own = spec::find(&snapshot.pod, container);
            let tty = own.and_then(|c| c.tty).unwrap_or(false);
            let streams = Streams {
                stdin,
                stdout,
                stderr: stderr && !tty,
                tty,
            };
            let url = runtime.attach(&id, &streams).await;
            let url = url.map_err(|e| failed(&e))?;
            wanted.tty = tty;
            wanted.stderr = stderr && !tty;
            Ok(Goal::Command(streaming::CommandStreams {
                url,
                wanted,
                command: None,
                idle: server.deps.config.stream_idle,
            }))
        }
        _ => {
            let command: Vec<String> = query
                .get("cmd")
                .unwrap_or_default()
                .split(' ')
                .map(str::to_owned)
                .collect();
            let answer = runtime
                .exec_sync(&id, &command, None)
                .await
                .map_err(|e| failed(&e))?;
            let mut out = answer.stdout;
            out.extend_from_slice(&answer.stderr);
            Ok(Goal::Done(Box::new(Response::new(full(out)))))
        }
    }
}
