"""Classification: equal to transformers' own sequence classifier, to a plain loop, and to scores made by hand."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification

from finetune_api.run import Classes
from finetune_api.spec import Training
from finetune_trainer.data.batches import TrainingBatches, micro_batch
from finetune_trainer.data.cache import CacheWriter, TokenCache
from finetune_trainer.data.schedule import schedule
from finetune_trainer.model import attention, selfcheck
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.objectives.classification import Classification
from finetune_trainer.objectives.confusion import rates
from finetune_trainer.train.engine import scaled
from finetune_trainer.train.inputs import inputs_of

CPU = torch.device("cpu")
PAD = 0
CLASSES = Classes(labels=["bill", "bug", "praise"], rows=[1, 6, 5], pad_token_id=PAD)
LABELS = [2, 0, 1, 2, 1, 1, 2, 1, 1, 2, 1, 2]
BALANCED = [12 / 3, 12 / 18, 12 / 15]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Twelve rows of 1 to 40 tokens, none of which ends with padding."""
    directory, random = tmp_path_factory.mktemp("cache"), np.random.default_rng(0)
    with CacheWriter(directory, "train", labelled=True) as writer:
        for label in LABELS:
            length = int(random.integers(1, 41))
            writer.append(random.integers(1, 400, length).tolist(), [False] * length, label)
    return TokenCache.open(directory, "train")


def training(**settings):
    return Training.model_validate({"epochs": 1, **settings})


def load(tiny_model, **settings):
    """Return the product's module on a tiny classifier, the same at every call."""
    attention.register()
    kind = ModelKind.of(CLASSES)
    options = {**kind.options(tiny_model), "attn_implementation": attention.IMPLEMENTATION}
    model = kind.auto_class.from_pretrained(tiny_model, **options)
    kind.begin(model, seed=42)
    return Classification(CLASSES, training(**settings)).loss_of(model, training(**settings))


def transformers_own(loss):
    """Return transformers' classifier with the same weights."""
    model = loss.transformer
    own = LlamaForSequenceClassification(deepcopy(model.config))
    own.load_state_dict(model.state_dict())
    own.set_attn_implementation("eager")
    return own


def packed(cache, rows):
    return inputs_of(micro_batch(cache, rows), CPU, "sdpa")


def row_of(cache, index):
    return torch.from_numpy(cache.row(index)[0].astype(np.int64))[None]


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_loss_and_gradients_are_those_of_transformers_on_each_row_alone(tiny_model, cache):
    loss = load(tiny_model)
    own = transformers_own(loss)
    value, _ = loss(packed(cache, range(len(cache))))
    value.backward()
    rows = [own(input_ids=row_of(cache, index), labels=torch.tensor([LABELS[index]])).loss for index in range(12)]
    wanted = torch.stack(rows).sum()
    wanted.backward()
    torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(loss.transformer), gradients(own), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_loss_is_a_weighted_mean_over_the_rows_however_they_are_spread(tiny_model, cache, smoothing):
    settings = {"classWeights": "balanced", "labelSmoothing": smoothing}
    loss = load(tiny_model, **settings)
    own = transformers_own(loss)
    terms, weights = [], []
    for index, label in enumerate(LABELS):
        logits = own(input_ids=row_of(cache, index)).logits[0]
        log_probabilities = logits.log_softmax(-1)
        spread = (log_probabilities * torch.tensor(BALANCED)).mean()
        terms.append(-(1 - smoothing) * BALANCED[label] * log_probabilities[label] - smoothing * spread)
        weights.append(BALANCED[label])
    (torch.stack(terms).sum() / sum(weights)).backward()
    weight = float(Classification(CLASSES, training(**settings)).row_weights(cache).sum())
    assert weight == pytest.approx(sum(weights))
    for rows in ([0, 1, 2], [3], [4, 5, 6, 7, 8, 9, 10, 11]):  # as on three processes
        (scaled(loss(packed(cache, rows))[0], weight, 3) / 3).backward()
    torch.testing.assert_close(gradients(loss.transformer), gradients(own), atol=1e-5, rtol=1e-5)


def test_counts_are_the_weight_and_the_confusion_of_the_rows(tiny_model, cache):
    loss = load(tiny_model, classWeights="balanced").eval()
    with torch.no_grad():
        value, counts = loss(packed(cache, range(12)), count=True)
        predicted = [transformers_own(loss)(input_ids=row_of(cache, index)).logits[0].argmax() for index in range(12)]
    assert counts[0] == pytest.approx(sum(BALANCED[label] for label in LABELS))
    matrix = counts[1:].reshape(3, 3).int().tolist()
    pairs = list(zip(LABELS, map(int, predicted), strict=True))
    assert matrix == [[pairs.count((true, other)) for other in range(3)] for true in range(3)]
    objective = Classification(CLASSES, training(classWeights="balanced"))
    scores = objective.scores(float(value), counts.tolist())
    assert scores.rows == 12
    assert scores.accuracy == pytest.approx(sum(true == other for true, other in pairs) / 12)
    assert scores.loss == pytest.approx(float(value / counts[0]))
    assert objective.confusion(counts.tolist()).rows == matrix


def test_idle_batch_has_loss_zero_and_reaches_every_parameter(tiny_model, cache):
    loss = load(tiny_model)
    value, counts = loss(packed(cache, []), count=True)
    value.backward()
    assert value == 0
    assert not counts.any()
    assert len(counts) == 10
    assert all(gradient is not None and not gradient.any() for gradient in gradients(loss.transformer).values())
    assert Classification(CLASSES, training()).scores(0.0, counts.tolist()) is None


def test_the_weight_of_a_step_is_that_of_its_rows(cache):
    weights = Classification(CLASSES, training(classWeights="balanced")).row_weights(cache)
    data = TrainingBatches(cache, max_length=64, packing=True, seed=7, row_weights=weights)
    plan = schedule(data.num_sequences, epochs=2, max_steps=None, global_batch_size=3)
    for step in range(plan.total_steps):
        labels = [
            label
            for rank in (0, 1)
            for batch in data.step_batches(plan, step, rank=rank, world_size=2, micro_batch_size=1)
            for label in batch.labels.tolist()
        ]
        assert data.weight(plan, step) == pytest.approx(sum(BALANCED[label] for label in labels))


def test_scores_of_a_matrix_made_by_hand():
    # The third label is never predicted, the fourth has no rows but is predicted, the last has neither.
    matrix = np.array([[5, 1, 0, 0, 0], [2, 2, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    found = rates(matrix)
    assert found.accuracy == found.f1_micro == pytest.approx(7 / 12)
    assert found.precision_macro == pytest.approx((5 / 8 + 2 / 3 + 0 + 0) / 4)
    assert found.recall_macro == pytest.approx((5 / 6 + 2 / 4 + 0 + 0) / 4)
    assert found.f1_macro == pytest.approx((10 / 14 + 4 / 7 + 0 + 0) / 4)


def test_selfcheck_accepts_a_classifier(tiny_model):
    assert selfcheck.check(load(tiny_model, classWeights="balanced"), CPU, "sdpa") < 1e-5


def test_a_head_begins_anew_and_alike(tiny_model):
    first, second = (load(tiny_model).transformer.score.weight for _ in range(2))
    assert first.shape == (3, 64)
    assert first.std() == pytest.approx(0.02, rel=0.3)
    assert torch.equal(first, second)
    assert load(tiny_model).transformer.config.id2label == {0: "bill", 1: "bug", 2: "praise"}
