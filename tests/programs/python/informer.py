"""An informer of the client: it lists and watches, and goes on where it stopped. When the server has
forgotten that place, it is said so (410), lists again, and has missed nothing."""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.informer import ADDED, DELETED, ERROR, MODIFIED, SharedInformer

from common import Events

# A server keeps 128 events whatever they weigh, and beyond that 32 MiB of them.
FILLING = "x" * 250_000
MOST_FILLINGS = 600

namespace = sys.argv[1]
config.load_kube_config()
core = client.CoreV1Api()


def config_map(name, labels=None, data=None):
    body = {"metadata": {"name": name, "labels": labels or {}}, "data": data or {}}
    return core.create_namespaced_config_map(namespace, body)


def seen_ones(informer):
    return sorted(informer.cache.list_keys())


def is_forgotten(revision):
    """Whether a watch from there is refused, as an event within the answer."""
    probe = watch.Watch()
    arguments = {"resource_version": revision, "timeout_seconds": 1, "label_selector": "none=such"}
    try:
        for _ in probe.stream(core.list_namespaced_config_map, namespace, **arguments):
            pass
    except ApiException as e:
        assert e.status == 410, e
        assert "too old resource version" in e.reason, e.reason
        return True
    return False


def fill(revision):
    """Writes until the server has forgotten a revision."""
    config_map("filling")
    for nth in range(MOST_FILLINGS):
        body = {"data": {"text": f"{nth} {FILLING}"}}
        core.patch_namespaced_config_map("filling", namespace, body)
        if nth % 50 == 49 and is_forgotten(revision):
            return
    raise AssertionError("the server forgets nothing")


def pages():
    """A list in pages shows one revision, whatever is written meanwhile."""
    first = core.list_namespaced_config_map(namespace, label_selector="app=seen", limit=1)
    assert len(first.items) == 1 and first.metadata._continue, first
    config_map("late", {"app": "seen"})
    second = core.list_namespaced_config_map(
        namespace, label_selector="app=seen", limit=10, _continue=first.metadata._continue
    )
    assert [item.metadata.name for item in second.items] == ["b"], second
    assert second.metadata.resource_version == first.metadata.resource_version
    core.delete_namespaced_config_map("late", namespace)


def bookmarks():
    """A watch that begins with a list says where the list ends."""
    probe = watch.Watch()
    kinds = []
    for event in probe.stream(
        core.list_namespaced_config_map,
        namespace,
        label_selector="app=seen",
        send_initial_events=True,
        resource_version_match="NotOlderThan",
        allow_watch_bookmarks=True,
        _request_timeout=120,
    ):
        kinds.append(event["type"])
        if event["type"] == "BOOKMARK":
            annotations = event["raw_object"]["metadata"]["annotations"]
            assert annotations["k8s.io/initial-events-end"] == "true", annotations
            break
    assert kinds == ["ADDED", "ADDED", "BOOKMARK"], kinds


config_map("a", {"app": "seen"})
config_map("b", {"app": "seen"})
config_map("other")
pages()
bookmarks()

events = Events()
informer = SharedInformer(
    core.list_namespaced_config_map, namespace=namespace, label_selector="app=seen"
)
for kind in (ADDED, MODIFIED, DELETED):
    informer.add_event_handler(kind, events.handler(kind))
errors = Events()
informer.add_event_handler(ERROR, errors.handler(ERROR))
informer.start()
events.expect(ADDED, "a")
events.expect(ADDED, "b")

core.patch_namespaced_config_map("a", namespace, {"data": {"k": "v"}})
assert events.expect(MODIFIED, "a").data == {"k": "v"}
# What leaves the selection is gone for this informer, what comes into it is new.
core.patch_namespaced_config_map("b", namespace, {"metadata": {"labels": {"app": "unseen"}}})
events.expect(DELETED, "b")
core.patch_namespaced_config_map("other", namespace, {"metadata": {"labels": {"app": "seen"}}})
events.expect(ADDED, "other")
assert seen_ones(informer) == [f"{namespace}/a", f"{namespace}/other"], seen_ones(informer)

# It goes on where it stopped, without a list.
informer.stop()
core.delete_namespaced_config_map("other", namespace)
informer.start()
events.expect(DELETED, "other")

# The place where it stopped is forgotten meanwhile.
informer.stop()
forgotten = core.list_namespaced_config_map(namespace).metadata.resource_version
core.delete_namespaced_config_map("a", namespace)
config_map("c", {"app": "seen"})
fill(forgotten)
informer.start()
kind, error = errors.next()
while getattr(error, "status", None) != 410:
    # Stopping breaks its connection, which it reports as well.
    kind, error = errors.next()
events.expect(DELETED, "a")
events.expect(ADDED, "c")
assert seen_ones(informer) == [f"{namespace}/c"], seen_ones(informer)
# It watches again. (While it does not yet, stopping it waits for ever.)
core.patch_namespaced_config_map("c", namespace, {"data": {"k": "v"}})
events.expect(MODIFIED, "c")
informer.stop()

# A page of a list that is forgotten says how to go on without the list's one revision.
page = core.list_namespaced_config_map(namespace, limit=1)
core.delete_namespaced_config_map("filling", namespace)
try:
    core.list_namespaced_config_map(namespace, limit=1, _continue="bad")
except ApiException as e:
    assert e.status == 400, e
    assert json.loads(e.body)["reason"] == "BadRequest", e.body
else:
    raise AssertionError("a forged token was taken")
rest = core.list_namespaced_config_map(namespace, _continue=page.metadata._continue)
assert rest.items, rest
print("done")
