"""What is known of one job, gathered for a decision: the store, the newest sample, the refused creations.

Children are those that bear the job's label and belong to this very object: a FineTuneJob that was deleted and made
anew under the same name must not take the old one's pods, still ending, for its own. A Job and the pod of a stage
tell their owner's uid. A training pod tells only its Job's, and that Job may be gone already, so it is also told by
its age.
"""

from datetime import datetime

from finetune_operator.kinds import JOB
from finetune_operator.model import ChildJob, ChildPod, FineTuneJob, Observed, PodSettings, parse_status
from finetune_operator.records import Entry, RawJob
from finetune_operator.refusals import RefusalBook
from finetune_operator.samples import SampleBook
from finetune_operator.store import Store
from finetune_operator.workqueue import Key


class Observer:
    """Builds the Observed of a job."""

    def __init__(self, *, store: Store, samples: SampleBook, refusals: RefusalBook, settings: PodSettings) -> None:
        self._store = store
        self._samples = samples
        self._refusals = refusals
        self.settings = settings
        """Replaced when the progress server's authority changes."""
        self.listening_since: datetime | None = None

    def observe(self, key: Key) -> Observed | None:
        """Return what is known of the job, None when it is gone. Raises ValidationError for an unreadable status."""
        entry = self._store.job(key)
        if entry is None or not isinstance(entry.record, RawJob):
            return None
        children = [child for child in self._store.children(key) if self._belongs(child, entry)]
        jobs = (child.record for child in children if isinstance(child.record, ChildJob))
        pods = (child.record for child in children if isinstance(child.record, ChildPod))
        return Observed(
            job=_fine_tune_job(entry, entry.record),
            settings=self.settings,
            jobs=tuple(sorted(jobs, key=lambda job: job.name)),
            pods=tuple(sorted(pods, key=lambda pod: pod.name)),
            sample=self._samples.get(key, uid=entry.uid),
            refused=self._refusals.of(key, uid=entry.uid),
            listening_since=self.listening_since,
        )

    def _belongs(self, child: Entry, job: Entry) -> bool:
        if child.owner_uid == job.uid:
            return True
        if not isinstance(child.record, ChildPod) or child.record.is_whole_stage:
            return False
        parent = self._store.get(JOB, namespace=child.key.namespace, name=child.record.job)
        if parent is not None and parent.uid == child.owner_uid:
            return parent.owner_uid == job.uid
        return child.created >= job.created


def _fine_tune_job(entry: Entry, raw: RawJob) -> FineTuneJob:
    return FineTuneJob(
        name=entry.name,
        namespace=entry.key.namespace,
        uid=entry.uid,
        generation=raw.generation,
        spec=raw.spec,
        status=parse_status(raw.status),
        labels=raw.labels,
        deleting=raw.deleting,
        version=entry.version,
    )
