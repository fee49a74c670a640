"""`spec` of a FineTuneJob: what to tune, on what, how, where, and where the result goes; one module per block.

Field names are those of the field's own libraries in camelCase. Every field has a bound, a default that works and
a description; the CRD is generated from these classes (`finetune_api/crd.py`). Rules across fields are CEL (`rules`),
so that the API server refuses a bad object at `kubectl apply` with a sentence that names the field and the mend.
"""

from finetune_api.spec.bottleneck import Bottleneck
from finetune_api.spec.data import Columns, Data, DataSource, Pii, Replay, Split, TrainingSource
from finetune_api.spec.distributed import Distributed
from finetune_api.spec.evaluation import EarlyStopping, Evaluation, Predictions
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import EVERY_LINEAR, Freeze, Ia3, InitialAdapter, Lora, Method, Quantization
from finetune_api.spec.model import Model
from finetune_api.spec.soft_prompts import Prefix, Prompt
from finetune_api.spec.storage import Cache, Checkpoint, Output, S3Storage, Storage
from finetune_api.spec.tracking import Mlflow, Tracking
from finetune_api.spec.training import LossSpike, Optimizer, Training

__all__ = [
    "EVERY_LINEAR",
    "Bottleneck",
    "Cache",
    "Checkpoint",
    "Columns",
    "Data",
    "DataSource",
    "Distributed",
    "EarlyStopping",
    "Evaluation",
    "FineTuneJobSpec",
    "Freeze",
    "Ia3",
    "InitialAdapter",
    "Lora",
    "LossSpike",
    "Method",
    "Mlflow",
    "Model",
    "Optimizer",
    "Output",
    "Pii",
    "Predictions",
    "Prefix",
    "Prompt",
    "Quantization",
    "Replay",
    "S3Storage",
    "Split",
    "Storage",
    "Tracking",
    "Training",
    "TrainingSource",
]
