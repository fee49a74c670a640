"""Write docs/reference.md from the models: every field with its type, default, bounds and meaning.

`python dev/generate_reference.py` writes it; with `--check` it writes nothing and exits 1 when it is stale.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.crd import build_crd

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
HEADER = """# Every field of FineTuneJob

Generated from `api/finetune_api` by `make generate`; `kubectl explain ftj.spec` tells the same. A field without a
default and not marked *required* may be left out.
"""


def describe_type(node: dict[str, Any]) -> str:
    """Return the type of a schema node in a few words."""
    if node.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if node["type"] == "array":
        return f"list of {describe_type(node['items'])}"
    if node["type"] == "object" and "additionalProperties" in node:
        return f"map of {describe_type(node['additionalProperties'])}"
    return str(node.get("format") or node["type"])


def describe_bounds(node: dict[str, Any]) -> str:
    """Return the allowed values or the bounds of a schema node, or nothing."""
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    low, high = node.get("minimum"), node.get("maximum")
    above, below = ("> " if node.get("exclusiveMinimum") else ""), ("< " if node.get("exclusiveMaximum") else "")
    if low is not None and high is not None:
        return f"{above}{low} to {below}{high}"
    return f"{above or 'at least '}{low}" if low is not None else ""


def describe_default(node: dict[str, Any], required: bool) -> str:
    """Return the default, or that the field is required."""
    if required:
        return "*required*"
    default = node.get("default")
    return "" if default in (None, {}, [], "") else f"`{json.dumps(default)}`"


def rows(node: dict[str, Any], path: str) -> Iterator[str]:
    """Yield a table row for every field below a schema node."""
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}"
        words = (
            describe_type(child),
            describe_default(child, name in node.get("required", [])),
            describe_bounds(child),
        )
        yield f"| `{here}` | {' | '.join(words)} | {child.get('description', '')} |".replace("  ", " ")
        yield from rows(child, here)
        yield from rows(child.get("items", {}), f"{here}[]")


def rules(node: dict[str, Any]) -> Iterator[str]:
    """Yield the message of every rule across fields, below and at a schema node."""
    for rule in node.get("x-kubernetes-validations", []):
        yield f"- {rule['message']}"
    for child in children(node):
        yield from rules(child)


def children(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schema nodes right below a node."""
    return [*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])]


def render() -> str:
    """Return the page."""
    root = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    table = ["| field | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    parts = [HEADER]
    for name in ("spec", "status"):
        parts.append("\n".join([f"## {name}\n", *table, *rows(root["properties"][name], name)]) + "\n")
    parts.append("\n".join(["## What is refused at `kubectl apply`\n", *dict.fromkeys(rules(root))]) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Write or check the page. Returns the exit status."""
    text = render()
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    if "--check" in sys.argv[1:]:
        sys.stderr.write("docs/reference.md is stale; run `make generate`\n")
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
