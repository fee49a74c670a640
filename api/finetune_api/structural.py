"""A pydantic model as the structural schema that Kubernetes wants of a custom resource.

That is: no `$ref`, no unions but int-or-string, no `additionalProperties: false` (unknown fields are refused by
strict field validation instead). Defaults: a block of settings gets its fields' defaults as its own, so that they
apply where it is left out and CEL rules may read it without `has()`; empty texts, lists and maps get none, so that
a stored object shows only what says something. A status (`observed`) gets no defaults and, but for its conditions,
no required fields: the operator alone writes it, and an older stored one must stay valid.
"""

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_api.base import Record, Rule

RULES = "x-kubernetes-validations"
INT_OR_STRING = "x-kubernetes-int-or-string"
COPIED = (
    *("description", "type", "format", "enum", "pattern", "minimum", "maximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
)
LIST_KEYS = {
    "conditions": ["type"],
    "env": ["name"],
    "volumes": ["name"],
    "volumeMounts": ["mountPath"],
    "topologySpreadConstraints": ["topologyKey", "whenUnsatisfiable"],
}
"""Lists whose entries have keys: the API server refuses a key twice, and each entry has one writer and one place."""


def structural_schema(model: type[Record], path: str, *, observed: bool) -> dict[str, Any]:
    """Return the schema of a model that stands at `path` of the object."""
    return _Structural(model, observed=observed).root(path)


def validations(rules: Iterable[Rule]) -> list[dict[str, str]]:
    """Return CEL rules as a schema holds them."""
    return [{"rule": rule.cel, "message": rule.message} for rule in rules]


class _ModelSchema(GenerateJsonSchema):
    """pydantic's JSON schema with each class's CEL rules in it."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        node = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Record) and model.rules:
            node[RULES] = validations(model.rules)
        return node

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """Return an enum, of one value too, and of `auto` and numbers as the union that it is."""
        values = schema["expected"]
        numbers = [value for value in values if isinstance(value, int)]
        if numbers and len(numbers) < len(values):
            number = {"type": "integer", "minimum": min(numbers), "maximum": max(numbers)}
            return {"anyOf": [number, {"type": "string"}]}
        return {"type": "string", "enum": values}


class _Structural:
    """Turns the JSON schema of one model into a structural schema."""

    def __init__(self, model: type[Record], *, observed: bool) -> None:
        self._schema = model.model_json_schema(schema_generator=_ModelSchema)
        self._definitions: dict[str, Any] = self._schema.pop("$defs", {})
        self._observed = observed

    def root(self, path: str) -> dict[str, Any]:
        return self._node(self._schema, path)

    def _node(self, source: dict[str, Any], path: str) -> dict[str, Any]:
        source = self._resolve(source)
        node = {key: source[key] for key in COPIED if key in source}
        if "exclusiveMinimum" in source:
            node |= {"minimum": source["exclusiveMinimum"], "exclusiveMinimum": True}
        if "exclusiveMaximum" in source:
            node |= {"maximum": source["exclusiveMaximum"], "exclusiveMaximum": True}
        node |= _int_or_string(source, path) if "anyOf" in source else self._children(source, path)
        return node if self._observed else node | _default(source, node.get("properties"))

    def _resolve(self, source: dict[str, Any]) -> dict[str, Any]:
        """Put a referenced definition in place, and `X | None` down to X: in Kubernetes a field is left out."""
        variants = [variant for variant in source.get("anyOf", []) if variant.get("type") != "null"]
        if len(variants) == 1:
            rest = {key: value for key, value in source.items() if key != "anyOf"}
            return self._resolve({**variants[0], **rest})
        if "$ref" in source:
            rest = {key: value for key, value in source.items() if key != "$ref"}
            return {**self._definitions[source["$ref"].rpartition("/")[2]], **rest}
        return source

    def _children(self, source: dict[str, Any], path: str) -> dict[str, Any]:
        if "properties" in source:
            return self._object(source, path)
        if "items" in source:
            return self._list(source["items"], path)
        if source.get("type") != "object":
            return {}
        values = source.get("additionalProperties")
        if isinstance(values, dict):
            return {"additionalProperties": self._node(values, f"{path}[]")}
        return {"x-kubernetes-preserve-unknown-fields": True}

    def _object(self, source: dict[str, Any], path: str) -> dict[str, Any]:
        properties = {name: self._node(node, f"{path}.{name}") for name, node in source["properties"].items()}
        node: dict[str, Any] = {"properties": properties}
        if source.get("required") and (not self._observed or path.endswith("[]")):
            node["required"] = source["required"]
        if RULES in source:
            node[RULES] = source[RULES]
        return node

    def _list(self, items: dict[str, Any], path: str) -> dict[str, Any]:
        node = {"items": self._node(items, f"{path}[]")}
        keys = LIST_KEYS.get(path.rpartition(".")[2])
        return node | ({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys} if keys else {})


def _default(source: dict[str, Any], properties: dict[str, Any] | None) -> dict[str, Any]:
    """Return the default of a node, if it says something: of a block, the defaults of its fields."""
    default = source.get("default")
    if properties is not None and default is not None:
        return {"default": {name: node["default"] for name, node in properties.items() if "default" in node}}
    return {} if default in (None, "", [], {}) else {"default": default}


def _int_or_string(source: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a quantity (a text with a pattern, or a number), or `auto` or a number, which needs a CEL rule."""
    variants = {variant["type"]: variant for variant in source["anyOf"]}
    number, text = variants["integer"], variants["string"]
    if "pattern" in text:
        bounds = {key: text[key] for key in ("pattern", "maxLength")}
        return {INT_OR_STRING: True, "minimum": number["minimum"], **bounds}
    low, high = number["minimum"], number["maximum"]
    rule = Rule(
        f"type(self) == int ? self >= {low} && self <= {high} : self == 'auto'",
        f"{path} must be auto or a whole number from {low} to {high}",
    )
    return {INT_OR_STRING: True, RULES: validations([rule])}
