// The JavaScript client: an informer, server-side apply of any kind, a watch, a command in a pod and
// its log. Arguments: namespace, image with a shell.

import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import * as k8s from "@kubernetes/client-node";

const [namespace, image] = process.argv.slice(2);
// A guard against hanging for ever; nothing relies on it.
setTimeout(() => {
  console.error("still running");
  process.exit(1);
}, 240_000).unref();

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

// Events in the order in which they came, and whoever waits for the next.
const seen = [];
let wake = () => {};
const note = (kind) => (object) => {
  seen.push([kind, object]);
  wake();
};
async function next() {
  while (seen.length === 0) await new Promise((resolve) => (wake = resolve));
  const [kind, object] = seen.shift();
  return [kind, object?.metadata?.name ?? String(object), object];
}
async function expect(kind, name) {
  const [found, got, object] = await next();
  assert.deepEqual([found, got], [kind, name]);
  return object;
}

const map = (name, data) => ({
  apiVersion: "v1",
  kind: "ConfigMap",
  metadata: { name, namespace, labels: { app: "seen" } },
  data,
});
await core.createNamespacedConfigMap({ namespace, body: map("a", { k: "0" }) });
const path = `/api/v1/namespaces/${namespace}/configmaps`;
const selector = "app=seen";
const informer = k8s.makeInformer(
  config,
  path,
  () => core.listNamespacedConfigMap({ namespace, labelSelector: selector }),
  selector,
);
for (const kind of ["add", "update", "delete", "error"]) informer.on(kind, note(kind));
await informer.start();
await expect("add", "a");

// Applied twice by one manager: the second time nothing changes.
const apply = (object, manager, force) =>
  objects.patch(
    object, undefined, undefined, manager, force, k8s.PatchStrategy.ServerSideApply,
  );
const once = await apply(map("b", { k: "1" }), "one");
await expect("add", "b");
const twice = await apply(map("b", { k: "1" }), "one");
assert.equal(twice.metadata.resourceVersion, once.metadata.resourceVersion);
const conflict = await apply(map("b", { k: "2" }), "two").then(
  () => assert.fail("no conflict"),
  (error) => error,
);
assert.equal(conflict.code, 409);
assert.match(String(conflict.body), /conflict with \\?"one\\?"/);
await apply(map("b", { k: "2" }), "two", true);
assert.equal((await expect("update", "b")).data.k, "2");
await core.deleteNamespacedConfigMap({ name: "b", namespace });
await expect("delete", "b");
assert.deepEqual(informer.list().map((one) => one.metadata.name), ["a"]);
await informer.stop();

// A watch of its own, begun by a list that streams.
const watched = await new Promise((resolve, reject) => {
  const kinds = [];
  const watch = new k8s.Watch(config);
  const query = {
    labelSelector: selector, allowWatchBookmarks: true,
    sendInitialEvents: true, resourceVersionMatch: "NotOlderThan",
  };
  watch
    .watch(path, query, (kind) => {
      kinds.push(kind);
      if (kind === "BOOKMARK") resolve(kinds);
    }, (error) => error && reject(error))
    .then((request) => setTimeout(() => request.abort(), 200_000).unref());
});
assert.deepEqual(watched, ["ADDED", "BOOKMARK"]);

// A pod whose command and log are read.
await objects.create({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "shell", namespace },
  spec: {
    terminationGracePeriodSeconds: 0,
    containers: [{ name: "main", image, command: ["sh", "-c", "echo begun; exec sleep 1000000"] }],
  },
});
for (;;) {
  const pod = await core.readNamespacedPodStatus({ name: "shell", namespace });
  if (pod.status?.phase === "Running") break;
  await new Promise((resolve) => setTimeout(resolve, 100));
}
const text = (stream) => {
  const parts = [];
  stream.on("data", (part) => parts.push(part));
  return () => Buffer.concat(parts).toString();
};
const [out, err] = [new PassThrough(), new PassThrough()];
const [outText, errText] = [text(out), text(err)];
const status = await new Promise((resolve, reject) => {
  const exec = new k8s.Exec(config);
  const command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
  exec.exec(namespace, "shell", "main", command, out, err, null, false, resolve).catch(reject);
});
assert.equal(status.status, "Failure");
assert.equal(status.details.causes[0].message, "3");
assert.deepEqual([outText(), errText()], ["out\n", "err\n"]);
// A container that runs need not have said it yet.
let log = "";
while (log === "") log = (await core.readNamespacedPodLog({ name: "shell", namespace })) ?? "";
assert.equal(log, "begun\n");
console.log("done");
process.exit(0);
