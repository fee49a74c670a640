"""JSON schemas of every built-in kind, from the API server itself, for kubeconform without a network."""

import json
from pathlib import Path
from typing import Any

from finetune_loopback.kube_client import KubeApi

DEFINITIONS = "definitions.json"
LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def write_schemas(api: KubeApi, directory: Path) -> str:
    """Write one schema per kind and return kubeconform's `-schema-location` for them. Unknown fields are errors."""
    definitions: dict[str, Any] = api.request("GET", "/openapi/v2")["definitions"]
    closed = {name: _closed(definition) for name, definition in definitions.items()}
    closed[QUANTITY] = {"type": ["string", "number"]}
    (directory / DEFINITIONS).write_text(json.dumps({"definitions": closed}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            path = directory / _file_name(**kind)
            path.write_text(json.dumps({"$ref": f"{DEFINITIONS}#/definitions/{name}"}))
    return f"{directory}/{LOCATION}"


def _file_name(*, group: str, version: str, kind: str) -> str:
    suffix = f"{group.partition('.')[0]}-{version}" if group else version
    return f"{kind}-{suffix}.json".lower()


def _closed(node: Any) -> Any:
    """Return a schema that refuses unknown fields and takes int-or-string as either."""
    if isinstance(node, list):
        return [_closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    closed = {key: _closed(value) for key, value in node.items()}
    open_ended = "properties" not in node or "additionalProperties" in node
    return (
        closed
        if open_ended or not isinstance(node["properties"], dict)
        else {"additionalProperties": False, **closed}
    )
