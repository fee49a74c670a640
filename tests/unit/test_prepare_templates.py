"""Tokenizers with several chat templates: the one for tools is fetched, used and kept, and decides over the rows."""

import json
import shutil
from importlib import metadata
from types import SimpleNamespace

import pytest
from mask_builders import TURNS, WITH_TOOLS, bracketed, golden_mask, make_tokenizer, template_of
from transformers import AutoTokenizer

from finetune_api.run import FileEntry
from finetune_api.spec import FineTuneJobSpec, Model
from finetune_api.uris import S3Location
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import assemble_model
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.prepare import reuse
from finetune_trainer.prepare.conversation import Conversation
from finetune_trainer.prepare.encode import Encoded, build_encoder
from finetune_trainer.prepare.model_files import ModelFiles
from finetune_trainer.prepare.problems import RowError
from finetune_trainer.prepare.reuse import key_of
from finetune_trainer.prepare.tokenizer import load_tokenizer

TOOLS = template_of("trl/qwen3_instruct_2507")
NAMED = [{"name": "default", "template": template_of("chatml")}, {"name": "tool_use", "template": TOOLS}]
BUCKET = {"endpoint": "http://s3", "credentialsSecretRef": {"name": "s3"}}
MODEL = Model(uri="s3://models/tiny/")
SPEC = FineTuneJobSpec.model_validate(
    {
        "model": {"uri": MODEL.uri},
        "data": {"train": [{"uri": "s3://data/train.jsonl"}]},
        "training": {},
        "checkpoint": {"uri": "s3://runs/"},
        "output": {"uri": "s3://output/"},
        "storage": {"s3": BUCKET},
    }
)


class Folder:
    """A store whose bucket is a folder."""

    def __init__(self, path):
        self._path = path

    def list(self, prefix):
        files = [path for path in self._path.rglob("*") if path.is_file()]
        return [SimpleNamespace(key=f"{prefix.key}{path.relative_to(self._path)}") for path in files]

    def download(self, location, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._path / location.key.removeprefix("tiny/"), path)
        return FileEntry(key=location.key, size=path.stat().st_size, sha256="0" * 64)


def two_templates():
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = {one["name"]: one["template"] for one in NAMED}
    return tokenizer


@pytest.fixture
def model(tmp_path):
    """Return the folder of a model whose template for tools is a file of its own."""
    folder = tmp_path / "model"
    two_templates().save_pretrained(folder)
    assert (folder / "additional_chat_templates/tool_use.jinja").exists()
    return folder


def key(folder):
    return key_of(SPEC, [], tokenizer=folder, row_limit=256, vocabulary=512)


def test_rows_with_tools_are_rendered_with_the_template_for_tools(model):
    tokenizer = load_tokenizer(model, MODEL)
    rows = build_encoder(tokenizer, "messages").encode([Conversation(TURNS), WITH_TOOLS])
    assert all(isinstance(row, Encoded) for row in rows)
    assert [bracketed(tokenizer, row) for row in rows] == [
        golden_mask("chatml"),
        golden_mask("qwen3_instruct_2507-tools"),
    ]


def test_calls_in_rows_without_tools_are_those_of_the_first_template(model):
    [error] = build_encoder(load_tokenizer(model, MODEL), "messages").encode([Conversation(WITH_TOOLS.turns)])
    assert isinstance(error, RowError)
    assert error.text.startswith("the chat template leaves calls out")


def test_what_closes_one_template_is_not_cut_off_the_other():
    tokenizer = two_templates()
    turn = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
    prompt = "{% if add_generation_prompt %}[assistant]{% endif %}"
    closed = f"{turn}{{% if not add_generation_prompt %}}<|im_end|>{{% endif %}}{prompt}"
    tokenizer.chat_template = {"default": closed, "tool_use": f"{{{{ tools }}}}{turn}{prompt}"}
    plain = Conversation(TURNS[1:3])
    rows = build_encoder(tokenizer, "messages").encode([plain, Conversation(plain.turns, WITH_TOOLS.tools)])
    first, second = (bracketed(tokenizer, row) for row in rows)
    assert first.endswith("[assistant][[Open the settings 🙂.<|im_end|>]]<|im_end|>")
    assert second.endswith("[assistant][[Open the settings 🙂.<|im_end|>]]")


def test_templates_in_the_configuration_become_files_that_are_kept(tmp_path, tiny_model):
    """As older versions of transformers wrote them."""
    folder = tmp_path / "model"
    make_tokenizer("chatml").save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": NAMED}))
    load_tokenizer(folder, MODEL).save_pretrained(tmp_path / "prepared")
    assemble_model(tiny_model, kind=ModelKind(), tokenizer=tmp_path / "prepared", target=tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == two_templates().chat_template
    assert key(tmp_path / "prepared")


def test_every_template_decides_over_prepared_rows(model):
    before = key(model)
    assert key(model) == before
    path = model / "additional_chat_templates/tool_use.jinja"
    path.write_text(f"{TOOLS} ")
    changed = key(model)
    path.rename(path.with_name("rag.jinja"))
    assert len({before, changed, key(model)}) == 3


@pytest.mark.parametrize("library", ["transformers", "tokenizers", "jinja2", "pyarrow"])
def test_the_libraries_that_make_rows_decide_over_prepared_ones(model, monkeypatch, library):
    before = key(model)
    versions = {library: "0.0"}
    monkeypatch.setattr(reuse, "version", lambda name: versions.get(name) or metadata.version(name))
    assert key(model) != before


def test_the_jobs_template_stands_for_all(model, tmp_path):
    given = Model(uri=MODEL.uri, chat_template=template_of("chatml"))
    load_tokenizer(model, given).save_pretrained(tmp_path / "prepared")
    assert not (tmp_path / "prepared/additional_chat_templates").exists()


def test_the_models_templates_are_fetched_with_it(model, tmp_path):
    for name in ("model.safetensors", "original/params.json", "additional_chat_templates/deep/x.jinja", "x/y.jinja"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(b"")
    files = ModelFiles(Folder(model), S3Location("models", "tiny/"))
    entries = files.fetch_small(tmp_path / "fetched")
    assert [entry.key.removeprefix("tiny/") for entry in entries] == [
        "additional_chat_templates/tool_use.jinja",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert load_tokenizer(tmp_path / "fetched", MODEL).chat_template == two_templates().chat_template
    assert files.weights == ["model.safetensors"]


def test_a_tokenizer_without_a_first_template_is_refused(model):
    (model / "chat_template.jinja").unlink()
    encoder = build_encoder(load_tokenizer(model, MODEL), "messages")
    with pytest.raises(StageFailure, match="has chat templates called tool_use, but none called default"):
        encoder.encode([Conversation(TURNS)])
