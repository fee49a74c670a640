"""Near duplicates: sketches agree as much as the rows do, and groups have their first row."""

import numpy as np
import pytest

from finetune_trainer.prepare.conversation import Conversation, Turn
from finetune_trainer.prepare.formats import Completion, Document, Labelled
from finetune_trainer.prepare.near import NUMBERS, Sketches, group, sketch

WORDS = [f"word{number}" for number in range(2000)]


def text(seed: int, words: int = 200) -> list[str]:
    return np.random.default_rng(seed).choice(WORDS, words).tolist()


def sketches(*rows: list[str]) -> np.ndarray:
    return np.stack([sketch(Document(" ".join(row))) for row in rows])


def groups(parts, threshold=0.8):
    rows = sum(map(len, parts))
    return group(parts, threshold, np.arange(rows)).tolist()


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


@pytest.mark.parametrize("changed", [0, 2, 5, 20])
def test_sketches_agree_as_much_as_the_rows_do(changed):
    first = text(1)
    second = [*text(2, changed), *first[changed:]]
    one, other = shingles(first), shingles(second)
    agreement = (sketches(first)[0] == sketches(second)[0]).mean()
    assert agreement == pytest.approx(len(one & other) / len(one | other), abs=0.12)


def test_alike_rows_make_a_group_over_all_parts():
    base = text(1)
    alike = [*base[:-2], "other", "end"]
    parts = [sketches(text(2), base), np.empty((0, NUMBERS), np.uint32), sketches(text(3), alike, base)]
    assert groups(parts) == [0, 1, 2, 1, 1]
    assert groups(parts, threshold=1.0) == [0, 1, 2, 3, 1]


def test_rows_with_half_of_their_words_in_common_are_not_alike():
    base = text(1)
    assert groups([sketches(base, [*base[:100], *text(5, 100)])]) == [0, 1]


def test_rows_that_are_the_same_stay_together_whatever_their_words():
    assert group([sketches(["a"], ["b"])], 0.8, np.array([0, 0])).tolist() == [0, 0]


def test_short_rows_are_alike_when_they_are_the_same_but_for_case_and_space():
    rows = [Document("How do I?"), Document("how  do i?"), Document("How do you?")]
    assert groups([np.stack([sketch(row) for row in rows])]) == [0, 0, 2]


def test_what_is_compared_is_the_text_of_a_row():
    turns = Conversation((Turn("user", "a b c"), Turn("assistant", "d e f g")))
    same = [turns, Completion("a b c", "d e f g"), Labelled(turns, "x"), Document("a b c d e f g")]
    assert len({sketch(example).tobytes() for example in same}) == 1


def chat(system: str, question: str, answer: str, **extra: object) -> Conversation:
    return Conversation((Turn("system", system), Turn("user", question), Turn("assistant", answer, extra)))


def test_a_long_system_turn_makes_no_rows_alike():
    system = " ".join(text(1, 300))
    rows = [chat(system, " ".join(text(seed, 12)), " ".join(text(seed + 100, 20))) for seed in range(2, 12)]
    repeated = chat(f"{system} Today is Monday.", rows[3].turns[1].content, rows[3].turns[2].content)
    assert groups([np.stack([sketch(row) for row in [*rows, repeated]])]) == [*range(10), 3]


def test_short_questions_about_other_documents_are_not_alike():
    rows = [chat(" ".join(text(seed)), "Is this a complaint?", "Yes.") for seed in (1, 2)]
    assert groups([np.stack([sketch(row) for row in rows])]) == [0, 1]


def test_calls_of_tools_are_compared():
    arguments = [{"room": "kitchen", "to": 18}, {"hall": "down", "floor": 2}, {"room": "kitchen", "to": 18}]
    calls = [[{"function": {"name": "heat", "arguments": one}}] for one in arguments]
    rows = [chat("", "Make the kitchen warmer please, it is cold", "", tool_calls=one) for one in calls]
    assert groups([np.stack([sketch(row) for row in rows])]) == [0, 1, 0]


def test_ids_of_calls_are_not_compared():
    call = {"type": "function", "function": {"name": "heat", "arguments": {"to": 18}}}
    rows = [chat("", "Make it warmer", "", tool_calls=[{"id": one, **call}]) for one in ("call_a8f", "call_k2x")]
    assert (sketch(rows[0]) == sketch(rows[1])).all()


CHINESE = "今天天气很好我们去公园散步然后在湖边吃了午饭下午又去了博物馆参观了很多古代文物"
THAI = "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะแล้วกินข้าวกลางวันริมทะเลสาบ"
JAPANESE = "今日は天気がとても良いので公園を散歩してから湖のそばで昼ごはんを食べました"
KHMER = "ថ្ងៃនេះអាកាសធាតុល្អណាស់យើងទៅដើរលេងនៅសួនច្បារហើយញ៉ាំអាហារថ្ងៃត្រង់ក្បែរបឹង"


@pytest.mark.parametrize("written", [CHINESE, THAI, JAPANESE, KHMER])
def test_texts_without_spaces_are_compared_by_their_letters(written):
    first, other = Document(written * 2), Document(f"{written * 2}们")
    assert (sketch(first) == sketch(other)).mean() > 0.8
    assert (sketch(first) == sketch(Document(written[::-1] * 2))).mean() < 0.2


def test_letters_without_spaces_leave_the_words_beside_them_whole():
    assert (sketch(Document("用 GPU 训练 LoRA")) == sketch(Document("用GPU训练LoRA"))).all()


def test_sketches_are_kept_in_a_file(tmp_path):
    stored, empty = Sketches(tmp_path / "some"), Sketches(tmp_path / "none")
    wanted = sketches(text(1), text(2))
    for row in wanted:
        stored.append(row[None])
    assert (stored.read() == wanted).all()
    assert empty.read().shape == (0, NUMBERS)


def test_a_sketch_is_the_same_in_every_release():
    """Which rows are near duplicates is part of what a run means."""
    assert sketch(Document("one two three four five six"))[:3].tolist() == [2400325934, 1391462204, 2951883518]
