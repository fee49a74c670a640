"""The rows: chats whose lengths, turns and words are spread as those of real chat data are; the same for a seed.

The length of a message follows a log-normal distribution, half of the rows have one question and one answer, a third
have a system turn. The text is English prose from Python's own documentation, with numbers, names and words that
occur once, so that a tokenizer cannot remember all it meets. One row in fifty repeats an earlier one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

MEGABYTE = 10**6
REPEATED = 0.02
_RECENT = 1000
"""Rows of which a repeat is one."""
_MEDIAN_WORDS, _SIGMA = 45.0, 1.0
_LONGEST_WORDS = 1200
_TURNS = (1, 1, 1, 1, 2, 2, 3, 4)
_RARE = 0.04
"""Share of words that are made up."""
_SYLLABLES = ("ba", "co", "di", "fe", "gu", "ha", "ji", "ko", "lu", "me", "no", "pa", "qui", "ro", "su", "te", "vi")
_EXTRAS = ("caffè", "naïve", "🙂", "10:45", "https://example.com/a?b=1", "€12.50", "def f(x):\n    return x", "№ 7")


def write_rows(path: Path, megabytes: float, seed: int = 0) -> int:
    """Write at least so many megabytes (10**6 bytes) of JSON lines; return how many rows they are."""
    size, count = 0, 0
    with path.open("wb") as file:
        for count, line in enumerate(lines(seed), start=1):  # noqa: B007
            size += file.write(line)
            if size >= megabytes * MEGABYTE:
                break
    return count


def lines(seed: int) -> Iterator[bytes]:
    """Yield rows without end."""
    random, prose = Random(seed), _prose()  # noqa: S311
    recent: list[bytes] = []
    number = 0
    while True:
        number += 1
        if recent and random.random() < REPEATED:
            yield random.choice(recent)
            continue
        line = json.dumps({"id": number, "messages": _messages(random, prose)}, ensure_ascii=False).encode() + b"\n"
        recent = [*recent[-_RECENT:], line] if number % 10 == 0 else recent
        yield line


def _messages(random: Random, prose: list[str]) -> list[dict[str, str]]:
    turns = []
    if random.random() < 1 / 3:
        turns.append({"role": "system", "content": _text(random, prose)})
    for _ in range(random.choice(_TURNS)):
        turns.append({"role": "user", "content": _text(random, prose)})
        turns.append({"role": "assistant", "content": _text(random, prose)})
    return turns


def _text(random: Random, prose: list[str]) -> str:
    length = int(min(_LONGEST_WORDS, max(3, random.lognormvariate(0, _SIGMA) * _MEDIAN_WORDS)))
    start = random.randrange(len(prose) - length)
    words = prose[start : start + length]
    for _ in range(round(length * _RARE) + 1):
        words[random.randrange(length)] = _rare(random)
    return " ".join(words)


def _rare(random: Random) -> str:
    kind = random.random()
    if kind < 0.4:
        return "".join(random.choices(_SYLLABLES, k=random.randint(2, 4))).capitalize()
    return str(random.randrange(10**6)) if kind < 0.8 else random.choice(_EXTRAS)


def _prose() -> list[str]:
    """Return the words of Python's documentation of its own language."""
    from pydoc_data.topics import topics

    return " ".join(topics[name] for name in sorted(topics)).split()
