"""Joins the definitions of Kubernetes' API with proto field numbers and the facts of overlay.txt,
and writes the table of types that crates/schema holds.

Usage: join.py DEFINITIONS.json K8S_PB_SRC OVERLAY.txt OUT.txt

Only facts are written (names, types, numbers, keys), no sentences. The format is described at the
head of the written file and parsed by crates/schema/src/builtin.rs.
"""
import json
import os
import re
import sys

SCALARS = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "micro",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Duration": "duration",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "raw",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": "fieldsv1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": "json",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "schema_or_array",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "schema_or_bool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "schema_or_strings",
}
# Definitions that are no object types: a patch body and the scalars above.
SKIP = set(SCALARS) | {"io.k8s.apimachinery.pkg.apis.meta.v1.Patch"}

HEAD = """\
# Types of the Kubernetes v1.36 API: facts only. Written by `cargo xtask schema`; do not edit.
# P package              the types that follow are in it; `.Name` in a type means the same package
# T Name [atomic] [group/version/Kind ...]
# name number type [flags] [key=value ...]
#   type   string bool int32 int64 float64 bytes time micro duration quantity intorstring raw
#          fieldsv1 json schema_or_array schema_or_bool schema_or_strings, a type's name,
#          []T list, [set]T, [map:key,key=default]T, {}T map, {atomic}T map
#   flags  r required, a always written, p pointer, w wrapped as a message {items=1} in protobuf
#   keys   path=proto numbers of inline messages, inline=their names, merge=key, strategy=..., map=granular|atomic,
#          default=JSON, go=type as decode errors print it
"""


def squash(name):
    """One spelling for JSON, proto and Rust names: `$ref`, `xKubernetesMapType`, `host_ip`."""
    return re.sub(r"[^a-z0-9]", "", name.removeprefix("r#").lower())


def read_numbers(src):
    """{definition name: {squashed field: number}} from the prost attributes of k8s-pb."""
    out = {}
    for folder, _, files in os.walk(src):
        if "mod.rs" not in files:
            continue
        parts = os.path.relpath(folder, src).split(os.sep)
        package = "io.k8s." + ".".join(parts).replace("apiextensions_apiserver", "apiextensions-apiserver").replace(
            "kube_aggregator", "kube-aggregator"
        )
        struct, tag = None, None
        for line in open(os.path.join(folder, "mod.rs"), encoding="utf-8"):
            if m := re.match(r"pub struct (\w+)", line):
                struct = out.setdefault(f"{package}.{m.group(1)}", {})
            elif m := re.search(r'#\[prost\(.*tag = "(\d+)"', line):
                tag = int(m.group(1))
            elif (m := re.match(r"\s+pub ([\w#]+):", line)) and tag and struct is not None:
                struct[squash(m.group(1))] = tag
                tag = None
    return out


def read_overlay(path):
    """{definition name: {"p": set, "a": set, "w": set, "n": {}, "i": [], "d": {}, "new": [...]}}"""
    out, cur = {}, None
    for line in open(path, encoding="utf-8"):
        line = line.rstrip("\n")
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name, *gvks = line.split(" ")
            cur = out[name] = {"p": set(), "a": set(), "w": set(), "n": {}, "i": [], "d": {}, "g": {}, "new": [], "gvks": gvks}
            continue
        key, *rest = line.strip().split(" ")
        if key in ("p:", "a:", "w:"):
            cur[key[0]].update(rest)
        elif key == "n:":
            cur["n"].update((k, int(v)) for k, v in (x.rsplit("=", 1) for x in rest))
        elif key == "g:":
            cur["g"].update(x.split("=", 1) for x in rest)
        elif key == "i:":
            cur["i"] += [(int(v), t) for v, t in (x.split("=", 1) for x in rest)]
        elif key == "d:":
            field, value = " ".join(rest).split("=", 1)
            cur["d"][field] = value
        elif key == "f:":
            cur["new"].append((rest[0], rest[1]))
        else:
            raise SystemExit(f"overlay: unknown line {line!r}")
    return out


EMPTY = {"p": set(), "a": set(), "w": set(), "n": {}, "i": [], "d": {}, "g": {}, "new": [], "gvks": []}


