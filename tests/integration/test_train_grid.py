"""Full fine-tuning and LoRA at every ZeRO stage, over one and two gloo processes, against plain PyTorch; and resume.

The product's engine, loop and state run as they are; only S3 is left out.
"""

import json
import re

import pytest
from extent import IS_WHOLE
from plain_training import reference
from train_cases import Case, run_cases, weights_of

from finetune_trainer.data.batches import TrainingBatches
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.schedule import schedule
from finetune_trainer.export.questions import turn_end

pytestmark = pytest.mark.timeout(1500)  # the first test waits for all runs

METHODS = ("full", "lora")
STAGES = {1: (0, 1, 2, 3) if IS_WHOLE else (0, 3), 2: (0, 1, 2, 3)}
"""ZeRO stages by world size: alone, one process holds everything at each of them."""
PLACES = [(stage, world) for world, stages in STAGES.items() for stage in stages]
ODD_WORLDS = (1, 2) if IS_WHOLE else (2,)


def grid(world_size):
    cases = [
        Case(f"{method}-{stage}-w{world_size}", method, stage, world_size, resume_at=2)
        for method in METHODS
        for stage in STAGES[world_size]
    ]
    if world_size in ODD_WORLDS:
        # A micro-batch that leaves one process idle in its second pass, recomputed activations, no packing.
        odd = {"micro_batch_size": 1, "checkpointing": True, "world_size": world_size}
        cases += [Case(f"odd-{method}-{stage}-w{world_size}", method, stage, **odd) for method, stage in ODD]
        cases[-1].checkpointing_every = 2
        cases += [Case(f"rows-w{world_size}", "full", 2, world_size, micro_batch_size=4, packing=False)]
    if world_size == 2:
        dropout = {"method": {"type": "lora", "lora": {"dropout": 0.2}}, "evaluation": {"everySteps": 2}}
        cases += [
            Case(f"bf16-dropout-{stage}", "lora", stage, 2, precision="bf16", resume_at=2, spec=dropout)
            for stage in BF16_RESUMED
        ]
        cases += [Case(f"bf16-full-{stage}", "full", stage, 2, precision="bf16") for stage in BF16]
        patience = {"everySteps": 1, "earlyStopping": {"patience": 1, "minDelta": 100}}
        cases += [Case("early", "lora", 2, 2, resume_at=2, spec={"evaluation": patience})]
        varied = [("regularised", "full", REGULARISED, at) for at in REGULARISED_AT]
        varied += [("samples", "lora", SAMPLED, at) for at in SAMPLED_AT]
        cases += [Case(f"{name}-{at}", method, at, 2, resume_at=2, spec=spec) for name, method, spec, at in varied]
        cases += [Case("spike", "full", 2, 2, micro_batch_size=1, steps=12, resume_at=2, spec=SPIKING)]
    return cases


ODD = (("full", 0), ("full", 3), ("lora", 2))
BF16 = STAGES[2] if IS_WHOLE else (0, 1)
BF16_RESUMED = (0, 2, 3)
REGULARISED_AT, SAMPLED_AT = ((2, 3), (0, 3)) if IS_WHOLE else ((3,), (3,))
REGULARISED = {
    "training": {
        "neftuneNoiseAlpha": 5,
        "labelSmoothing": 0.1,
        "layerwiseLearningRateDecay": 0.7,
        "deterministic": True,
    }
}


