"""The operator in this process, in a thread with a loop of its own: all of it, with its parts within reach.

A test looks into the store, or makes a time-out short, which no separate process would let it do. Whatever would end
the operator's process is noted in `ended` instead.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from unittest.mock import patch

from finetune_loopback.certificates import write_certificate
from finetune_loopback.processes import free_ports
from finetune_operator import runtime
from finetune_operator.metrics import Metrics
from finetune_operator.relist import Lister
from finetune_operator.replica import Replica
from finetune_operator.settings import Settings
from finetune_operator.store import Store
from finetune_operator.workqueue import WorkQueue

START_SECONDS = 60.0
CALL_SECONDS = 60.0
END_SECONDS = 40.0
T = TypeVar("T")


class ReplicaEndedError(Exception):
    """Stands for the sudden end of the operator's process."""


class OperatorThread:
    """A running operator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.replica: Replica
        self.ended: list[str] = []
        """Why it ended before it was told to."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def start(self) -> None:
        """Start it and wait until it serves."""
        made = threading.Event()

        def make(settings: Settings) -> Replica:
            self.replica = Replica(settings)
            made.set()
            return self.replica

        with patch.object(runtime, "Replica", make):
            self._thread.start()
            if not made.wait(START_SECONDS):
                raise AssertionError(f"the operator did not start: {self.ended}")
        self.call(asyncio.wait_for(_set(self.replica), START_SECONDS))

    def stop(self) -> None:
        """Tell it to end, and wait for that."""
        self._loop.call_soon_threadsafe(self.replica.stop.set)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            raise AssertionError(f"the operator did not end within {END_SECONDS:.0f} s")

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the operator's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    def store_and_fresh_list(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """Return what the operator's store holds, and what a store holds that was filled by lists just now."""

        async def compare() -> tuple[dict[Any, Any], dict[Any, Any]]:
            fresh = Store()
            lister = Lister(
                self.replica.kube,
                store=fresh,
                queue=WorkQueue(self._loop),
                metrics=Metrics(),
                namespaces=self.settings.watch_namespaces,
            )
            await lister.relist()
            return self.replica.store.entries(), fresh.entries()

        return self.call(compare())

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all series of a metric that bear these labels."""
        return sum(
            sample.value
            for family in self.replica.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            code = self._loop.run_until_complete(runtime.run(self.settings))
            if code:
                self.ended.append(f"exit code {code}")
        except BaseException as error:  # noqa: BLE001 - whatever it was, the test is to be told
            self.ended.append(repr(error))
        finally:
            self._loop.close()


async def _set(replica: Replica) -> None:
    await replica.primed.wait()


def _die(why: str) -> NoReturn:
    raise ReplicaEndedError(why)


def _no_signals(_: Callable[[], None]) -> None:
    """Signals come to the main thread alone."""


@contextlib.contextmanager
def running_operator_thread(
    directory: Path, *, kubeconfig: Path, namespace: str, watch: tuple[str, ...], relist_seconds: float = 300.0
) -> Iterator[OperatorThread]:
    """Run the operator in `namespace` over the watched namespaces until the end of the context."""
    write_certificate(directory)
    probe_port, progress_port = free_ports(2)
    settings = Settings(
        operator_namespace=namespace,
        trainer_image="registry.example/trainer:test",
        progress_url=f"https://127.0.0.1:{progress_port}",
        watch_namespaces=watch,
        tls_cert_file=directory / "tls.crt",
        tls_key_file=directory / "tls.key",
        tls_ca_file=directory / "ca.crt",
        progress_port=progress_port,
        probe_port=probe_port,
        relist_seconds=relist_seconds,
    )
    with (
        patch.dict(os.environ, {"KUBECONFIG": str(kubeconfig)}),
        patch.object(runtime, "_die", _die),
        patch.object(runtime, "_stop_on_signals", _no_signals),
    ):
        operator = OperatorThread(settings)
        operator.start()
        try:
            yield operator
        finally:
            operator.stop()
