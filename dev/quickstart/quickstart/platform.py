"""The operator, installed from its chart as a company would install it."""

import hashlib

from quickstart.steps import ROOT, run

CHART = ROOT / "charts" / "finetune-operator"
RELEASE = NAMESPACE = "finetune-operator"
SOURCES = (ROOT / "api" / "finetune_api", ROOT / "operator" / "finetune_operator")


def source_digest() -> str:
    """Return a digest of the operator's code: the tag of its image stays the same, so this tells pods apart."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def install_operator(*values: str) -> None:
    """Install or upgrade the chart with the images built here, and wait until the operator is ready."""
    images = ("image.repository=localhost/finetune-operator", "image.tag=dev")
    trainer = ("trainer.image.repository=localhost/finetune-trainer", "trainer.image.tag=dev")
    sets = [word for value in (*images, *trainer, *values) for word in ("--set", value)]
    run(
        "helm", "upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace",
        "--wait", "--timeout", "5m", "--set-string", f"podAnnotations.source-digest={source_digest()}", *sets,
        quiet=True,
    )  # fmt: skip
