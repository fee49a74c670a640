"""The layout of a run in S3, and the records stored there.

Everything of one run is below `<spec.checkpoint.uri>/<run id>/`: the job's uid, so that a job created anew starts
anew, with a generation once the run itself began anew because its spec was changed while it was suspended.

    prepared/<writer>/...            token cache of one prepare pod; nothing is ever overwritten
    prepared/manifest.json           put last with If-None-Match: which writer's files are the prepared data
    data/<step>-<writer>/rank-<r>/   one rank's shards of a checkpoint; <writer> = a<attempt>-<pod uid, 8 characters>
    data/<step>-<writer>/rank-<r>.json   RankFiles: that rank's list of objects with their digests
    commits/<step, 8 digits>.json    Commit: put last with If-None-Match; what is not committed does not exist
    commits/<step, 8 digits>.bad.json    marks a commit whose objects did not match their digests
    metrics/<writer>.jsonl           every logged step
    samples/<writer>.jsonl           answers to evaluation.samplePrompts
    tensorboard/<writer>/            event files of TensorBoard
    rendezvous/<attempt>.json        Rendezvous: where the pods of an attempt meet; gone when its pod 0 has ended
    results/train.json               TrainResult: put last with If-None-Match when training is done

Beside the runs lies `<spec.checkpoint.uri>/cache/<key>.json`, ReusableRows: whose prepared rows a run with the same
files, tokenizer and settings copies instead of encoding them anew.

The result goes to `<spec.output.uri>/`: adapter/, merged/, predictions.jsonl, and last manifest.json.
Evidence for the protocol: object stores have no rename; conditional PUT is the one atomic publication they have
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html).
"""

from datetime import datetime
from typing import Any

from pydantic import Field, IPvAnyAddress

from finetune_api.base import Record
from finetune_api.status import CheckpointRef, DataReport, EvaluationResult, Plan, Progress, Validation
from finetune_api.uris import S3Location, parse_s3

MANIFEST = "manifest.json"


class FileEntry(Record):
    """One object, with what it must be when it is read back."""

    key: str = Field(description="Key in the bucket of the prefix that lists it.")
    size: int = Field(ge=0, description="Bytes.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, hex.")


class Classes(Record):
    """What a classifier tells apart."""

    labels: list[str] = Field(min_length=2, description="By class id.")
    rows: list[int] = Field(description="Training rows of each.")
    pad_token_id: int = Field(ge=0, description="Token that fills up batches; no row ends with it.")


class Confusion(Record):
    """How often rows of one label were taken for another."""

    labels: list[str] = Field(description="By class id.")
    rows: list[list[int]] = Field(description="Rows by true class (outer) and predicted class (inner).")


class Prepared(Record):
    """`prepared/manifest.json`: the token cache, its plan and its report."""

    writer: str = Field(description="Who wrote it: the pod's uid.")
    files: list[FileEntry] = Field(description="Files of the token cache, tokenizer and test rows.")
    model_files: list[FileEntry] = Field(description="Files of the base model as prepare saw them.")
    adapter_files: list[FileEntry] = Field(
        default=[], description="Files of spec.method.initialAdapter as prepare saw them."
    )
    data: DataReport = Field(description="What was prepared.")
    plan: Plan = Field(description="What auto became.")
    classes: Classes | None = Field(default=None, description="Objective classification.")
    settings: dict[str, Any] = Field(
        description="The fields of the spec that a checkpoint depends on, as they were then, defaults spelled out."
    )
    config_digest: str = Field(description="SHA-256 of settings, plan and data; every commit of the run bears it.")


class ReusableRows(Record):
    """`<spec.checkpoint.uri>/cache/<key>.json`: prepared rows that another run with the same key may copy."""

    writer: str = Field(description="Who wrote them.")
    prefix: str = Field(description="Key below which they lie.")
    files: list[FileEntry] = Field(description="Token cache, test rows and data card.")
    data: DataReport = Field(description="What was prepared; without packing.")
    classes: Classes | None = Field(default=None, description="Objective classification.")


class RankFiles(Record):
    """`rank-<r>.json`: what one rank uploaded."""

    writer: str = Field(description="Attempt and pod that wrote it.")
    rank: int = Field(ge=0, description="Global rank.")
    step: int = Field(ge=0, description="Optimizer step.")
    files: list[FileEntry] = Field(description="Its objects.")


