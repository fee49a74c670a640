"""The whole way from files to the cache: the same bytes in this process and in others, in blocks of any size."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mask_builders import make_tokenizer

from finetune_api.spec import Data
from finetune_trainer.data.cache import SPLITS, TokenCache
from finetune_trainer.data.places import Places
from finetune_trainer.errors import StageFailure
from finetune_trainer.prepare import blocks
from finetune_trainer.prepare.block_encoder import Rules
from finetune_trainer.prepare.blocks import Block, cut
from finetune_trainer.prepare.build import CacheBuilder
from finetune_trainer.prepare.labels import Labels
from finetune_trainer.prepare.pool import AHEAD, encoding, in_order, processes_for
from finetune_trainer.prepare.sources import Source

URI = [{"uri": "s3://data/f.jsonl"}]
LISTS = ("test", "validation", "train", "replay")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer("chatml").save_pretrained(folder)
    return folder


def chat(text: str, answer: str = "Open the settings.", **columns) -> dict:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}], **columns}


def chats(count: int, start: int = 0) -> list[dict]:
    words = ["How", "do", "I", "reset", "my", "password", "🙂", "settings", "page"]
    return [
        chat(" ".join([f"{number}", *np.random.default_rng(number).choice(words, number % 40)]), id=number)
        for number in range(start, start + count)
    ]


def built(folder: Path, tokenizer: Path, lists: dict[str, list], *, form="messages", processes=0, **data):
    """Build the cache of rows; return the builder."""
    settings = Data.model_validate({"train": URI, "split": {"validation": 0, "test": 0}, **data})
    rules = Rules(tokenizer, form, settings, 256)
    labels = Labels(settings.labels) if form == "label" else None
    with CacheBuilder(folder / "prepared", form=form, labels=labels, data=settings) as builder:
        wanted = (replace(block, wanted=not builder.has_failed) for block in cuts(folder, lists, settings))
        with encoding(rules, processes) as submit:
            for made in in_order(submit, wanted):
                builder.add(made)
        if not builder.has_failed:
            builder.choose()
    return builder


def cuts(folder: Path, lists: dict[str, list], data: Data):
    for number, name in enumerate(name for name in LISTS if name in lists):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in lists[name]))
        weight = data.train[0].weight if name == "train" else 1
        yield from cut(path, f"s3://data/{name}.jsonl", Source(number, name, "s3://data/", weight))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in (folder / "prepared").rglob("*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def test_other_processes_and_other_blocks_give_the_same_bytes(tmp_path, tokenizer, monkeypatch):
    rows = chats(300)
    rows += [*rows[:20], chat("a b c", answer=" ".join(["long"] * 500)), *chats(50, start=900)]
    lists = {"test": chats(5, start=10), "train": rows, "replay": chats(200, start=5000)}
    data = {
        "test": URI,
        "train": [{**URI[0], "weight": 1.5}],
        "split": {"validation": 0.2, "test": 0},
        "replay": {"sources": URI, "fraction": 0.2},
        "deduplicate": "near",
        "nearThreshold": 0.9,
    }
    folders = []
    for processes, size in ((0, 10**6), (0, 2000), (2, 2000)):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        folders.append(tmp_path / f"{processes}-{size}")
        folders[-1].mkdir()
        builder = built(folders[-1], tokenizer, lists, processes=processes, **data)
        assert builder.counts.too_long["train"] + builder.counts.too_long["validation"] == 1
    whole, small, spread = map(contents, folders)
    assert set(whole) >= {"train.input_ids.bin", "validation.offsets.bin", "test.jsonl", "train.rows.bin"}
    assert whole == small == spread


def test_what_is_chosen_is_chosen_in_every_file(tmp_path, tokenizer):
    rows = [*chats(8), *chats(3), *chats(4, start=100)]
    lists = {"test": [*chats(2, start=100), chats(1, start=100)[0]], "train": rows, "replay": chats(40, start=200)}
    builder = built(
        tmp_path,
        tokenizer,
        lists,
        test=URI,
        deduplicate="exact",
        train=[{**URI[0], "weight": 2}],
        replay={"sources": URI, "fraction": 0.5},
    )
    cache, places = tmp_path / "prepared/cache", Places.open(tmp_path / "prepared/cache", "train")
    train = TokenCache.open(cache, "train")
    assert (len(train), len(places.rows), builder.writers["train"].rows) == (40, 40, 40)
    assert (builder.selection.duplicates, builder.selection.leaked) == (3, 2)
    found = places.of(range(40))
    assert Counter(Counter(found[:20]).values()) == {2: 10}
    assert set(found[:20]) == {f"s3://data/train.jsonl:{line}" for line in [*range(1, 9), 14, 15]}
    assert len(set(found[20:])) == 20
    assert all(place.startswith("s3://data/replay.jsonl:") for place in found[20:])
    kept = [json.loads(line)["id"] for line in (tmp_path / "prepared/test.jsonl").read_text().splitlines()]
    assert kept == [100, 101]
    assert len(TokenCache.open(cache, "test")) == 2
    assert Places.open(cache, "test").of([1]) == ["s3://data/test.jsonl:2"]
    # A row and its repeat have the same tokens, those of its line.
    assert train.row(0)[0].tolist() == train.row(1)[0].tolist() != train.row(2)[0].tolist()
    assert builder.writers["train"].supervised_tokens == int(train.supervised.sum())


def test_documents_are_chosen_with_all_of_their_pieces(tmp_path, tokenizer):
    long, short = {"text": "How do I reset my password? " * 100}, {"text": "Open the settings."}
    built(tmp_path, tokenizer, {"train": [short, long, short, long]}, form="text", deduplicate="exact")
    cache = TokenCache.open(tmp_path / "prepared/cache", "train")
    once = tmp_path / "once"
    once.mkdir()
    built(once, tokenizer, {"train": [short, long]}, form="text")
    assert len(cache) > 3
    assert cache.input_ids.tolist() == TokenCache.open(once / "prepared/cache", "train").input_ids.tolist()
    places = Places.open(tmp_path / "prepared/cache", "train").of(range(len(cache)))
    assert places == ["s3://data/train.jsonl:1", *["s3://data/train.jsonl:2"] * (len(cache) - 1)]


def test_labels_are_counted_after_rows_were_left_out(tmp_path, tokenizer):
    rows = [{"text": text, "label": label} for text, label in [("x", "b"), ("x", "b"), ("y", "a"), ("x", "a")]]
    builder = built(tmp_path, tokenizer, {"train": rows}, form="label", deduplicate="exact")
    assert [(one.label, one.train) for one in builder.labels.report()] == [("a", 2), ("b", 1)]
    builder.labels.settle(tmp_path / "prepared/cache", pad_token_id=0)
    assert TokenCache.open(tmp_path / "prepared/cache", "train").class_labels.tolist() == [1, 0, 0]


def test_a_small_weight_leaves_rows_unread_and_moves_none(tmp_path, tokenizer):
    split = {"validation": 0.2, "test": 0.2}
    all_rows = built(tmp_path, tokenizer, {"train": chats(200)}, split=split)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    some = built(fewer, tokenizer, {"train": chats(200)}, split=split, train=[{**URI[0], "weight": 0.25}])
    rows = [[builder.writers[name].rows for name in SPLITS] for builder in (all_rows, some)]
    assert rows[0][1:] == rows[1][1:]
    assert rows[1][0] == rows[0][0] - some.counts.unsampled
    assert 0.15 < rows[1][0] / rows[0][0] < 0.35


def test_wrong_rows_are_all_told_and_in_order(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 200)
    rows = [{"messages": []} if number % 7 == 3 else row for number, row in enumerate(chats(400))]
    builder = built(tmp_path, tokenizer, {"train": rows}, maxInvalidRows=3)
    assert (builder.problems.total, builder.counts.read) == (57, 400)
    assert [int(text.split(":")[2]) for text in builder.problems.first] == list(range(4, 140, 7))


def test_rows_whose_answers_do_not_end_are_counted_in_any_process(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2000)
    plain = tmp_path / "plain"
    make_tokenizer("plain").save_pretrained(plain)
    rows = [*chats(60), chat("a b c", answer=" ".join(["long"] * 500))]
    for processes in (0, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        builder = built(folder, plain, {"train": rows}, processes=processes)
        assert (builder.counts.endless, builder.counts.too_long["train"]) == (60, 1)


def test_memory_is_bounded_by_what_is_under_way():
    taken, returned = [], []

    class Done:
        def result(self):
            return len(taken)

    def endless():
        for number in range(100):
            taken.append(number)
            yield Block(Source(0, "train", ""), "f", b"")

    for _ in in_order(lambda block: Done(), endless()):
        returned.append(len(taken))
        assert len(taken) - len(returned) <= AHEAD
    assert len(returned) == 100


def test_a_process_tells_what_the_tokenizer_lacks(tmp_path, tokenizer):
    bare = tmp_path / "bare"
    plain = make_tokenizer("chatml")
    plain.chat_template = None
    plain.save_pretrained(bare)
    with pytest.raises(StageFailure, match="has no chat template"):
        built(tmp_path, bare, {"train": chats(3)}, processes=2)


@pytest.mark.parametrize(
    ("size", "told", "wanted"), [(10**6, "", 0), (10**9, "1", 1), (10**9, "2", 2), (10**9, "99", 6), (10**9, "", 4)]
)
def test_a_few_rows_are_not_worth_a_process(monkeypatch, size, told, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    assert processes_for(size) == wanted
