"""Policy: can the spec be read.

The API server checks the same schema and the rules across fields before an object is stored. This check is for what
gets past it: a CRD older than the operator, and a spec too large to be handed to a pod.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_api.spec import FineTuneJobSpec
from finetune_operator.reconcile.privilege import privileged_fields

SHOWN = 5
LARGEST_SPEC = 100_000
"""Bytes of the spec as JSON: Linux takes at most 128 KiB for one environment variable."""


class SpecError(Exception):
    """The spec cannot be used; the text tells the user which fields and why."""


def parse_spec(raw: Mapping[str, Any], *, allow_privileged: bool = True) -> FineTuneJobSpec:
    """Return the spec. Raises SpecError with the fields that are wrong."""
    try:
        spec = FineTuneJobSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(_describe(error.errors(), raw)) from error
    size = len(spec.model_dump_json(by_alias=True, exclude_none=True).encode())
    if size > LARGEST_SPEC:
        raise SpecError(
            f"the spec is {size} bytes large and may have {LARGEST_SPEC}; shorten spec.model.chatTemplate"
            " or the lists of data sources"
        )
    forbidden = () if allow_privileged else privileged_fields(spec)
    if forbidden:
        raise SpecError(
            f"{', '.join(forbidden)}: only an admin may set this, and nothing in this cluster checks who did;"
            " remove it, or ask for the chart's admission policy (value admission.install)"
        )
    return spec


def _describe(errors: list[ErrorDetails], raw: Mapping[str, Any]) -> str:
    """One clause per field, in the order of the spec; a field with alternatives reports each of them once."""
    clauses: dict[str, str] = {}
    for error in errors:
        clauses.setdefault(_path(error, raw), error["msg"])
    shown = [f"{path}: {text}" for path, text in list(clauses.items())[:SHOWN]]
    more = [f"and {len(clauses) - SHOWN} more"] if len(clauses) > SHOWN else []
    return "; ".join([*shown, *more]) + "; correct the spec: delete the job and create it anew"


def _path(error: ErrorDetails, raw: Mapping[str, Any]) -> str:
    """Return the field's path as the user wrote it; pydantic adds names of types within alternatives."""
    path = "spec"
    node: Any = raw
    for part in error["loc"]:
        if isinstance(node, Mapping) and (part in node or error["type"] == "missing"):
            path, node = f"{path}.{part}", node.get(str(part))
        elif isinstance(node, list) and isinstance(part, int):
            path, node = f"{path}[{part}]", node[part]
        else:
            break
    return path
