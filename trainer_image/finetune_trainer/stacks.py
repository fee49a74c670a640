"""Where the threads of a process stand, for the log and for a sentence.

A process that hangs in C code, as in a collective, still answers SIGUSR1: the handler is C code too, needs no
interpreter, and writes every thread's stack to standard error.
"""

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

STANDARD_ERROR = 2
_OURS = __name__.partition(".")[0]


def answer_signals() -> None:
    """Write all stacks to standard error on SIGUSR1, and before the process dies of a fault such as SIGSEGV."""
    faulthandler.enable(STANDARD_ERROR)
    faulthandler.register(signal.SIGUSR1, STANDARD_ERROR, all_threads=True)


def of_threads() -> dict[str, list[str]]:
    """Return the stack of each thread by its name, outermost frame first; no source file is opened for it."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        f"{names.get(ident, 'unknown')} {ident}": [_place(frame) for frame in reversed(list(_outwards(top)))]
        for ident, top in sys._current_frames().items()
    }


def main_thread_place() -> str:
    """Return where the main thread stands: its innermost frame and, if that is not ours, our innermost one."""
    frames = list(_outwards(sys._current_frames().get(threading.main_thread().ident or 0)))
    if not frames:
        return "no known place"
    ours = next((frame for frame in frames if _module(frame) == _OURS), frames[0])
    inner = _place(frames[0])
    return inner if ours is frames[0] else f"{inner}, called from {_place(ours)}"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_qualname} ({_short(code.co_filename)}:{frame.f_lineno})"


def _short(path: str) -> str:
    """Return a path below the folder that Python imports it from."""
    roots = sorted((root for root in sys.path if root and path.startswith(f"{root}/")), key=len)
    return path[len(roots[-1]) + 1 :] if roots else path