class Join:
    def __init__(self, definitions, numbers, overlay):
        self.definitions, self.numbers, self.overlay = definitions, numbers, overlay

    def number(self, name, field):
        """(path, names, number) of a field, looked for in the type and in its inline messages."""
        facts = self.overlay.get(name, EMPTY)
        if field in facts["n"]:
            return (), (), facts["n"][field]
        number = self.numbers.get(name, {}).get(squash(field))
        if number:
            return (), (), number
        for outer, inner in facts["i"]:
            path, names, number = self.number(inner, field)
            if number:
                return (outer,) + path, (inner.rpartition(".")[2],) + names, number
        return (), (), 0

    def type_of(self, name, field, schema, package):
        if ref := schema.get("$ref"):
            target = ref.rsplit("/", 1)[1]
            if target in SCALARS:
                return SCALARS[target]
            return "." + target[len(package) + 1 :] if target.rpartition(".")[0] == package else target
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next(k for k in kind if k != "null")
        fmt = schema.get("format")
        if kind == "array":
            inner = self.type_of(name, field, schema["items"], package)
            lt = schema.get("x-kubernetes-list-type", "atomic")
            if lt == "map":
                keys = []
                for key in schema["x-kubernetes-list-map-keys"]:
                    target = inner.removeprefix(".") if not inner.startswith(".") else f"{package}{inner}"
                    default = self.overlay.get(target, EMPTY)["d"].get(key)
                    keys.append(f"{key}={default}" if default else key)
                return f"[map:{','.join(keys)}]{inner}"
            return f"[set]{inner}" if lt == "set" else f"[]{inner}"
        if kind == "object":
            if "additionalProperties" not in schema:
                raise SystemExit(f"{name}.{field}: object without a shape")
            inner = self.type_of(name, field, schema["additionalProperties"], package)
            return ("{atomic}" if schema.get("x-kubernetes-map-type") == "atomic" else "{}") + inner
        if kind == "integer":
            return {"int32": "int32", "int64": "int64"}.get(fmt, "int64")
        if kind == "number":
            return "float64"
        if kind == "boolean":
            return "bool"
        if kind == "string":
            return "bytes" if fmt == "byte" else "string"
        raise SystemExit(f"{name}.{field}: unknown type {schema}")

    def field_line(self, name, field, ty, schema, required):
        facts = self.overlay.get(name, EMPTY)
        path, names, number = self.number(name, field)
        flags = "".join(
            c
            for c, on in (
                ("r", field in required),
                ("a", field in facts["a"]),
                ("p", field in facts["p"]),
                ("w", field in facts["w"]),
            )
            if on
        )
        words = [field, str(number), ty]
        if flags:
            words.append(flags)
        if path:
            words.append("path=" + "/".join(map(str, path)))
            words.append("inline=" + ".".join(names))
        if key := schema.get("x-kubernetes-patch-merge-key"):
            words.append(f"merge={key}")
        if strategy := schema.get("x-kubernetes-patch-strategy"):
            words.append(f"strategy={strategy}")
        if "$ref" in schema and (mt := schema.get("x-kubernetes-map-type")):
            words.append(f"map={mt}")
        if field in facts["d"]:
            words.append(f"default={facts['d'][field]}")
        if field in facts["g"]:
            words.append(f"go={facts['g'][field]}")
        return (path + (number,), field), " ".join(words)

    def type_lines(self, name, package):
        definition = self.definitions.get(name)
        facts = self.overlay.get(name, EMPTY)
        lines = []
        if definition is not None:
            required = set(definition.get("required", []))
            for field, schema in definition.get("properties", {}).items():
                ty = self.type_of(name, field, schema, package)
                lines.append(self.field_line(name, field, ty, schema, required))
            gvks = [f"{g['group']}/{g['version']}/{g['kind']}" for g in definition.get("x-kubernetes-group-version-kind", [])]
        else:
            lines = [self.field_line(name, field, ty, {}, set()) for field, ty in facts["new"]]
            gvks = []
        head = ["T", name[len(package) + 1 :]]
        if definition is not None and definition.get("x-kubernetes-map-type") == "atomic":
            head.append("atomic")
        head += sorted(set(gvks + facts["gvks"]))
        return [" ".join(head)] + [line for _, line in sorted(lines)]

    def table(self):
        names = (set(self.definitions) - SKIP) | {n for n, f in self.overlay.items() if f["new"]}
        packages = {}
        for name in names:
            packages.setdefault(name.rpartition(".")[0], []).append(name)
        out = []
        for package in sorted(packages):
            out.append(f"P {package}")
            for name in sorted(packages[package]):
                out += self.type_lines(name, package)
        return HEAD + "\n".join(out) + "\n"


def main():
    definitions, src, overlay, target = sys.argv[1:]
    document = json.load(open(definitions, encoding="utf-8"))
    defs = document.get("$defs") or document["definitions"]
    text = Join(defs, read_numbers(src), read_overlay(overlay)).table()
    with open(target, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
