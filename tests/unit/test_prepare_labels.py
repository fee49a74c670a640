"""Labels: class ids, and what is said of rows that no classifier can learn from."""

import numpy as np
import pytest

from finetune_trainer.data.cache import SPLITS, CacheWriter, TokenCache
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare import labels as module
from finetune_trainer.prepare.labels import Labels, require_listed
from finetune_trainer.prepare.problems import Place, RowError

PLACE = Place("s3://d/f.jsonl", 7)


def read(folder, rows, given=()):
    """Return the labels of (label, split) rows that were written to a cache."""
    labels = Labels(given)
    numbers = [labels.number(label, Place("f", line)) for line, (label, _) in enumerate(rows, 1)]
    for split in SPLITS:
        with CacheWriter(folder, split, labelled=True) as writer:
            for number, (_, where) in zip(numbers, rows, strict=True):
                if where == split:
                    writer.append([1], [False], number)
    labels.count(folder)
    return labels


def train(*names):
    return [(name, "train") for name in names]


@pytest.mark.parametrize(
    ("names", "given", "wanted"),
    [
        (["b", "a", "b"], [], ["a", "b"]),
        (["10", "9", "100"], [], ["9", "10", "100"]),
        (["10", "9", "x"], [], ["10", "9", "x"]),
        (["b", "a"], ["b", "a"], ["b", "a"]),
    ],
)
def test_class_ids_follow_the_list_or_the_order_of_the_labels(tmp_path, names, given, wanted):
    assert read(tmp_path, train(*names), given).order() == wanted


def test_the_numbers_in_the_cache_become_class_ids(tmp_path):
    rows = [("spam", "test"), ("ham", "train"), ("spam", "train"), ("eggs", "train"), ("ham", "validation")]
    labels = read(tmp_path, rows)
    classes = labels.settle(tmp_path, pad_token_id=5)
    assert (classes.labels, classes.rows, classes.pad_token_id) == (["eggs", "ham", "spam"], [1, 1, 1], 5)
    found = [TokenCache.open(tmp_path, split).class_labels for split in SPLITS]
    assert [ids.tolist() for ids in found] == [[1, 2, 0], [1], [2]]
    assert found[0].dtype == np.int32
    assert [(one.label, one.train, one.validation, one.test) for one in labels.report()] == [
        ("eggs", 1, 0, 0),
        ("ham", 1, 1, 0),
        ("spam", 1, 0, 1),
    ]


def test_labels_of_rows_that_were_left_out_are_no_classes(tmp_path):
    labels = read(tmp_path, [("a", "left out"), *train("b", "c")])
    assert labels.order() == ["b", "c"]
    labels.settle(tmp_path, pad_token_id=0)
    assert TokenCache.open(tmp_path, "train").class_labels.tolist() == [0, 1]


def test_a_label_that_no_training_row_has_is_named_with_its_first_row(tmp_path):
    labels = read(tmp_path, [*train("a", "b"), ("c", "test"), ("c", "validation"), ("a", "test")])
    [(place, error)] = labels.problems()
    assert (place.number, error.field) == (3, "label")
    assert error.text == (
        "is 'c', which no training row has (2 of validation and test have it), so it cannot be learned;"
        " add training rows of it, or remove these"
    )


def test_a_label_that_the_spec_does_not_list_is_refused():
    require_listed("a", ["a", "b"])
    require_listed("c", [])
    with pytest.raises(RowError) as caught:
        require_listed("c", ["a", "b"])
    assert caught.value.text == "is 'c', which spec.data.labels does not list ('a', 'b')"


def test_a_label_that_may_be_another_columns_value_is_not_repeated(tmp_path):
    with pytest.raises(RowError) as caught:
        require_listed("+39 347 1234567", ["a", "b"])
    assert caught.value.text == "is one, which spec.data.labels does not list ('a', 'b')"
    labels = read(tmp_path, [*train("a", "b"), ("+39 347 1234567", "test")])
    [(_, error)] = labels.problems()
    assert error.text.startswith("is one, which no training row has (1 of validation and test have it)")


@pytest.mark.parametrize(
    ("names", "given", "problem"),
    [
        (["a", "a"], [], "the label of all training rows is 'a': a single class leaves nothing to tell apart"),
        (
            ["+39 347 1234567"],
            [],
            "the label of all training rows is one: a single class leaves nothing to tell apart",
        ),
        (["a", "b"], ["a", "b", "c"], "spec.data.labels lists 'c', of which there are no training rows"),
    ],
)
def test_too_few_classes_are_refused(tmp_path, names, given, problem):
    labels = read(tmp_path, train(*names), given)
    with pytest.raises(StageFailure, match=problem):
        labels.require_classes()


def test_too_many_labels_are_no_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 3)
    with pytest.raises(
        StageFailure, match="f:4: label: this is the 4th different one, and at most 3 can be told apart"
    ):
        read(tmp_path, train("a", "b", "c", "d"))


def test_of_many_labels_the_frequent_ones_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_REPORTED", 2)
    labels = read(tmp_path, train("c", "c", "b", "a", "a"))
    assert [one.label for one in labels.report()] == ["a", "c"]
