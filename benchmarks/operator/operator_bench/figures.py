"""The figures of a run from its readings, and of a campaign from its runs."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from operator_bench.audit import between, by_kind, by_user, read_requests
from operator_bench.contender import JOBS, Contender
from operator_bench.run import Readings

Figures = dict[str, Any]
FIGURES = (
    "p50_first_pod_s",
    "p99_first_pod_s",
    "all_done_s",
    "writes_per_job",
    "events_per_job",
    "cpu_s",
    "all_cpu_s",
    "rss_mb",
    "idle_requests_per_min",
    "restart_writes",
    "restart_ready_s",
    "restart_first_pod_s",
)
"""What every contender is compared by."""
MORE_FIGURES = (
    "create_s",
    "idle_lease_requests_per_min",
    "idle_cpu_percent",
    "idle_rss_mb",
    "restart_rss_mb",
    "restart_cpu_s",
    "refused_writes_per_job",
    "pods_per_job",
    "others_cpu_percent",
)
"""What explains the others."""


def quantile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def figures_of(contender: Contender, readings: Readings) -> Figures:
    """Return a run's figures, rounded to what the clocks can tell."""
    jobs = len(readings.sent)
    requests = read_requests(readings.audit_log)
    load = between(requests, readings.load.begin, readings.load.end)
    own = [one for one in load if contender.is_writer(one.user)]
    idle = [one for one in between(requests, readings.idle.begin, readings.idle.end) if contender.is_writer(one.user)]
    again = between(requests, readings.restart.begin, readings.restart.end)
    again = [one for one in again if contender.is_writer(one.user) and one.namespace == JOBS]
    minutes = readings.idle.seconds / 60
    figures = {
        **_times(readings),
        "writes_per_job": sum(one.is_write for one in own) / jobs,
        "events_per_job": sum(one.is_event for one in own) / jobs,
        "refused_writes_per_job": sum(one.is_write and one.code >= 400 for one in own) / jobs,
        "cpu_s": readings.contender_cpu,
        "all_cpu_s": sum(readings.cpu.values()) + (0 if contender.is_controller_manager else readings.contender_cpu),
        "rss_mb": readings.peak_mb,
        "idle_requests_per_min": sum(not one.is_lease for one in idle) / minutes,
        "idle_lease_requests_per_min": sum(one.is_lease for one in idle) / minutes,
        "idle_cpu_percent": 100 * readings.idle_cpu / readings.idle.seconds,
        "idle_rss_mb": readings.idle_mb,
        "restart_writes": sum(one.is_write for one in again),
        "restart_cpu_s": readings.restart_cpu,
        "restart_rss_mb": readings.restart_mb,
        "pods_per_job": readings.seen.pods / jobs,
        "others_cpu_percent": 100 * readings.others,
    }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    programs = {name: round(seconds, 2) for name, seconds in sorted(readings.cpu.items())}
    own_kinds = by_kind(load, is_writer=contender.is_writer, jobs=jobs)
    return {**rounded, "cpu_by_program": programs, "writes_by_user": by_user(load, jobs=jobs), "writes": own_kinds}


def _times(readings: Readings) -> Figures:
    waits = [readings.seen.first_pod[name] - sent for name, sent in readings.sent.items()]
    began = min(readings.sent.values())
    return {
        "create_s": readings.created_at - began,
        "p50_first_pod_s": quantile(waits, 0.5),
        "p99_first_pod_s": quantile(waits, 0.99),
        "all_done_s": max(readings.seen.ended.values()) - began,
        "restart_ready_s": readings.ready_after,
        "restart_first_pod_s": readings.first_pod_after,
    }


def summarize(runs: Sequence[Figures]) -> Figures:
    """Return the median of every figure of one contender's runs, and its least and greatest as `spread`."""
    names = (*FIGURES, *MORE_FIGURES)
    medians = {name: round(statistics.median(run[name] for run in runs), 3) for name in names}
    spread = {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in names}
    middle = sorted(runs, key=lambda run: run["all_done_s"])[(len(runs) - 1) // 2]
    told = {name: middle[name] for name in ("writes_by_user", "writes", "cpu_by_program")}
    return {**medians, "runs": len(runs), "spread": spread, **told}
