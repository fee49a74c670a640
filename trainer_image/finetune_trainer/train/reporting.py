"""The reporter of a run with all that it writes to."""

from collections.abc import Iterator
from functools import partial
from shutil import rmtree

from finetune_trainer.progress import open_progress
from finetune_trainer.stage_input import Pod
from finetune_trainer.storage import Store
from finetune_trainer.train import mlflow_run
from finetune_trainer.train.devices import Devices
from finetune_trainer.train.event_files import EventFiles
from finetune_trainer.train.report import Reporter
from finetune_trainer.train.run import Run
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.series import MetricsSeries
from finetune_trainer.train.tracking import Tracker


def reporter_of(run: Run, store: Store, pod: Pod, writer: str) -> Reporter:
    """Return the reporter of this run's rank 0."""
    scratch = Scratch(pod.work_dir)
    return Reporter(
        run.data.schedule,
        run.plan,
        attempt=run.job.attempt,
        poster=open_progress(pod),
        series=MetricsSeries(scratch.metrics, store, run.layout.metrics(writer)),
        devices=Devices.of(run.process, run.plan.precision),
        samples=MetricsSeries(scratch.samples, store, run.layout.samples(writer)),
        trackers=list(_trackers(run, store, pod, writer)),
    )


def _trackers(run: Run, store: Store, pod: Pod, writer: str) -> Iterator[Tracker]:
    tracking, folder = run.spec.tracking, Scratch(pod.work_dir).tensorboard
    if tracking.tensorboard:
        rmtree(folder, ignore_errors=True)  # a container that was restarted in its pod finds the remains of the other
        yield Tracker("tensorboard", partial(EventFiles, folder, store, run.layout.tensorboard(writer)))
    if tracking.mlflow is not None:
        mlflow_run.provide(pod.mlflow_folder)
        yield Tracker("mlflow", partial(mlflow_run.MlflowRun, tracking.mlflow, run.job))
