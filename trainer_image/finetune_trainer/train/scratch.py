"""Where the training stage keeps what in the pod's scratch space; all processes of the pod share it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Scratch:
    """Paths below the pod's work directory."""

    root: Path

    @property
    def model(self) -> Path:
        """The base model."""
        return self.root / "model"

    @property
    def adapter(self) -> Path:
        """The adapter that is trained further."""
        return self.root / "adapter"

    @property
    def prepared(self) -> Path:
        """The prepared data."""
        return self.root / "prepared"

    @property
    def manifest(self) -> Path:
        """The record of the prepared data, for the workers."""
        return self.root / "prepared.json"

    @property
    def staged(self) -> Path:
        """Checkpoints on their way to S3."""
        return self.root / "staged"

    @property
    def resumed(self) -> Path:
        """The commit that this attempt goes on from."""
        return self.root / "resumed"

    @property
    def best(self) -> Path:
        """The weights to export, when they are not the last ones."""
        return self.root / "best"

    @property
    def samples(self) -> Path:
        """The series of answers to sample prompts."""
        return self.root / "samples.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.root / "tensorboard"

    @property
    def metrics(self) -> Path:
        """The metrics series."""
        return self.root / "metrics.jsonl"
