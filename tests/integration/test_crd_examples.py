"""Every FineTuneJob that a user may copy passes the API server, with unknown fields refused as kubectl does."""

import re
from pathlib import Path

import pytest
import yaml

from finetune_api import GROUP, KIND, VERSION
from finetune_api.spec import FineTuneJobSpec
from finetune_loopback.kube_client import YAML, KubeApi

ROOT = Path(__file__).resolve().parents[2]
JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/default/finetunejobs"
FENCE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documents() -> list[tuple[str, str]]:
    """Return (where, YAML text) of every FineTuneJob in examples/, docs/ and the README files."""
    texts = [(path, path.read_text()) for path in sorted((ROOT / "examples").glob("*.yaml"))]
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/README.md")]
    texts += [(page, block) for page in sorted(pages) for block in FENCE.findall(page.read_text())]
    parts = [(path, part) for path, text in texts for part in re.split(r"^---$", text, flags=re.MULTILINE)]
    jobs = [(path, part) for path, part in parts if re.search(rf"^kind: {KIND}$", part, re.MULTILINE)]
    return [(f"{path.relative_to(ROOT)}:{number}", text) for number, (path, text) in enumerate(jobs)]


DOCUMENTS = documents()


@pytest.mark.parametrize("text", [text for _, text in DOCUMENTS], ids=[where for where, _ in DOCUMENTS])
def test_document_is_accepted(crd_installed: KubeApi, text: str) -> None:
    stored = crd_installed.request(
        "POST", JOBS, body=text.encode(), content_type=YAML, dryRun="All", fieldValidation="Strict"
    )

    FineTuneJobSpec.model_validate(stored["spec"])


def test_the_three_examples_are_found() -> None:
    names = {where.rpartition(":")[0] for where, _ in DOCUMENTS}

    assert {"examples/minimal.yaml", "examples/support-bot.yaml", "examples/llama-8b-2x8-gpu.yaml"} <= names


def test_minimal_example_has_required_fields_alone() -> None:
    spec = yaml.safe_load((ROOT / "examples/minimal.yaml").read_text())["spec"]
    required = {name for name, info in FineTuneJobSpec.model_fields.items() if info.is_required()}

    assert set(spec) == required
