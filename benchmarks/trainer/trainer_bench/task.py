"""What a contender is told: one training, the same for all of them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_trainer.train.scratch import Scratch

MethodName = Literal["lora", "full", "qlora", "freeze"]
Precision = Literal["fp32", "bf16"]
METHODS: tuple[MethodName, ...] = ("lora", "full", "qlora")
"""Those that the peer has too."""

MAX_LENGTH = 1024
"""Tokens of a packed sequence; TRL's default."""
SEQUENCES_PER_STEP = 2
ROWS_PER_STEP = 8
"""TRL's default batch of rows. Rows are 246 tokens long on average, so that eight of them fill two sequences."""
SEED = 42
RANK, ALPHA = 16, 32
LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5, "freeze": 2e-5}
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class Task:
    """One training: `repeats` passes over the same rows, `steps` optimizer steps each."""

    method: MethodName
    precision: Precision
    steps: int
    repeats: int
    root: str
    """Folder with the model and the encoded rows, laid out as a training pod has them."""
    max_length: int = MAX_LENGTH
    sequences_per_step: int = SEQUENCES_PER_STEP
    device: Literal["cpu", "gpu"] = "cpu"

    @property
    def scratch(self) -> Scratch:
        """Where the model and the rows are."""
        return Scratch(Path(self.root))

    @property
    def cache(self) -> Path:
        """Folder of the encoded rows."""
        return self.scratch.prepared / "cache"

    @property
    def rows(self) -> int:
        """Training rows."""
        return self.steps * ROWS_PER_STEP

    @property
    def learning_rate(self) -> float:
        """The constant learning rate."""
        return LEARNING_RATE[self.method]

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Return the task that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields)
