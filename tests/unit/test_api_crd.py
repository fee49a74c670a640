"""The generated CRD: fresh, structural, described and bounded everywhere."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from finetune_api import crd
from finetune_api.spec import FineTuneJobSpec

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "nullable"}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_crd", ROOT / "dev/generate_crd.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def root() -> dict[str, Any]:
    schema: dict[str, Any] = crd.build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            yield from nodes(node[key], f"{path}[]")


SPEC = list(nodes(root()["properties"]["spec"], "spec"))
STATUS = list(nodes(root()["properties"]["status"], "status"))


def test_generated_files_are_fresh() -> None:
    assert generator().stale() == []


def test_stale_and_missing_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    fresh, old, missing = (tmp_path / name for name in ("fresh.yaml", "old.yaml", "missing.yaml"))
    fresh.write_text(module.render())
    old.write_text(module.render().replace("maximum: 1024", "maximum: 1023", 1))
    monkeypatch.setattr(module, "TARGETS", (fresh, old, missing))

    assert module.stale() == [old, missing]


def test_check_writes_nothing_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    target = tmp_path / "crd.yaml"
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "TARGETS", (target,))
    monkeypatch.setattr("sys.argv", ["generate_crd.py", "--check"])

    assert module.main() == 1
    assert not target.exists()

    monkeypatch.setattr("sys.argv", ["generate_crd.py"])
    assert module.main() == 0
    assert target.read_text() == module.render()


def test_build_is_deterministic() -> None:
    assert crd.build_crd() == crd.build_crd()


@pytest.mark.parametrize(("path", "node"), SPEC + STATUS, ids=[path for path, _ in SPEC + STATUS])
def test_node_is_structural(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & set(node)
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    assert not ("properties" in node and "additionalProperties" in node)
    assert path.endswith("[]") or node["description"].endswith((".", ")")), "every field says what it is"


@pytest.mark.parametrize(("path", "node"), SPEC, ids=[path for path, _ in SPEC])
def test_spec_field_is_bounded(path: str, node: dict[str, Any]) -> None:
    match node.get("type"):
        case "string":
            assert "enum" in node or "maxLength" in node
        case "array":
            assert "maxItems" in node
        case "integer":
            assert "minimum" in node
            assert "maximum" in node
        case "number":
            assert "minimum" in node
            assert "maximum" in node
        case "object" if "additionalProperties" in node:
            assert "maxProperties" in node


def test_status_has_no_defaults_and_requires_in_conditions_alone() -> None:
    assert [path for path, node in STATUS if "default" in node] == []
    assert [path for path, node in STATUS if "required" in node] == ["status.conditions[]"]


def test_blocks_left_out_get_their_fields_defaults() -> None:
    by_path = dict(SPEC)

    assert by_path["spec.storage"]["default"]["s3"]["region"] == "us-east-1"
    assert by_path["spec.podTemplate"]["default"]["stageResources"] == {}
    assert "default" not in by_path["spec.data.split"]
    assert "default" not in by_path["spec.training"]


def test_only_limits_and_suspend_may_change_at_any_time() -> None:
    (rule,) = (rule for rule in root()["x-kubernetes-validations"] if "oldSelf" in rule["rule"])
    compared = [name for name in root()["properties"]["spec"]["properties"] if f"self.spec.{name} ==" in rule["rule"]]

    assert set(root()["properties"]["spec"]["properties"]) - set(compared) == set(crd.MUTABLE)
    assert len(FineTuneJobSpec.model_fields) == len(compared) + len(crd.MUTABLE)


def test_columns_in_order() -> None:
    columns = crd.build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]

    assert [column["name"].upper() for column in columns if "priority" not in column] == [
        *("PHASE", "PROGRESS", "STEP", "LOSS", "ETA", "NODES", "RESTARTS", "AGE"),
    ]


def test_columns_point_at_fields_that_exist() -> None:
    known = {f".{path}" for path, _ in SPEC + STATUS} | {".metadata.creationTimestamp"}
    columns = crd.build_crd()["spec"]["versions"][0]["additionalPrinterColumns"]

    assert [column["jsonPath"] for column in columns if column["jsonPath"] not in known] == []
