"""The operator image holds what the operator needs and no more; the trainer's weight stays out of it."""

import re

import pytest

from finetune_loopback.kube_api import REPOSITORY

DOCKERFILE = (REPOSITORY / "operator/Dockerfile").read_text()
REQUIREMENTS = (REPOSITORY / "requirements/operator.txt").read_text()


def test_runs_as_the_user_the_chart_says() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["65532:65532"]
    assert "PYTHONSAFEPATH=1" in DOCKERFILE
    assert 'ENTRYPOINT ["python", "-m", "finetune_operator"]' in DOCKERFILE


def test_code_comes_after_the_dependencies() -> None:
    copies = re.findall(r"^COPY (?:--from=\S+ )?(\S+)", DOCKERFILE, re.MULTILINE)

    assert copies == ["requirements/operator.txt", "/opt/venv", "api/finetune_api", "operator/finetune_operator"]


@pytest.mark.parametrize("package", ["torch", "transformers", "deepspeed", "boto3", "numpy"])
def test_has_nothing_of_the_trainer(package: str) -> None:
    assert not re.search(rf"^{package}==", REQUIREMENTS, re.MULTILINE)


def test_every_requirement_is_pinned_by_hash() -> None:
    pins = re.findall(r"^[a-z0-9][^\n]*==[^\n]*\\$", REQUIREMENTS, re.MULTILINE)

    assert len(pins) >= 10
    assert "--require-hashes" in DOCKERFILE
