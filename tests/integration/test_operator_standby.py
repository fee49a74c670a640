"""Two replicas, as the chart runs them: both are ready, and progress reaches the leader through either."""

import dataclasses
import json
from pathlib import Path

from finetune_api.stage import TOKEN_AUDIENCE
from finetune_loopback.job_controller import Namespace
from finetune_loopback.jobs import minimal_job
from finetune_loopback.kube_client import KubeApi
from finetune_loopback.operator_process import OperatorProcess, grant_chart_rights, running_operator
from finetune_loopback.processes import until

HOME, WATCHED = "standby-operator", "standby"
DONE = json.dumps({"reason": "Succeeded"})
TAKEOVER_SECONDS = 15


def test_a_standby_is_ready_and_passes_progress_on_and_takes_over(crd_installed: KubeApi, tmp_path: Path) -> None:
    for namespace in (HOME, WATCHED):
        crd_installed.namespace(namespace)
    grant_chart_rights(crd_installed, namespace=HOME, watch=(WATCHED,))
    files = {"TLS_CERT_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key", "TLS_CA_FILE": "ca.crt"}
    shared = {name: str(tmp_path / "one/tls" / file) for name, file in files.items()}
    place = {"namespace": HOME, "watch": (WATCHED,), "POD_IP": "127.0.0.1"}
    with (
        running_operator(crd_installed, tmp_path / "one", **place) as first,
        running_operator(crd_installed, tmp_path / "two", **place, **shared) as own,
    ):
        second = dataclasses.replace(own, tls=first.tls)
        assert (first.leads(), second.leads()) == (True, False)
        assert second.is_ready()

        cluster = Namespace(crd_installed, WATCHED)
        cluster.submit(minimal_job("tune"))
        cluster.succeed("tune-prepare", message=DONE)
        (pod,) = cluster.start("tune-a1")
        cluster.await_phase("tune", "Running")
        token = crd_installed.token_for(WATCHED, "default", audience=TOKEN_AUDIENCE, pod=pod)

        def post(operator: OperatorProcess, *, step: int, token: str = token) -> int:
            body = {"attempt": 1, "progress": {"step": step, "totalSteps": 100, "percent": step}}
            return operator.post_progress(WATCHED, "tune", token=token, body=body)

        assert post(second, step=7) == 204
        cluster.await_status("tune", lambda status: status.get("progress", {}).get("step") == 7, seconds=10)
        assert post(second, step=8, token="not-a-token") == 401
        assert second.writes() == 0

        first.kill()
        until(second.leads, seconds=TAKEOVER_SECONDS)
        assert post(second, step=9) == 204
        cluster.await_status("tune", lambda status: status.get("progress", {}).get("step") == 9, seconds=15)
