"""One run: a fresh control plane, one contender, N jobs, a quiet minute, a restart."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from bench_harness.errors import BenchError
from bench_harness.proc import children, cpu_seconds, memory_mb, read_clock, started_at
from finetune_loopback.controller_manager import RAISED_LIMITS, make_namespace, running_controller_manager
from finetune_loopback.kube_api import running_kube_api
from finetune_loopback.kwok import make_nodes, running_kwok
from finetune_loopback.scheduler import DEFAULT_QPS, RAISED_QPS, running_scheduler
from operator_bench.contender import AFTER, JOBS, Contender, Setting
from operator_bench.load import create_all
from operator_bench.observer import Sightings, observing
from operator_bench.profile import profiling

NODES = 50
POD_SECONDS = 1.0
SETTLE_SECONDS = 3.0
"""Between the last end and the readings: status writes and Events of the last jobs are still under way."""
RESTART_SECONDS = 15.0
"""After the restarted contender is ready and has served a new job: what it writes by then counts."""
STOP_SECONDS = 40
CONTROL_PLANE = {
    "etcd": "etcd",
    "kube-apiserver": "kube-apiserver",
    "kube-controller": "kube-controller-manager",
    "kube-scheduler": "kube-scheduler",
    "kwok": "kwok",
}
"""Programs by what the kernel calls them."""


@dataclass(frozen=True)
class Plan:
    """What every run of a campaign has in common."""

    jobs: int
    raised: bool
    source: Path
    idle_seconds: float = 60.0
    profile: Path | None = None

    @property
    def patience(self) -> float:
        """Seconds that all jobs may take: plain Jobs in threes need 1.2 s each under the default limits."""
        return 300 + 3.0 * self.jobs


@dataclass
class Window:
    """A span of time on both clocks."""

    begin: float = field(default_factory=time.time)
    end: float = 0.0

    def close(self) -> None:
        """End it now."""
        self.end = time.time()

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin


@dataclass
class Readings:
    """Everything that was read during a run."""

    audit_log: Path
    pid: int = 0
    sent: dict[str, float] = field(default_factory=dict)
    created_at: float = 0.0
    """When all of them were there."""
    seen: Sightings = field(default_factory=Sightings)
    load: Window = field(default_factory=Window)
    idle: Window = field(default_factory=Window)
    restart: Window = field(default_factory=Window)
    cpu: dict[str, float] = field(default_factory=dict)
    """CPU seconds of each program while the jobs ran."""
    contender_cpu: float = 0.0
    idle_cpu: float = 0.0
    restart_cpu: float = 0.0
    peak_mb: float = 0.0
    idle_mb: float = 0.0
    restart_mb: float = 0.0
    others: float = 0.0
    ready_after: float = 0.0
    first_pod_after: float = 0.0


class Run:
    """One contender on a fresh control plane."""

    def __init__(self, contender: Contender, plan: Plan, directory: Path) -> None:
        self.contender = contender
        self.plan = plan
        self.directory = directory

    def measure(self) -> Readings:
        """Do the whole run. Raises BenchError or ServerError when it cannot be counted."""
        with contextlib.ExitStack() as stack:
            setting = stack.enter_context(self._control_plane())
            readings = Readings(setting.api.audit_log)
            with contextlib.ExitStack() as first:
                process = first.enter_context(self.contender.start(setting))
                driver = [stack.enter_context(self.contender.driver(setting))] if self.contender.driver else []
                make_nodes(setting.api, NODES)
                for namespace in (JOBS, AFTER):
                    make_namespace(setting.api, namespace)
                self._load(setting, readings, process=process, driver=driver)
                self._idle(readings, pids=[process.pid, *driver])
                _stop(process)
            self._restart(setting, readings, driver=driver)
        return readings

    @contextlib.contextmanager
    def _control_plane(self) -> Iterator[Setting]:
        flags, qps = (RAISED_LIMITS, RAISED_QPS) if self.plan.raised else ((), DEFAULT_QPS)
        with contextlib.ExitStack() as stack:
            api = stack.enter_context(running_kube_api(self.directory, audit_reads=True, service_accounts=True))
            stack.enter_context(running_scheduler(api, self.directory / "scheduler", qps=qps))
            stack.enter_context(running_kwok(api, self.directory / "kwok", run_seconds=POD_SECONDS))
            setting = Setting(api, self.directory, self.plan.source, flags)
            # Before kube-controller-manager, as on any cluster: its garbage collector learns of new kinds every 30 s,
            # and until then asks for the owner of each object that it sees.
            self.contender.install(setting)
            if not self.contender.is_controller_manager:
                directory = self.directory / "controller-manager"
                stack.enter_context(running_controller_manager(api, directory, flags=flags))
            yield setting

    def _load(self, setting: Setting, readings: Readings, *, process: "Popen[bytes]", driver: list[int]) -> None:
        pids = [process.pid, *driver]
        bodies = {name: self.contender.body(name) for name in (f"job-{index:05}" for index in range(self.plan.jobs))}
        path = self.contender.kind.collection(JOBS)
        with (
            observing(setting.api, self.contender.kind_name, namespace=JOBS, jobs=self.plan.jobs) as observer,
            profiling(pids[0], self.plan.profile),
        ):
            clock, before, programs = read_clock(), _cpu(pids), _programs()
            readings.load = Window()
            readings.sent = create_all(setting.api, path, bodies)
            readings.created_at = time.monotonic()
            readings.seen = observer.await_end(self.plan.patience, process)
            time.sleep(SETTLE_SECONDS)
            readings.load.close()
            readings.contender_cpu = _cpu(pids) - before
            readings.cpu = {name: seconds - programs.get(name, 0.0) for name, seconds in _programs().items()}
            readings.others = read_clock().others_since(clock)
        readings.peak_mb = memory_mb(pids, "VmHWM")
        if readings.seen.failed:
            raise BenchError(f"{len(readings.seen.failed)} jobs failed, e.g. {readings.seen.failed[0]}")

    def _idle(self, readings: Readings, *, pids: list[int]) -> None:
        before, readings.idle = _cpu(pids), Window()
        time.sleep(self.plan.idle_seconds)
        readings.idle.close()
        readings.idle_cpu = _cpu(pids) - before
        readings.idle_mb = memory_mb(pids, "VmRSS")

    def _restart(self, setting: Setting, readings: Readings, *, driver: list[int]) -> None:
        """Start the contender again among its ended jobs; a new job is waiting for it."""
        with contextlib.ExitStack() as stack:
            kind = self.contender.kind
            observer = stack.enter_context(observing(setting.api, self.contender.kind_name, namespace=AFTER, jobs=1))
            create_all(setting.api, kind.collection(AFTER), {"after": self.contender.body("after")})
            readings.restart = Window()
            process = stack.enter_context(self.contender.start(setting))
            ready, started = time.monotonic(), started_at(process.pid)
            seen = observer.await_end(self.plan.patience, process)
            time.sleep(RESTART_SECONDS)
            readings.restart.close()
            readings.ready_after = ready - started
            readings.first_pod_after = seen.first_pod["after"] - started
            readings.restart_cpu = cpu_seconds(process.pid)
            readings.restart_mb = memory_mb([process.pid, *driver], "VmHWM")
            _stop(process)


def _cpu(pids: list[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)


def _programs() -> dict[str, float]:
    """Return the CPU seconds of the control plane's programs."""
    below = children(os.getpid())
    return {CONTROL_PLANE[name]: cpu_seconds(pid) for pid, name in below.items() if name in CONTROL_PLANE}


def _stop(process: "Popen[bytes]") -> None:
    """End a process as a rollout does. Raises BenchError when it does not go."""
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except TimeoutExpired:
        raise BenchError(f"process {process.args!r} does not end within {STOP_SECONDS} s of SIGTERM") from None