PROMPTS = ["Where is the invoice?", "How do I reset my password?"]
SAMPLED = {
    "evaluation": {"everySteps": 2, "baseline": False, "samplePrompts": PROMPTS, "predictions": {"maxNewTokens": 5}}
}
SPIKING = {
    "training": {
        "maxSteps": 12,
        "globalBatchSize": 6,
        "learningRate": 0.3,
        "scheduler": "constant",
        "precision": "fp32",
        "lossSpike": {"threshold": 1.001, "window": 3},
    }
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("grid")


@pytest.fixture(scope="module")
def told(tiny_model, root):
    """What rank 0 told in each case."""
    return {**run_cases(tiny_model, root, grid(1)), **run_cases(tiny_model, root, grid(2))}


@pytest.fixture(scope="module")
def plain(tiny_model, root, told):
    """Return the series of plain PyTorch for a method."""
    cache = root / "work-1" / "prepared" / "cache"
    series = {method: reference(tiny_model, cache, Case("plain", method)) for method in METHODS}
    series["rows"] = reference(tiny_model, cache, Case("plain", "full", packing=False))
    return series


def exact(told_of_case, series):
    assert [step["step"] for step in told_of_case["steps"]] == list(range(1, len(series.losses) + 1))
    assert [step["loss"] for step in told_of_case["steps"]] == pytest.approx(series.losses, abs=1e-5)
    assert [step["grad_norm"] for step in told_of_case["steps"]] == pytest.approx(series.grad_norms, abs=1e-5)


@pytest.mark.parametrize(("stage", "world_size"), PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradient_norms_are_those_of_plain_pytorch(told, plain, method, stage, world_size):
    exact(told[f"{method}-{stage}-w{world_size}"], plain[method])


@pytest.mark.parametrize("world_size", ODD_WORLDS)
@pytest.mark.parametrize(("method", "stage"), ODD)
def test_small_micro_batches_and_recomputed_activations_change_nothing(told, plain, method, stage, world_size):
    exact(told[f"odd-{method}-{stage}-w{world_size}"], plain[method])


@pytest.mark.parametrize("world_size", ODD_WORLDS)
def test_unpacked_rows_with_uneven_micro_batches(told, plain, world_size):
    exact(told[f"rows-w{world_size}"], plain["rows"])


RESUMED = [f"{method}-{stage}-w{world}" for method in METHODS for stage, world in PLACES]
RESUMED += [f"bf16-dropout-{stage}" for stage in BF16_RESUMED]
RESUMED += [f"regularised-{stage}" for stage in REGULARISED_AT] + [f"samples-{stage}" for stage in SAMPLED_AT]


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_is_the_same_run_bit_by_bit(told, root, name):
    whole, resumed = told[name]["steps"][2:], told[name]["resumed"]
    for field in ("step", "loss", "grad_norm", "learning_rate"):
        assert [step[field] for step in resumed] == [step[field] for step in whole]
    ours, theirs = (weights_of(root / name / part, 4) for part in ("resumed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in theirs)


def test_training_ends_early_and_a_resumed_run_knows_it(told, root):
    assert [step["step"] for step in told["early"]["steps"]] == [1, 2]
    assert told["early"]["stoppedEarly"] == 2
    assert (root / "early/whole/00000002/rank-0/weights/adapter_model.safetensors").exists()
    assert told["early"]["resumed"] == []


@pytest.mark.parametrize("stage", SAMPLED_AT)
def test_answers_to_sample_prompts_are_those_of_the_weights_of_that_step(told, plain, root, tiny_model, stage):
    """And nothing in the training is changed by asking."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = f"samples-{stage}"
    exact(told[name], plain["lora"])
    samples = told[name]["samples"]
    assert [(one["step"], one["prompt"]) for one in samples] == [(step, each) for step in (2, 4) for each in PROMPTS]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    weights = root / name / "whole" / "00000004" / "rank-0" / "weights"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), weights).eval()
    ends = [2, *turn_end(TokenCache.open(root / "work-2" / "prepared" / "cache", "train"), {0, 1})]
    for prompt, one in zip(PROMPTS, samples[2:], strict=True):
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        answered = model.generate(**asked, do_sample=False, max_new_tokens=5, eos_token_id=ends, pad_token_id=2)
        new = answered[0, asked["input_ids"].shape[1] :]
        assert one["answer"] == tokenizer.decode(new, skip_special_tokens=True)


def test_a_loss_that_jumps_ends_the_run_and_names_rows_of_the_step(told, root):
    """On every process alike, and at the same step in a run that was resumed before it."""
    spike = told["spike"]
    losses, words = [step["loss"] for step in spike["steps"]], spike["failure"]
    assert words.startswith(f"the loss of step {len(losses) + 1} is ")
    judged = range(3, len(losses))
    assert all(losses[step] <= 1.001 * sorted(losses[step - 3 : step])[1] for step in judged)
    others = spike["resumedFailure"], json.loads((root / "spike" / "rank-1.json").read_text())["failure"]
    # Each ends with what it knows of commits: the resumed run has others, and only rank 0 hears of any.
    assert {other.rpartition("; ")[0] for other in others} == {words.rpartition("; ")[0]}
    batches = TrainingBatches(
        TokenCache.open(root / "work-2" / "prepared" / "cache", "train"), max_length=96, packing=True, seed=42
    )
    steps = schedule(batches.num_sequences, epochs=None, max_steps=12, global_batch_size=6)
    of_step = {row + 1 for rows in batches.sequences(steps, len(losses)) for row in rows.tolist()}
    assert {int(line) for line in re.findall(r"rows\.jsonl:(\d+)", words)} <= of_step
    assert "rows.jsonl:" in words


@pytest.mark.parametrize("stage", BF16)
def test_bf16_learns_like_fp32_at_every_stage(told, plain, stage):
    losses = [step["loss"] for step in told[f"bf16-full-{stage}"]["steps"]]
    assert losses[-1] < losses[0] - 0.5
    assert losses == pytest.approx(plain["full"].losses, abs=0.03)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_weights_of_a_commit_are_whole_and_equal_at_every_stage(told, root, tiny_model, method, world_size):
    """What another program loads: no tensor is empty, sharded or missing, whatever the ZeRO stage."""
    files = [weights_of(root / f"{method}-{stage}-w{world_size}" / "whole", 4) for stage in STAGES[world_size]]
    for tensors in files:
        assert tensors.keys() == files[0].keys()
        assert all(tensors[key].shape == files[0][key].shape and tensors[key].numel() for key in tensors)
        assert all((tensors[key] - files[0][key]).abs().max() < 1e-4 for key in tensors)


def test_adapter_is_loaded_by_peft_and_whole_model_by_transformers(told, root, tiny_model):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 20)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, root / "lora-3-w2/whole/00000004/rank-0/weights")
        assert (adapted(input_ids=ids).logits - untouched).abs().max() > 1e-3
        whole = AutoModelForCausalLM.from_pretrained(root / "full-3-w2/whole/00000004/rank-0/weights")
        assert (whole(input_ids=ids).logits - untouched).abs().max() > 1e-3


def test_frozen_weights_are_not_in_the_shards_of_an_adapter_run(told, root):
    def size(name):
        shards = (root / name / "whole" / "00000004").glob("rank-*/engine/state/*.pt")
        return sum(path.stat().st_size for path in shards)

    for stage in STAGES[2]:
        assert size(f"lora-{stage}-w2") < size(f"full-{stage}-w2") / 2
