"""An adapter that is trained further: taken over with its shape and values, or refused with advice."""

import json

import pytest
import torch
from export_jobs import shift_trained
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.spec import Method
from finetune_trainer.errors import StageFailure
from finetune_trainer.export.assemble import assemble_adapter, load_base, write_config
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import weights
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.prepare.model_shape import measure

IDS = torch.arange(3, 40)[None]
URI = "s3://models/earlier/adapter/"


def load(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture
def earlier(tiny_model, tmp_path):
    """Return the folder of an adapter of rank 4, and its logits."""
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=10, target_modules=["q_proj", "up_proj"])
    model = get_peft_model(load(tiny_model), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    with torch.no_grad():
        return tmp_path, model(input_ids=IDS).logits


def method(folder, **lora):
    spec = {"type": "lora", "initialAdapter": {"uri": URI}} | ({"lora": lora} if lora else {})
    return method_of(Method.model_validate(spec), Given(adapter=folder))


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("lora", [{}, {"rank": 4, "alpha": 10, "dropout": 0.5}])
def test_it_begins_where_the_adapter_ended_and_trains_its_matrices_alone(tiny_model, earlier, lora):
    folder, told = earlier
    model = method(folder, **lora).adapt(load(tiny_model)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, told, atol=1e-5, rtol=1e-5)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 8
    assert all("lora_" in name for name in trained)
    assert model.peft_config["default"].lora_dropout == lora.get("dropout", 0)


def test_the_planner_counts_the_adapter_and_not_the_defaults(tiny_model, earlier):
    spec = Method.model_validate({"type": "lora", "initialAdapter": {"uri": URI}})
    config = AutoConfig.from_pretrained(tiny_model)
    shape = measure(config, spec, "s3://m/", given=Given(adapter=earlier[0]))
    assert shape.trainable_parameters == 2 * 4 * ((64 + 64) + (64 + 128))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"alpha": 10}, r"it has rank: 4; write so, or remove spec.method.lora"),
        ({"rank": 4}, r"it has alpha: 10;"),
        ({"rank": 4, "alpha": 10, "targetModules": ["k_proj"]}, r'it has targetModules: \["q_proj", "up_proj"\]'),
        ({"rank": 4, "alpha": 10, "useRslora": True}, r"it has useRslora: false"),
    ],
)
def test_a_contradiction_is_refused(tiny_model, earlier, lora, message):
    with pytest.raises(StageFailure, match=message):
        method(earlier[0], **lora).adapt(load(tiny_model))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "is of type IA3; only LORA"),
        ({"bias": "all"}, "trains biases"),
        ({"init_lora_weights": "pissa"}, "began by changing the base model"),
        ({"layer_replication": [[0, 2]]}, r"is not supported here \(layer_replication\)"),
        ({"use_dora": True}, "it is of DoRA; write spec.method.lora: {useDora: true, rank: 4, alpha: 10}"),
        ({"target_modules": ["q_proj"]}, "its tensors are not those of this base model"),
        ({"r": 8}, r"has shape \(4, 64\), the model \(8, 64\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tiny_model, earlier, values, message):
    change(earlier[0], **values)
    with pytest.raises(StageFailure, match=message):
        method(earlier[0]).adapt(load(tiny_model))


LABELS = ("bill", "bug", "praise")


def classifier(tiny_model, labels):
    return load_base(tiny_model, None, ModelKind(tuple(labels), pad_token_id=0))


def said(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits[0]


@pytest.fixture
def labelled(tiny_model, tmp_path):
    """Return the folder of a classifier's adapter as the export leaves it, and its logits."""
    chosen = method_of(Method.model_validate({"lora": {"rank": 4}}))
    model = chosen.adapt(classifier(tiny_model, LABELS))
    shift_trained(model, 0.2)
    weights.save(model, chosen, tmp_path / "weights", keep=True)
    folder = tmp_path / "adapter"
    assemble_adapter(tmp_path / "weights", tokenizer=tiny_model, base_uri="s3://m/", target=folder)
    write_config(tiny_model, ModelKind(LABELS, pad_token_id=0), target=folder)
    return folder, said(model)


@pytest.mark.parametrize("lora", [{}, {"rank": 4}])
@pytest.mark.parametrize("labels", [LABELS, ("praise", "bill", "bug")])
def test_the_rows_of_a_head_go_with_their_labels(tiny_model, labelled, labels, lora):
    folder, told = labelled
    model = method(folder, **lora).adapt(classifier(tiny_model, labels))
    order = [LABELS.index(label) for label in labels]
    torch.testing.assert_close(said(model), told[order], atol=1e-5, rtol=1e-5)


def test_without_names_of_labels_the_rows_of_a_head_keep_their_place(tiny_model, labelled):
    folder, told = labelled
    (folder / "config.json").unlink()
    model = method(folder).adapt(classifier(tiny_model, ("praise", "bill", "bug")))
    torch.testing.assert_close(said(model), told, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "named", "message"),
    [
        (
            ("bill", "bug", "thanks"),
            True,
            r"labels are 'bill', 'bug', 'praise', those of the job 'bill', 'bug', 'thanks'",
        ),
        (
            ("bill", "bug"),
            True,
            r"labels are 'bill', 'bug', 'praise', those of the job 'bill', 'bug'; spec.data.labels",
        ),
        (("bill", "bug"), False, r"its head tells 3 labels apart, the job has 2"),
        ((), True, r"it is a classifier's \(it has a head, score\); set spec.objective: classification"),
    ],
)
def test_other_labels_are_refused(tiny_model, labelled, labels, named, message):
    folder, _ = labelled
    if not named:
        (folder / "config.json").unlink()
    base = classifier(tiny_model, labels) if labels else load(tiny_model)
    with pytest.raises(StageFailure, match=message):
        method(folder).adapt(base)


def test_an_adapter_without_a_head_is_not_one_of_a_classifier(tiny_model, earlier):
    with pytest.raises(StageFailure, match=r"it has no head \(score\), so it was not trained to tell labels apart"):
        method(earlier[0]).adapt(classifier(tiny_model, LABELS))
