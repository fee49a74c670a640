"""The CustomResourceDefinition of FineTuneJob, built from the pydantic models.

`dev/generate_crd.py` writes it as YAML. The rules over the whole object stand here, because they need the
metadata or the object as it was before; the rules over one block stand on its class.
"""

from typing import Any

from pydantic.alias_generators import to_camel

from finetune_api import CATEGORY, GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from finetune_api.base import Rule
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.structural import RULES, structural_schema, validations

MUTABLE = (
    "backoffLimit",
    "preRunningDeadlineSeconds",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "suspend",
)
"""Fields of the spec that may change at any time; the others only before the job begins or while it is suspended."""

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("Phase", "string", ".status.phase"),
    ("Progress", "string", ".status.progress.percentText"),
    ("Step", "string", ".status.progress.stepText"),
    ("Loss", "number", ".status.progress.loss"),
    ("ETA", "string", ".status.progress.eta"),
    ("Nodes", "integer", ".status.nodes"),
    ("Restarts", "integer", ".status.restarts.total"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
WIDE_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("Method", "string", ".spec.method.type"),
    ("Model", "string", ".spec.model.uri"),
    ("Tok/s", "number", ".status.progress.tokensPerSecond"),
    ("Checkpoint", "integer", ".status.lastCheckpoint.step"),
    ("Reason", "string", ".status.reason"),
)
NAME_RULES = (
    Rule(
        "size(self.metadata.name) <= 45",
        "metadata.name may have at most 45 characters: the names of pods and host names are made from it",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must hold lower-case letters, digits and hyphens alone: host names are made from it",
    ),
)


def build_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as a JSON object, the same on every call."""
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {**names, "shortNames": [SHORT_NAME], "categories": [CATEGORY]},
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in COLUMNS]
        + [{**_column(column), "priority": 1} for column in WIDE_COLUMNS],
        "selectableFields": [{"jsonPath": ".status.phase"}],
        "schema": {"openAPIV3Schema": _root()},
    }


def _column(column: tuple[str, str, str]) -> dict[str, Any]:
    name, kind, path = column
    return {"name": name, "type": kind, "jsonPath": path}


def _root() -> dict[str, Any]:
    return {
        "description": "FineTuneJob fine-tunes one language model: what, on what, how, where, and where to.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"{GROUP}/{VERSION}.", "type": "string"},
            "kind": {"description": f"{KIND}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(FineTuneJobSpec, "spec", observed=False),
            "status": structural_schema(FineTuneJobStatus, "status", observed=True),
        },
        RULES: validations((*NAME_RULES, _immutable())),
    }


def _immutable() -> Rule:
    fields = [to_camel(name) for name in FineTuneJobSpec.model_fields]
    same = " && ".join(f"self.spec.{name} == oldSelf.spec.{name}" for name in fields if name not in MUTABLE)
    return Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase == 'Pending'"
        f" || (oldSelf.spec.suspend && oldSelf.status.phase == 'Suspended') || ({same})",
        f"spec cannot change while the job runs or after its end (only {', '.join(MUTABLE)} can); set spec.suspend:"
        " true and wait for phase Suspended, or delete the job and create it anew",
    )
