"""Continued pretraining: the loss of supervised fine-tuning, over running text.

All that differs is in the rows: every token of a document but its first is supervised, its end-of-sequence token
too, and a long document is cut where supervised rows would be dropped (`prepare/encode.py`).
"""

from typing import Literal

from finetune_trainer.objectives.sft import Supervised


class Pretraining(Supervised):
    """Objective `pretrain`."""

    predicts: Literal["answers", "nothing"] = "nothing"
