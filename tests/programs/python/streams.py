"""Streams into pods: output, errors and exit codes of a command, its standard input, a terminal, a
log while it grows, a forwarded port, a watch until a pod is ready, and an eviction."""

import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

from common import until

namespace, image, server = sys.argv[1:4]
config.load_kube_config()
core = client.CoreV1Api()


def pod(name, image, command):
    container = {"name": "main", "image": image}
    if command:
        container["command"] = ["sh", "-c", command]
    else:
        # It has begun when it listens.
        probe = {"httpGet": {"path": "/healthz", "port": 8080}}
        container["readinessProbe"] = {**probe, "periodSeconds": 1, "timeoutSeconds": 60}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def ready(name):
    """Waits by a watch that begins with what is there."""
    seen = watch.Watch()
    for event in seen.stream(
        core.list_namespaced_pod, namespace, field_selector=f"metadata.name={name}", timeout_seconds=200
    ):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Ready" and c.status == "True" for c in conditions):
            seen.stop()
            return
    raise AssertionError(f"{name} is not ready")


def executed(command, **more):
    return stream(
        core.connect_get_namespaced_pod_exec,
        "shell",
        namespace,
        command=["sh", "-c", command],
        **{"stdin": False, "stdout": True, "stderr": True, "tty": False, **more},
    )


def log(**more):
    # Of what is no JSON, the client makes no text.
    answer = core.read_namespaced_pod_log("shell", namespace, _preload_content=False, **more)
    return answer.data.decode()


core.create_namespaced_pod(
    namespace, pod("shell", image, "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done")
)
core.create_namespaced_pod(namespace, pod("web", server, None))
ready("shell")

# Output and errors, apart and with the exit code.
assert executed("echo out; echo err >&2") in ("out\nerr\n", "err\nout\n")
channels = executed("echo out; echo err >&2; exit 7", _preload_content=False)
channels.run_forever(timeout=60)
assert channels.read_stdout() == "out\n" and channels.read_stderr() == "err\n"
assert channels.returncode == 7, channels.returncode
# More than fits into any buffer, as bytes.
channels = executed("head -c 3000000 /dev/zero", _preload_content=False, binary=True)
size = 0
while channels.is_open():
    channels.update(timeout=1)
    if channels.peek_stdout():
        size += len(channels.read_stdout())
size += len(channels.read_stdout(timeout=1) or b"") if channels.peek_stdout() else 0
assert size == 3_000_000, size
# Standard input, line by line.
channels = executed("read a; echo got $a; read b; echo then $b", stdin=True, _preload_content=False)
channels.write_stdin("one\n")
assert channels.readline_stdout(timeout=60) == "got one"
channels.write_stdin("two\n")
assert channels.readline_stdout(timeout=60) == "then two"
channels.run_forever(timeout=60)
assert channels.returncode == 0, channels.returncode
# A terminal has a size, which changes.
resized = "until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo resized"
channels = executed(resized, stdin=True, tty=True, _preload_content=False)
channels.write_channel(4, json.dumps({"Width": 120, "Height": 40}))
channels.run_forever(timeout=60)
assert "resized" in channels.read_stdout()

# A log: its end, its times, and while it grows.
until("the first line is logged", lambda: log(limit_bytes=6) == "line 0")
last = log(tail_lines=1, timestamps=True)
assert last.split(" ")[0].endswith("Z") and " line " in last, last
follow = watch.Watch()
numbers = []
for line in follow.stream(core.read_namespaced_pod_log, "shell", namespace):
    numbers.append(int(line.split()[1]))
    if len(numbers) == 12:
        break
assert numbers == list(range(12)), numbers

# A forwarded port speaks HTTP.
ready("web")
forwarded = portforward(
    core.connect_get_namespaced_pod_portforward, "web", namespace, ports="8080"
)
socket = forwarded.socket(8080)
socket.setblocking(True)
socket.settimeout(60)
socket.sendall(b"GET /hostname HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
answer = b""
# To the end: the server closes, and so does what was forwarded.
while data := socket.recv(1024):
    answer += data
assert answer.startswith(b"HTTP/1.1 200") and b"web" in answer, answer
assert forwarded.error(8080) is None, forwarded.error(8080)
# The same by the API's proxy.
assert "web" in core.connect_get_namespaced_pod_proxy_with_path("web:8080", namespace, "hostname")

# An eviction is a creation below the pod.
core.create_namespaced_pod_eviction(
    "web", namespace, client.V1Eviction(metadata=client.V1ObjectMeta(name="web"))
)


def gone():
    try:
        core.read_namespaced_pod("web", namespace)
    except ApiException as e:
        return e.status == 404
    return False


until("the evicted pod is gone", gone)
print("done")
