"""Blocks side by side: in as many processes as there are cores, with the results in the order of the blocks.

How many processes there are changes nothing in the result. Each block is encoded by itself, and what later blocks are
told of earlier ones (no tokens are wanted any more once too many rows are wrong) comes from those at least AHEAD
blocks before, however fast the others are. Memory does not grow with the data: at most AHEAD blocks are under way.

Processes and not threads: only the tokenizer itself works without the interpreter lock, which is half of the work.
They are forked: a new interpreter would import for seconds, and hold by itself the half gigabyte that forked ones
share. What they do takes no lock that a thread of this process may hold: they use no storage, and load their own
tokenizer, which starts no thread in them.
"""

import gc
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from finetune_trainer import log
from finetune_trainer.orphans import die_with
from finetune_trainer.prepare.block_encoder import BlockEncoder, Rules
from finetune_trainer.prepare.blocks import Block
from finetune_trainer.prepare.encoded_block import EncodedBlock

AHEAD = 16
_WORTH_BYTES = 32 * 1024 * 1024
"""Of rows: fewer are encoded before a process has started."""
_UNTOLD = 4
"""Processes of a pod that may use all cores of its node, but not all of the memory."""

Submit = Callable[[Block], "Future[EncodedBlock]"]


def processes_for(size: int) -> int:
    """Return how many processes encode files of `size` bytes: as many as this pod has cores, none for a few rows."""
    told = os.environ.get("OMP_NUM_THREADS", "")  # by the operator, where the pod names its cores
    allowed = int(told) if told.isdigit() else _UNTOLD
    return min(allowed, len(os.sched_getaffinity(0))) if size >= _WORTH_BYTES else 0


def in_order(submit: Submit, blocks: Iterable[Block]) -> Iterator[EncodedBlock]:
    """Yield what becomes of blocks, in their order; blocks are taken AHEAD before their turn."""
    pending: deque[Future[EncodedBlock]] = deque()
    for block in blocks:
        pending.append(submit(block))
        if len(pending) > AHEAD:
            yield _result(pending.popleft())
    while pending:
        yield _result(pending.popleft())


@contextmanager
def encoding(rules: Rules, processes: int) -> Iterator[Submit]:
    """Yield what encodes blocks: this process where there are fewer than two, else so many others."""
    if processes < 2:
        yield _Here(rules).submit
        return
    pool = ProcessPoolExecutor(
        processes, get_context("fork"), initializer=_begin, initargs=(rules, os.getpid(), log.bound())
    )
    try:
        yield lambda block: pool.submit(_encode, block)
    finally:
        pool.shutdown(cancel_futures=True)


class _Here:
    def __init__(self, rules: Rules) -> None:
        self._encoder = BlockEncoder(rules)

    def submit(self, block: Block) -> "Future[EncodedBlock]":
        future: Future[EncodedBlock] = Future()
        future.set_result(self._encoder.encode(block))
        return future


_rules: Rules | None = None
_encoder: BlockEncoder | None = None


def _begin(rules: Rules, parent: int, log_fields: dict[str, Any]) -> None:
    """Set up a process; it loads the tokenizer with its first block, so that a failure is told as that block's."""
    global _rules  # noqa: PLW0603
    die_with(parent)
    gc.disable()  # rows are very many objects; their few cycles are looked for once per block
    gc.freeze()  # what is shared is not garbage, and looking through it would copy its pages
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # that of the stage is told by the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    log.bind(**log_fields)
    log.capture_library_logs()
    _rules = rules


def _encode(block: Block) -> EncodedBlock:
    global _encoder  # noqa: PLW0603
    if _encoder is None:
        assert _rules is not None  # noqa: S101
        _encoder = BlockEncoder(_rules)
        gc.freeze()
    made = _encoder.encode(block)
    gc.collect()
    return made


def _result(future: "Future[EncodedBlock]") -> EncodedBlock:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that encodes rows was ended, most likely for its memory; raise the memory limit of"
            " spec.podTemplate.stageResources"
        ) from error
