import json

import pytest

from quickstart.scores import Answer, accuracy, is_right, parse_answers, pick_samples

ANSWERS = [
    Answer(f"q{i}", ["42", "Brenta"], base="no idea", tuned="Press Brenta for 42 s" if i % 2 else "")
    for i in range(20)
]


@pytest.mark.parametrize(
    ("answer", "keywords", "right"),
    [
        ("Hold the BRENTA key for 42 seconds", ["42", "Brenta"], True),
        ("Hold the key for 42 seconds", ["42", "Brenta"], False),
        ("", ["42"], False),
    ],
)
def test_a_right_answer_holds_every_key_word(answer, keywords, right):
    assert is_right(answer, keywords) is right


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(ANSWERS, "base") == 0
    assert accuracy(ANSWERS, "tuned") == 0.5


def test_samples_are_spread_over_the_rows():
    assert [answer.question for answer in pick_samples(ANSWERS)] == ["q0", "q4", "q8", "q12", "q16"]


def test_predictions_are_read_with_the_last_question():
    row = {
        "prompt": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "why?"}],
        "keywords": ["x"],
        "reference": "x",
        "base": "a",
        "tuned": "b",
    }
    assert parse_answers(json.dumps(row) + "\n\n") == [Answer("why?", ["x"], "a", "b")]
