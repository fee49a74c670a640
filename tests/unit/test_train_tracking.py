"""Trackers write what a training tells, and no failure of theirs reaches it."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from finetune_api.spec import FineTuneJobSpec, Mlflow
from finetune_api.stage import StageInput
from finetune_api.uris import S3Location
from finetune_loopback.certificates import write_certificate
from finetune_trainer.train import mlflow_run
from finetune_trainer.train.event_files import EventFiles
from finetune_trainer.train.mlflow_run import MlflowRun, parameters
from finetune_trainer.train.tracking import Tracker, line_of

TOLD = {"step": 3, "loss": 1.5, "evalLoss": None, "stopped": True, "note": "text", "peakBytes": 7}
SPEC = {
    "model": {"uri": "s3://models/m/"},
    "data": {"train": [{"uri": "s3://data/rows.jsonl"}]},
    "training": {"epochs": 1},
    "checkpoint": {"uri": "s3://runs/c/"},
    "output": {"uri": "s3://runs/o/"},
}
JOB = StageInput(name="bot", namespace="ml", uid="u-1", spec=FineTuneJobSpec.model_validate(SPEC))


def test_the_numbers_of_a_line_are_tracked():
    line = line_of(TOLD)
    assert (line.step, line.numbers) == (3, {"loss": 1.5, "peakBytes": 7.0})
    assert line.time == pytest.approx(time.time(), abs=5)


class Notebook:
    """A backend that fails as often as it is told to."""

    def __init__(self, failures=0):
        self.failures = failures
        self.steps = []
        self.uploads = 0
        self.ended = None

    def write(self, lines):
        if self.failures:
            self.failures -= 1
            raise OSError("no route to host, Authorization: Basic c2VjcmV0")
        self.steps += [line.step for line in lines]

    def upload(self):
        self.uploads += 1

    def close(self, *, succeeded):
        self.ended = succeeded


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_are_written_in_order_and_the_rest_at_the_end():
    notebook = Notebook()
    tracker = Tracker("notebook", lambda: notebook, interval=60)
    for step in range(250):
        tracker.append({"step": step, "loss": 1.0})
    assert notebook.steps == []  # a step waits for nobody
    tracker.upload()
    wait_until(lambda: notebook.uploads)
    tracker.append({"step": 250, "loss": 1.0})
    tracker.close(succeeded=True)
    assert notebook.steps == list(range(251))
    assert (notebook.uploads, notebook.ended) == (2, True)


def test_a_failure_is_told_once_and_what_was_not_written_comes_later(capsys):
    notebook = Notebook(failures=3)
    tracker = Tracker("notebook", lambda: notebook, interval=0.01)
    for step in range(5):
        tracker.append({"step": step, "loss": 1.0})
    wait_until(lambda: len(notebook.steps) == 5)
    tracker.close(succeeded=False)
    assert notebook.steps == [0, 1, 2, 3, 4]
    assert notebook.ended is False
    [told] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (told["event"], told["to"]) == ("tracking-failed", "notebook")
    assert "no route to host" in told["cause"]
    assert "c2VjcmV0" not in told["cause"]


def test_a_tracker_that_cannot_be_opened_ends_nothing(capsys):
    def opens():
        raise ImportError("no such library")

    tracker = Tracker("notebook", opens, interval=0.01)
    tracker.append(TOLD)
    time.sleep(0.1)
    tracker.close(succeeded=True)
    assert capsys.readouterr().out.count("tracking-failed") == 1


class Kept:
    def __init__(self):
        self.objects = {}

    def put(self, location, data):
        self.objects[location.uri] = data


def test_event_files_are_read_by_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    store = Kept()
    files = EventFiles(tmp_path / "events", store, S3Location("runs", "u-1/tensorboard/a1-x"))
    files.write([line_of({"step": step, "loss": 2.0 / step}) for step in (1, 2, 4)])
    files.upload()
    files.close(succeeded=True)
    [(uri, content)] = store.objects.items()
    assert uri.startswith("s3://runs/u-1/tensorboard/a1-x/events.out.tfevents.")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / uri.rsplit("/", 1)[-1]).write_bytes(content)
    read = EventAccumulator(str(tmp_path / "copy")).Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 2.0), (2, 1.0), (4, 0.5)]


class TrackingServer(BaseHTTPRequestHandler):
    """The few calls of MLflow's REST API that are made (https://mlflow.org/docs/latest/api_reference/rest-api.html)."""

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        call = urlsplit(self.path).path.partition("/mlflow/")[2]
        self.server.calls.append((call, body, self.headers["Authorization"]))
        runs = [{"info": INFO}] if self.server.known and call == "runs/search" else []
        replies = {
            "experiments/get-by-name": {"experiment": {"experiment_id": "5", "name": "bots"}},
            "runs/search": {"runs": runs},
            "runs/create": {"run": {"info": INFO}},
            "runs/update": {"run_info": INFO},
            "runs/get": {"run": {"info": INFO}},
        }
        text = json.dumps(replies.get(call, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


INFO = {"run_id": "r1", "run_uuid": "r1", "experiment_id": "5", "status": "RUNNING", "artifact_uri": "s3://a/"}


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), TrackingServer) as running:
        running.calls, running.known = [], False
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """What `provide` sets ends with the test."""
    for name in (*mlflow_run._LIMITS, *mlflow_run._VARIABLES.values(), mlflow_run._AUTHORITY[1]):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("known", [False, True])
def test_one_run_of_mlflow_is_begun_and_gone_on_with(server, known, tmp_path):
    (tmp_path / "token").write_text("t0ken\n")
    mlflow_run.provide(tmp_path)
    server.known = known
    run = MlflowRun(Mlflow(uri=f"http://127.0.0.1:{server.server_port}", experiment="bots"), JOB)
    run.write([line_of(TOLD)])
    run.close(succeeded=True)
    assert {authorization for *_, authorization in server.calls} == {"Bearer t0ken"}
    bodies = {}
    for call, body, _ in server.calls:
        bodies.setdefault(call, []).append(body)
    assert "u-1" in bodies["runs/search"][0]["filter"]
    assert ("runs/create" in bodies) is not known
    assert bodies["runs/update"][-1]["status"] == "FINISHED"
    metrics = bodies["runs/log-batch"][-1]["metrics"]
    assert {one["key"]: (one["value"], one["step"]) for one in metrics} == {"loss": (1.5, 3), "peakBytes": (7.0, 3)}
    if not known:
        named = {one["key"]: one["value"] for one in bodies["runs/log-batch"][0]["params"]}
        assert (named["training.learningRate"], named["method.lora.rank"]) == ("0.0002", "16")


def test_a_server_of_a_private_authority_is_trusted_by_the_secrets_certificate(server, tmp_path):
    write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    settings = Mlflow(uri=f"https://127.0.0.1:{server.server_port}", experiment="bots")
    mlflow_run.provide(tmp_path / "no-secret")
    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
        MlflowRun(settings, JOB)
    mlflow_run.provide(tmp_path)
    MlflowRun(settings, JOB).close(succeeded=True)
    assert server.calls[-1][0] == "runs/update"


def test_settings_have_dotted_names_and_bounded_values():
    found = dict(parameters({"model": {"uri": "s3://m/", "chatTemplate": "x" * 9000}, "objective": "sft"}))
    assert found == {"model.uri": "s3://m/", "model.chatTemplate": "x" * 500, "objective": "sft"}
