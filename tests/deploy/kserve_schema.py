"""Reads KServe's objects as JSON from stdin and takes them into the classes that KServe's own SDK has for them.

Runs where kserve is installed. The classes are generated from the OpenAPI description of the CRDs; they know each field
and its type, but let fields pass that they do not know, so these are looked for here.
"""

import json
import re
import sys
from typing import Any

import kserve
import kubernetes.client


def objections(value: Any, kind: str, path: str) -> list[str]:
    if listed := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{path}: expected a list, found {value!r}"]
        return [each for index, item in enumerate(value) for each in objections(item, listed[1], f"{path}/{index}")]
    if mapped := re.fullmatch(r"[dD]ict[([]str, (.+)[)\]]", kind):
        return [each for key, item in value.items() for each in objections(item, mapped[1], f"{path}/{key}")]
    primitives = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}
    primitives |= {"ResourceQuantity": (str, int), "IntOrString": (str, int)}
    if kind in primitives:
        return [] if isinstance(value, primitives[kind]) else [f"{path}: expected {kind}, found {value!r}"]
    model = getattr(kserve, kind, None) or getattr(kubernetes.client, kind, None)
    if model is None:
        return [f"{path}: the SDK has no class {kind}"]
    fields = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    if not isinstance(value, dict):
        return [f"{path}: expected {kind}, found {value!r}"]
    found = [f"{path}/{key}: no such field" for key in value.keys() - fields.keys()]
    return found + [
        each for key in value.keys() & fields.keys() for each in objections(value[key], fields[key], f"{path}/{key}")
    ]


CLASSES = {"ClusterServingRuntime": "V1alpha1ClusterServingRuntime", "InferenceService": "V1beta1InferenceService"}
for resource in json.load(sys.stdin):
    kind = resource["kind"]
    sys.stdout.writelines(f"{objection}\n" for objection in objections(resource, CLASSES[kind], kind))
