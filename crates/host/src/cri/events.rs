//! What happens to containers, as containerd's event service reports it. CRI of containerd 1.6
//! has no container events; the kubelet takes these as hints and lists to be sure.

use super::NAMESPACE;
use super::proto::containerd::events::{TaskDelete, TaskExecStarted, TaskExit, TaskOom, TaskStart};
use super::proto::containerd::services::events::v1::{
    SubscribeRequest, events_client::EventsClient,
};
use crate::runtime::Event;
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::transport::Channel;

/// Subscribes to the task events of the CRI plugin's namespace. The stream ends when the
/// connection does; whoever reads it subscribes again and lists.
pub(super) async fn subscribe(
    channel: Channel,
) -> Result<impl Stream<Item = Event>, tonic::Status> {
    let filter = format!("namespace=={NAMESPACE},topic~=\"^/tasks/\"");
    let answer = EventsClient::new(channel)
        .subscribe(SubscribeRequest {
            filters: vec![filter],
        })
        .await?;
    Ok(answer
        .into_inner()
        .take_while(|item| std::future::ready(item.is_ok()))
        .filter_map(|item| {
            std::future::ready(item.ok().and_then(|e| decode(&e.topic, e.event.as_ref()?)))
        }))
}

/// A message of an event. One that cannot be read is said: what it was about is found by listing alone.
fn message<M: Message + Default>(topic: &str, bytes: &[u8]) -> Option<M> {
    let read = M::decode(bytes);
    read.inspect_err(|error| tracing::warn!(topic, %error, "an event of the runtime is not read"))
        .ok()
}

fn decode(topic: &str, body: &prost_types::Any) -> Option<Event> {
    let bytes = body.value.as_slice();
    match topic {
        "/tasks/start" => message(topic, bytes).map(|e: TaskStart| Event::Started(e.container_id)),
        // An exec inside the container ends with the same topic but another id.
        "/tasks/exit" => message(topic, bytes)
            .filter(|e: &TaskExit| e.id.is_empty() || e.id == e.container_id)
            .map(|e| Event::Exited(e.container_id)),
        "/tasks/oom" => message(topic, bytes).map(|e: TaskOom| Event::OutOfMemory(e.container_id)),
        "/tasks/delete" => {
            message(topic, bytes).map(|e: TaskDelete| Event::Deleted(e.container_id))
        }
        "/tasks/exec-started" => {
            message(topic, bytes).map(|e: TaskExecStarted| Event::CommandStarted {
                container: e.container_id,
                pid: e.pid,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_exec_is_not_the_end_of_its_container() {
        let any = |e: TaskExit| prost_types::Any {
            type_url: String::new(),
            value: e.encode_to_vec(),
        };
        let own = TaskExit {
            container_id: "c".into(),
            id: "c".into(),
            ..Default::default()
        };
        let exec = TaskExit {
            container_id: "c".into(),
            id: "x".into(),
            ..Default::default()
        };
        assert_eq!(
            decode("/tasks/exit", &any(own)),
            Some(Event::Exited("c".into()))
        );
        assert_eq!(decode("/tasks/exit", &any(exec)), None);
        assert_eq!(decode("/images/create", &any(TaskExit::default())), None);
        let torn = prost_types::Any {
            type_url: String::new(),
            value: vec![0xff],
        };
        assert_eq!(decode("/tasks/exit", &torn), None);
        let begun = TaskExecStarted {
            container_id: "c".into(),
            exec_id: "x".into(),
            pid: 7,
        };
        let begun = prost_types::Any {
            type_url: String::new(),
            value: begun.encode_to_vec(),
        };
        let container = "c".to_owned();
        assert_eq!(
            decode("/tasks/exec-started", &begun),
            Some(Event::CommandStarted { container, pid: 7 })
        );
    }
}
