"""The operator, installed from its chart as a company would install it."""

from quickstart.steps import ROOT, run

CHART = ROOT / "charts" / "finetune-operator"
RELEASE = NAMESPACE = "finetune-operator"


def install_operator(*values: str) -> None:
    """Install or upgrade the chart with the images built here, and wait until the operator is ready."""
    images = ("image.repository=localhost/finetune-operator", "image.tag=dev")
    trainer = ("trainer.image.repository=localhost/finetune-trainer", "trainer.image.tag=dev")
    sets = [word for value in (*images, *trainer, *values) for word in ("--set", value)]
    run(
        "helm", "upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace",
        "--wait", "--timeout", "5m", *sets, quiet=True,
    )  # fmt: skip
