"""Which files of a model's folder are its weights: those that transformers would load, no copies in other forms."""

import json
from types import SimpleNamespace

import pytest

from finetune_api.reasons import Reason
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare.model_files import ModelFiles

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = {FIRST: b"", SECOND: b""}
INDEX = {"model.safetensors.index.json": json.dumps({"weight_map": {"a": FIRST, "b": SECOND, "c": FIRST}})}
SMALL = {"config.json": b"{}", "tokenizer.json": b"{}"}


class Objects:
    """A store of these objects."""

    def __init__(self, contents):
        self._contents = contents

    def list(self, prefix):
        return [SimpleNamespace(key=f"{prefix.key}{name}") for name in self._contents]

    def read(self, location):
        return self._contents[location.key.removeprefix("m/")]


def files_of(contents):
    return ModelFiles(Objects(contents), S3Location("models", "m/"))


@pytest.mark.parametrize(
    ("contents", "weights"),
    [
        ({**SHARDS, **INDEX, "consolidated.safetensors": b""}, sorted(SHARDS)),
        ({**SHARDS, **INDEX}, sorted(SHARDS)),
        ({"model.safetensors": b"", "consolidated.safetensors": b""}, ["model.safetensors"]),
        ({"model.safetensors": b"", **SHARDS, **INDEX}, ["model.safetensors"]),  # as transformers chooses
    ],
)
def test_the_weights_are_those_that_are_loaded(contents, weights, capsys):
    files = files_of({**SMALL, **contents})
    files.check()
    assert files.weights == weights
    others = sorted(name for name in contents if name.endswith(".safetensors") and name not in weights)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["files"] for line in lines if line["event"] == "weights-not-used"] == ([others] if others else [])


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (
            {"consolidated.safetensors": b""},
            "s3://models/m/ holds neither model.safetensors nor model.safetensors.index.json; it has"
            " consolidated.safetensors: save the model with save_pretrained of transformers",
        ),
        (
            {**INDEX, FIRST: b""},
            f"model.safetensors.index.json names files that are not there: {SECOND}; copy them too",
        ),
        *(
            ({"x.safetensors": b"", "model.safetensors.index.json": wrong}, "index.json is no index of weights (")
            for wrong in (
                b"{",
                b"[]",
                b"{}",
                b'{"weight_map": 3}',
                b'{"weight_map": {}}',
                b'{"weight_map": {"a": []}}',
                b"\xff",
            )
        ),
    ],
)
def test_weights_that_are_not_all_there_are_refused(contents, problem):
    with pytest.raises(StageFailure) as caught:
        files_of({**SMALL, **contents}).check()
    assert caught.value.reason == Reason.INVALID_MODEL
    assert problem in caught.value.message
