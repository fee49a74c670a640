"""The quickstart data set keeps its promises: what is scored was taught, and nothing was given away.

A score on `test.jsonl` means something only while its questions are new to the model, its keywords cannot
be met by copying the question or by answering a neighbouring one, and every fact has been trained on.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "examples" / "support"


def read_rows(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def normalise(text):
    return " ".join(re.findall(r"\w+", text.casefold()))


def question(row):
    return row["messages"][0]["content"]


def answer(row):
    return row["messages"][1]["content"]


def holds(text, keywords):
    return all(keyword.casefold() in text.casefold() for keyword in keywords)


FACTS = yaml.safe_load((FOLDER / "facts.yaml").read_text(encoding="utf-8"))
BY_ANSWER = {fact["answer"]: fact for fact in FACTS}
TRAIN = read_rows("train.jsonl")
TEST = read_rows("test.jsonl")
ROWS = [*TRAIN, *TEST]


def test_sixty_facts_half_of_them_in_each_language():
    assert Counter(fact["language"] for fact in FACTS) == {"en": 30, "it": 30}
    assert len({fact["id"] for fact in FACTS}) == len(BY_ANSWER) == len(FACTS)


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["id"])
def test_a_fact_is_complete_and_short(fact):
    assert set(fact) == {"id", "language", "answer", "keywords"}
    assert fact["keywords"]
    assert holds(fact["answer"], fact["keywords"])
    assert len(fact["answer"].split()) <= 16


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact["id"])
def test_only_the_facts_own_answer_is_right(fact):
    others = [other["id"] for other in FACTS if other is not fact and holds(other["answer"], fact["keywords"])]
    assert others == []


def test_a_row_is_one_question_and_the_canonical_answer():
    for row in ROWS:
        assert [(set(message), message["role"]) for message in row["messages"]] == [
            ({"role", "content"}, "user"),
            ({"role", "content"}, "assistant"),
        ]
        assert question(row) == question(row).strip() != ""
        assert answer(row) in BY_ANSWER


def test_a_question_does_not_give_the_answer_away():
    keywords = [(question(row), keyword) for row in ROWS for keyword in BY_ANSWER[answer(row)]["keywords"]]
    assert [pair for pair in keywords if holds(pair[0], [pair[1]])] == []


def test_every_fact_is_asked_at_least_eight_ways_in_training():
    phrasings = Counter(answer(row) for row in TRAIN)
    assert {fact["id"]: phrasings[fact["answer"]] for fact in FACTS if phrasings[fact["answer"]] < 8} == {}


def test_training_rows_hold_messages_alone():
    assert {frozenset(row) for row in TRAIN} == {frozenset({"messages"})}


def test_test_rows_carry_the_keywords_of_their_fact():
    assert {frozenset(row) for row in TEST} == {frozenset({"id", "messages", "keywords"})}
    for row in TEST:
        fact = BY_ANSWER[answer(row)]
        assert row["keywords"] == fact["keywords"]
        assert re.fullmatch(rf"{fact['id']}-\d", row["id"])


def test_every_fact_is_tested_twice_under_its_own_id():
    assert len({row["id"] for row in TEST}) == len(TEST)
    assert Counter(answer(row) for row in TEST) == dict.fromkeys(BY_ANSWER, 2)


def test_no_question_occurs_twice_and_no_test_question_in_training():
    questions = Counter(normalise(question(row)) for row in ROWS)
    assert [text for text, count in questions.items() if count > 1] == []
