"""Jobs that are prepared in S3, and their training pods as processes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from train_pods import TrainPod

from finetune_api.run import Commit, RunLayout, TrainResult
from finetune_api.uris import S3Location

if TYPE_CHECKING:
    from conftest import S3Job

TOPICS = ("invoice", "password", "language", "delivery", "refund", "account", "printer", "contract")


def rows(count: int = 120) -> Iterable[dict[str, Any]]:
    """Questions whose answers can be learned."""
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        question = f"Question {number} about my {topic}, please?"
        answer = f"The {topic} is in the {topic} folder."
        yield {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


class Job:
    """A job prepared in S3, and its pods."""

    def __init__(self, s3_job: "S3Job", tmp_path: Path, *, row_count: int = 120, **spec: Any) -> None:
        from finetune_trainer.prepare import stage

        s3_job.put_rows("rows/train.jsonl", rows(row_count))
        self.s3 = s3_job
        self.input = s3_job.stage_input(**spec)
        self.layout = RunLayout(self.input.spec.checkpoint.uri, self.input.run_id)
        self.plan = stage.run(self.input, s3_job.store).plan
        self._tmp_path = tmp_path
        self.started: list[TrainPod] = []

    def pods(self, attempt: int = 1, **changes: Any) -> list[TrainPod]:
        """Start the pods of an attempt; `changes` are what `TrainPod` takes beside."""
        pods = [
            TrainPod(self.input, self._tmp_path / f"a{attempt}-{index}", index=index, attempt=attempt, **changes)
            for index in range(self.input.spec.distributed.num_nodes)
        ]
        self.started += pods
        return pods

    def commits(self) -> dict[int, Commit]:
        """Return the commits by step."""
        listed = self.s3.store.list(self.layout.commits)
        read = [
            self.s3.store.read(S3Location(self.s3.bucket, info.key)) for info in listed if ".bad." not in info.key
        ]
        return {commit.step: commit for commit in map(Commit.model_validate_json, read)}

    def result(self) -> TrainResult:
        """Return what the training left."""
        return TrainResult.model_validate_json(self.s3.store.read(self.layout.train_result))


@pytest.fixture
def make_job(s3_job: "S3Job", tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Return a maker of jobs; its pods end with the test."""
    jobs: list[Job] = []

    def make(**spec: Any) -> Job:
        jobs.append(Job(s3_job, tmp_path / f"job-{len(jobs)}", **spec))
        return jobs[-1]

    yield make
    for job in jobs:
        for pod in job.started:
            pod.kill()
