"""The place of the result: whether it is free, or this job's own.

Who writes there says so first, in an object beside the files: what stands there without a manifest then still has an
owner. A try that was cut short, or an earlier run of the same job (its spec was changed while it was suspended), is
written over; anything else never is.
"""

from typing import TypeVar

from pydantic import Field, ValidationError

from finetune_api.base import Record
from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import MANIFEST, OutputManifest
from finetune_api.stage import StageInput
from finetune_api.uris import S3Location, parse_s3
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import Store

ADAPTER, MERGED, PREDICTIONS, CARD = "adapter", "merged", "predictions.jsonl", "README.md"
DATA_CARDS = ("data-card.md", "data-card.json")
NAMES = (f"{ADAPTER}/", f"{MERGED}/", PREDICTIONS, CARD, *DATA_CARDS)
"""What a result may consist of, beside its manifest."""
CLAIM = ".finetune-writing.json"

R = TypeVar("R", bound=Record)


class Claim(Record):
    """`.finetune-writing.json`: a job writes its result here; deleted when the manifest stands."""

    writer: str = Field(description="The job's uid.")
    job: str = Field(description="Its namespace and name.")

    @property
    def uid(self) -> str:
        """The job's uid, as in a manifest."""
        return self.writer


class Place:
    """`spec.output.uri`, as a job sees it."""

    def __init__(self, job: StageInput, store: Store) -> None:
        self.output = parse_s3(job.spec.output.uri)
        self._job = job
        self._store = store

    def result(self) -> OutputManifest | None:
        """Return the manifest if the result of this very run stands here."""
        manifest = self._read(MANIFEST, OutputManifest)
        is_ours = manifest is not None and (manifest.uid, manifest.run_id) == (self._job.uid, self._job.run_id)
        return manifest if is_ours else None

    def require_free(self) -> None:
        """Raise StageFailure when something stands here that is not of this job."""
        owner = self._read(MANIFEST, OutputManifest) or self._read(CLAIM, Claim)
        if owner is not None and owner.uid == self._job.uid:
            return
        for name in (MANIFEST, CLAIM, *NAMES):
            place = self.output.child(name)
            if self._standing(place):
                raise _taken(place, owner)

    def require_writable(self) -> None:
        """Raise StageFailure when this place may not be written: better told now than at the end."""
        trial = self.output.child(f".write-test-{self._job.uid}")
        self._store.put(trial, b"")
        self._store.delete([trial])

    def claim(self) -> None:
        """Take the place and clear it of what this job left there. Raises StageFailure when it is another's."""
        self.require_free()
        claim = Claim(writer=self._job.uid, job=f"{self._job.namespace}/{self._job.name}")
        place = self.output.child(CLAIM)
        if not self._store.put_new(place, claim.model_dump_json(by_alias=True).encode(), writer=claim.writer):
            raise _taken(place, self._read(CLAIM, Claim))
        # The manifest first: files without one are no result, a manifest without its files would be a wrong one.
        self._store.delete([self.output.child(MANIFEST)])
        self._store.delete([found for name in NAMES for found in self._standing(self.output.child(name))])

    def release(self) -> None:
        """Drop the claim: the manifest says whose the place is."""
        self._store.delete([self.output.child(CLAIM)])

    def _read(self, name: str, kind: type[R]) -> R | None:
        """Return the record that stands at a name; None: there is none, or it is not of this kind."""
        place = self.output.child(name)
        if not self._store.exists(place):
            return None
        try:
            return kind.model_validate_json(self._store.read(place))
        except ValidationError:
            return None

    def _standing(self, place: S3Location) -> list[S3Location]:
        """Return the objects at a name, or below it when it ends with a slash."""
        if not place.key.endswith("/"):
            return [place] if self._store.exists(place) else []
        return [S3Location(place.bucket, info.key) for info in self._store.list(place)]


def _taken(place: S3Location, owner: OutputManifest | Claim | None) -> StageFailure:
    whose = f" but of job {owner.job} (uid {owner.uid})" if owner is not None else ""
    return StageFailure(
        ExitCode.INVALID,
        Reason.OUTPUT_EXISTS,
        f"{place.uri} exists already and is not of this job{whose}; nothing is overwritten:"
        " set spec.output.uri to an empty prefix, or remove what stands there",
    )
