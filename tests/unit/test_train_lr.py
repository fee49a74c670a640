import pytest

from finetune_api.spec import Training
from finetune_trainer.train.lr import LearningRate


@pytest.mark.parametrize(
    ("scheduler", "warmup", "total", "expected"),
    [
        ("constant", 0, 4, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 2, 4, [0.5, 1.0, 1.0, 1.0]),
        ("linear", 0, 4, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 2, 6, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("linear", 0.5, 6, [1 / 3, 2 / 3, 1.0, 1.0, 2 / 3, 1 / 3]),
        ("cosine", 0, 4, [1.0, 0.853553, 0.5, 0.146447]),
        ("cosine", 1, 5, [1.0, 1.0, 0.853553, 0.5, 0.146447]),
        ("cosine", 10, 3, [0.1, 0.2, 0.3]),
        ("cosine", 0.01, 2, [1.0, 1.0]),
        ("linear", 1, 1, [1.0]),
        ("wsd", 0, 10, [1.0] * 9 + [1.0]),
        ("wsd", 2, 4, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_course_of_the_learning_rate(scheduler, warmup, total, expected):
    training = Training(epochs=1, learning_rate=1.0, scheduler=scheduler, warmup=warmup)
    rate = LearningRate.of(training, total)
    assert [rate(step) for step in range(total)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("scheduler", "decay", "lowest", "expected"),
    [
        ("wsd", 4, 0, [1.0, 1.0, 1.0, 0.5, 0.292893, 0.133975]),
        ("wsd", 0.5, 0.2, [1.0, 1.0, 1.0, 1.0, 0.538120, 0.346803]),
        ("wsd", 100, 0, [1.0, 0.591752, 0.422650, 0.292893, 0.183503, 0.087129]),
        ("linear", 0.1, 0.1, [1.0, 0.85, 0.7, 0.55, 0.4, 0.25]),
        ("cosine", 0.1, 0.5, [1.0, 0.966506, 0.875, 0.75, 0.625, 0.533494]),
        ("constant", 0.1, 0.5, [1.0] * 6),
    ],
)
def test_decay_and_lowest_rate(scheduler, decay, lowest, expected):
    shape = {"scheduler": scheduler, "decay": decay, "min_learning_rate_ratio": lowest}
    rate = LearningRate.of(Training(epochs=1, learning_rate=1.0, warmup=0, **shape), 6)
    assert [rate(step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


def test_peak_scales_the_course():
    rate = LearningRate.of(Training(epochs=1, learning_rate=3e-4, scheduler="linear", warmup=0), 10)
    assert rate(5) == pytest.approx(1.5e-4)