class Commit(Validation):
    """`commits/<step>.json`: a whole checkpoint; the only thing that makes one exist."""

    writer: str = Field(description="Attempt and pod that committed it.")
    attempt: int = Field(ge=1, description="Attempt that committed it.")
    step: int = Field(ge=0, description="Optimizer step.")
    world_size: int = Field(ge=1, description="Processes that wrote shards.")
    zero_stage: int = Field(ge=0, le=3, description="ZeRO stage of the shards.")
    consumed_sequences: int = Field(ge=0, description="Data cursor: sequences trained on since step 0.")
    time: datetime = Field(description="When it was committed, UTC.")
    config_digest: str = Field(description="That of the prepared data, if the commit belongs to it.")
    files: list[FileEntry] = Field(description="Every object of every rank.")

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(entry.size for entry in self.files)


class Rendezvous(Record):
    """`rendezvous/<attempt>.json`: the pod with index 0 of an attempt, to the other ones."""

    writer: str = Field(description="Attempt and pod that tell it.")
    address: IPvAnyAddress = Field(description="Its address.")


class TrainResult(Record):
    """`results/train.json`: training is done, and these are the weights to export."""

    writer: str = Field(description="Attempt and pod that finished.")
    export_commit: str = Field(description="Key of the commit whose weights are exported: the best, else the last.")
    plan: Plan | None = Field(default=None, description="How the attempt that finished computed.")
    progress: Progress = Field(description="Final progress.")
    last_checkpoint: CheckpointRef = Field(description="Newest commit.")
    best_checkpoint: CheckpointRef | None = Field(default=None, description="Best commit by evaluation.bestMetric.")
    evaluation: EvaluationResult = Field(description="Scores of the base and the tuned model on the test rows.")
    confusion: Confusion | None = Field(default=None, description="The tuned model's on the test rows.")
    compared_losses: list[float] = Field(
        default=[],
        description="Losses of the exported weights, in nats, on the rows that the result is compared by.",
    )


class OutputManifest(Record):
    """`<spec.output.uri>/manifest.json`: put last; what the result consists of and where it came from."""

    job: str = Field(description="Namespace and name of the job.")
    uid: str = Field(description="Its uid.")
    run_id: str = Field(default_factory=lambda data: data["uid"], description="The run of the job that made it.")
    step: int = Field(description="Optimizer step of the weights.")
    base_model: str = Field(description="spec.model.uri.")
    data_digest: str = Field(description="Digest of the prepared rows.")
    files: list[FileEntry] = Field(description="Every file of the result.")
    evaluation: EvaluationResult = Field(description="Scores before and after.")
    merge_gap: float | None = Field(
        default=None, description="KL divergence of the merged model from base and adapter, nats per token or row."
    )


class RunLayout:
    """Locations of one run, as the module's docstring lists them."""

    def __init__(self, checkpoint_uri: str, run_id: str) -> None:
        self.root: S3Location = parse_s3(checkpoint_uri).child(run_id)

    @property
    def prepared_manifest(self) -> S3Location:
        """`prepared/manifest.json`."""
        return self.root.child(f"prepared/{MANIFEST}")

    def prepared(self, writer: str) -> S3Location:
        """Prefix of one prepare pod's files."""
        return self.root.child(f"prepared/{writer}")

    @property
    def commits(self) -> S3Location:
        """Prefix of the commits."""
        return self.root.child("commits")

    def commit(self, step: int) -> S3Location:
        """Return the commit of a step."""
        return self.root.child(f"commits/{step:08d}.json")

    def bad_commit(self, step: int) -> S3Location:
        """Return the mark of a commit whose content does not match its digests."""
        return self.root.child(f"commits/{step:08d}.bad.json")

    @property
    def data(self) -> S3Location:
        """Prefix of all shards."""
        return self.root.child("data")

    def shards(self, *, step: int, writer: str) -> S3Location:
        """Prefix of one writer's shards of a step."""
        return self.root.child(f"data/{step:08d}-{writer}")

    def metrics(self, writer: str) -> S3Location:
        """Return the metrics series of one writer."""
        return self.root.child(f"metrics/{writer}.jsonl")

    def samples(self, writer: str) -> S3Location:
        """Return the answers to sample prompts of one writer."""
        return self.root.child(f"samples/{writer}.jsonl")

    def tensorboard(self, writer: str) -> S3Location:
        """Return the prefix of one writer's event files."""
        return self.root.child(f"tensorboard/{writer}")

    def rendezvous(self, attempt: int) -> S3Location:
        """Return where the pods of an attempt learn where they meet."""
        return self.root.child(f"rendezvous/{attempt}.json")

    @property
    def train_result(self) -> S3Location:
        """`results/train.json`."""
        return self.root.child("results/train.json")
