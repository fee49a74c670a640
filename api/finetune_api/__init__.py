"""The API of `FineTuneJob`: one schema for the operator, the trainer and the command line.

Everything that two of them must agree on stands here and nowhere else: the resource (`spec`, `status`), the
reasons, the exit codes, the layout of a run in S3, and the records that travel between pods and operator. It
imports pydantic alone, so that each image stays small.
"""

GROUP = "finetune-operator.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SHORT_NAME = "ftj"
CATEGORY = "finetune"
