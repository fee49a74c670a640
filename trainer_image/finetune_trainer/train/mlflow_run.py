"""MLflow: one run per run of the job, which every attempt goes on with (https://mlflow.org/docs/latest/ml/tracking/)."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_api.spec import Mlflow
from finetune_api.stage import StageInput
from finetune_trainer.data.settings import settings_of
from finetune_trainer.train.tracking import Line

_RUN_TAG = "finetune-operator.run"
_VARIABLES = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
}
"""Where the library looks for what the Secret's keys hold."""
_AUTHORITY = ("ca.crt", "MLFLOW_TRACKING_SERVER_CERT_PATH")
"""The key whose file the library reads itself: https://mlflow.org/docs/latest/api_reference/python_api/mlflow.environment_variables.html."""
_LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""A request ends soon, since the tracker tries again by itself; and the library reports to nobody else."""
_LONGEST_PARAMETER = 500
_MOST_PARAMETERS = 100


def provide(credentials: Path) -> None:
    """Tell the library how long to wait, who asks and whom to trust; `credentials` is the mounted Secret's folder."""
    found = {name: credentials / key for key, name in _VARIABLES.items()}
    os.environ.update(_LIMITS)
    os.environ.update({name: file.read_text().strip() for name, file in found.items() if file.is_file()})
    key, name = _AUTHORITY
    if (credentials / key).is_file():
        os.environ[name] = str(credentials / key)


class MlflowRun:
    """Writes to the server."""

    def __init__(self, settings: Mlflow, job: StageInput) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=settings.uri)
        found = self._client.get_experiment_by_name(settings.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(settings.experiment)
        self._run_id = self._existing(experiment, job) or self._new(experiment, job)

    def _existing(self, experiment: str, job: StageInput) -> str | None:
        """Return the run that an attempt before this one began, and open it again."""
        runs = self._client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{job.run_id}'", max_results=1)
        if not runs:
            return None
        run_id = str(runs[0].info.run_id)
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _new(self, experiment: str, job: StageInput) -> str:
        from mlflow.entities import Param

        tags = {_RUN_TAG: job.run_id, "finetune-operator.namespace": job.namespace}
        run_id = str(self._client.create_run(experiment, tags=tags, run_name=job.name).info.run_id)
        settings = list(parameters(settings_of(job.spec)))[:_MOST_PARAMETERS]
        self._client.log_batch(run_id, params=[Param(name, value) for name, value in settings])
        return run_id

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines: a metric for each number."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(line.time * 1000), line.step)
            for line in lines
            for name, value in line.numbers.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def upload(self) -> None:
        """Do nothing: the server shows what was written."""

    def close(self, *, succeeded: bool) -> None:
        """End the run; another attempt opens it again."""
        self._client.set_terminated(self._run_id, status="FINISHED" if succeeded else "KILLED")


def parameters(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of a run by their dotted names, as texts of the length that MLflow takes."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from parameters(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)[:_LONGEST_PARAMETER]
