"""Libraries that others import wherever they are installed, and that this job has no use for.

peft imports bitsandbytes, and with it torch's compiler; a tuner of DeepSpeed imports MLflow; transformers imports
SciPy for a loss of detecting objects. Together that is a third of the seconds in which a training process starts, so
each is hidden from a process that does not need it: whoever asks whether it is installed is told that it is not.
"""

import os
import sys
from pathlib import Path

from finetune_api.spec import FineTuneJobSpec


def hide_unused_by_prepare(spec: FineTuneJobSpec) -> None:
    """Hide what the prepare stage does not need: with qlora it asks what quantised weights would take."""
    if spec.method.type != "qlora":
        hide("bitsandbytes")


def hide_unused_by_worker(spec: FineTuneJobSpec, model: Path) -> None:
    """Hide what a training process does not need, before anything imports it; `model` is the folder of the model."""
    hide("scipy")
    if not _needs_bitsandbytes(spec, model):
        hide("bitsandbytes")
    if spec.tracking.mlflow is None or os.environ["RANK"] != "0":
        hide("mlflow")


def hide(library: str) -> None:
    """Make each import of a library fail that was not imported yet."""
    sys.modules.setdefault(library, None)  # type: ignore[arg-type]  # Python's own sign of that


def _needs_bitsandbytes(spec: FineTuneJobSpec, model: Path) -> bool:
    """Whether it quantises the model, has the optimizer's state, or may have quantised the model's files."""
    if spec.method.type == "qlora" or spec.training.optimizer.type not in ("adamw", "muon"):
        return True
    config = model / "config.json"
    return not config.exists() or "quantization_config" in config.read_text(encoding="utf-8")
