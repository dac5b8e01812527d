"""Kinds that are found at run time: made from a file, found by discovery, applied by two managers,
watched, scaled, and asked for as a service account whose kubeconfig is made here."""

import base64
import json
import os
import sys
import tempfile

import yaml
from kubernetes import client, config, dynamic, utils
from kubernetes.dynamic import exceptions

from common import until

namespace = sys.argv[1]
GROUP = "python.example.com"
DEFINITION = f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: parcels.{GROUP}
spec:
  group: {GROUP}
  scope: Namespaced
  names: {{plural: parcels, singular: parcel, kind: Parcel, listKind: ParcelList}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {{}}
      scale: {{specReplicasPath: .spec.copies, statusReplicasPath: .status.copies}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              to: {{type: string, minLength: 1}}
              copies: {{type: integer, default: 1}}
              stamps:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {{type: string}}
                    cents: {{type: integer}}
          status:
            type: object
            x-kubernetes-preserve-unknown-fields: true
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {{name: reader, namespace: {namespace}}}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: Role
  metadata: {{name: reader, namespace: {namespace}}}
  rules:
  - apiGroups: [{GROUP}]
    resources: [parcels]
    verbs: [get, list]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: RoleBinding
  metadata: {{name: reader, namespace: {namespace}}}
  roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
  subjects: [{{kind: ServiceAccount, name: reader, namespace: {namespace}}}]
"""


def refused(error, ask):
    try:
        ask()
    except error as e:
        return json.loads(e.body)
    raise AssertionError("it was not refused")


def parcel(spec, name="p"):
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Parcel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


api = config.new_client_from_config()
with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    file.write(DEFINITION)
    file.flush()
    made = utils.create_from_yaml(api, file.name)
assert len(made) == 2, made
again = None
try:
    utils.create_from_dict(api, next(yaml.safe_load_all(DEFINITION)))
except utils.FailToCreateError as e:
    again = e.api_exceptions[0]
assert again is not None and again.status == 409, again


def found():
    try:
        return dynamic.DynamicClient(config.new_client_from_config()).resources.get(
            api_version=f"{GROUP}/v1", kind="Parcel"
        )
    except exceptions.ResourceNotFoundError:
        return None


parcels = until("the kind is discovered", found)
assert parcels.name == "parcels" and parcels.namespaced and "watch" in parcels.verbs, parcels.verbs
assert sorted(parcels.subresources) == ["scale", "status"], parcels.subresources

# Two managers apply.
first = parcels.server_side_apply(
    parcel({"to": "me", "stamps": [{"name": "one", "cents": 80}]}), field_manager="first"
)
assert first.spec.copies == 1, first
second = parcel({"stamps": [{"name": "two", "cents": 5}]})
both = parcels.server_side_apply(second, field_manager="second")
assert [s.name for s in both.spec.stamps] == ["one", "two"], both
said = refused(
    exceptions.ConflictError,
    lambda: parcels.server_side_apply(parcel({"to": "you"}), field_manager="second"),
)
assert said["details"]["causes"][0]["field"] == ".spec.to", said
assert 'conflict with "first"' in said["message"], said
forced = parcels.server_side_apply(
    parcel({"to": "you"}), field_manager="second", force_conflicts=True
)
# It named no stamps any more, so its own went, and the other's stayed.
assert forced.spec.to == "you" and [s.name for s in forced.spec.stamps] == ["one"], forced
unchanged = parcels.server_side_apply(
    parcel({"to": "you"}), field_manager="second", force_conflicts=True
)
assert unchanged.metadata.resourceVersion == forced.metadata.resourceVersion

said = refused(
    exceptions.UnprocessibleEntityError,
    lambda: parcels.server_side_apply(parcel({"to": ""}, "bad"), field_manager="first"),
)
assert said["details"]["causes"][0]["field"] == "spec.to", said
dry = parcels.server_side_apply(parcel({"to": "x"}, "dry"), field_manager="f", dry_run="All")
assert dry.metadata.uid, dry
refused(exceptions.NotFoundError, lambda: parcels.get(name="dry", namespace=namespace))

# Subresources, each by itself.
parcels.status.patch(
    {"metadata": {"name": "p"}, "status": {"copies": 1, "seen": {"by": "me"}}},
    namespace=namespace,
    content_type="application/merge-patch+json",
)
parcels.scale.patch(
    {"metadata": {"name": "p"}, "spec": {"replicas": 4}},
    namespace=namespace,
    content_type="application/merge-patch+json",
)
now = parcels.get(name="p", namespace=namespace)
assert (now.spec.copies, now.status.seen.by, now.metadata.generation) == (4, "me", 4), now

# A watch from a place sees each change since.
kinds = []
parcels.delete(name="p", namespace=namespace)
for event in parcels.watch(
    namespace=namespace, resource_version=both.metadata.resourceVersion, timeout=60
):
    kinds.append(event["type"])
    if event["type"] == "DELETED":
        break
assert kinds == ["MODIFIED", "MODIFIED", "MODIFIED", "DELETED"], kinds

# By the typed client, whose body says how it is meant.
custom = client.CustomObjectsApi(api)
place = (GROUP, "v1", namespace, "parcels")
custom.patch_namespaced_custom_object(
    *place,
    "typed",
    parcel({"to": "me"}, "typed"),
    field_manager="typed",
    _content_type="application/apply-patch+yaml",
)
# The client knows no body of an answer that says "created".
applied = custom.get_namespaced_custom_object(*place, "typed")
assert applied["metadata"]["managedFields"][0]["operation"] == "Apply", applied
scale = custom.get_namespaced_custom_object_scale(*place, "typed")
assert scale["kind"] == "Scale" and scale["spec"]["replicas"] == 1, scale
applied["spec"]["copies"] = 2
applied["metadata"]["resourceVersion"] = "1"
said = refused(
    client.ApiException, lambda: custom.replace_namespaced_custom_object(*place, "typed", applied)
)
assert said["reason"] == "Conflict", said

# As a service account, by a kubeconfig that is made of its token.
core = client.CoreV1Api(api)
token = core.create_namespaced_service_account_token(
    "reader", namespace, client.AuthenticationV1TokenRequest(spec={"expirationSeconds": 3600, "audiences": None})
).status.token
with open(api.configuration.ssl_ca_cert, "rb") as file:
    authority = base64.b64encode(file.read()).decode()
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "config")
    with open(path, "w") as file:
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": api.configuration.host,
                            "certificate-authority-data": authority,
                        },
                    }
                ],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            },
            file,
        )
    reader = client.CustomObjectsApi(config.new_client_from_config(path))
    names = [i["metadata"]["name"] for i in reader.list_namespaced_custom_object(*place)["items"]]
    assert names == ["typed"], names
    said = refused(
        client.ApiException, lambda: reader.delete_namespaced_custom_object(*place, "typed")
    )
user = f"system:serviceaccount:{namespace}:reader"
assert said["message"] == (
    f'parcels.{GROUP} "typed" is forbidden: User "{user}" cannot delete resource "parcels" '
    f'in API group "{GROUP}" in the namespace "{namespace}"'
), said

custom.delete_collection_namespaced_custom_object(*place)
until("all are deleted", lambda: not custom.list_namespaced_custom_object(*place)["items"])
client.ApiextensionsV1Api(api).delete_custom_resource_definition(f"parcels.{GROUP}")
print("done")
