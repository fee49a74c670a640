"""What a confusion matrix says: pure arithmetic, as scikit-learn defines it.

https://scikit-learn.org/stable/modules/model_evaluation.html#classification-metrics
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rates(NamedTuple):
    """Scores of labels, each from 0 to 1; macro: means over the labels that occur, as true or as predicted ones."""

    accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    f1_micro: float


def rates(confusion: NDArray[np.int64]) -> Rates:
    """Return the scores of a confusion matrix with at least one row counted, [true class, predicted class].

    What has no denominator (the precision of a label that was never predicted) is 0.
    """
    right, actual, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = actual + predicted > 0
    share = float(right.sum() / confusion.sum())

    def mean(numerators: NDArray[np.int64], denominators: NDArray[np.int64]) -> float:
        return float((numerators / np.maximum(denominators, 1))[occurs].mean())

    # Each row has one true and one predicted label, so over all rows precision, recall and F1 are the same share.
    return Rates(share, mean(right, predicted), mean(right, actual), mean(2 * right, actual + predicted), share)
