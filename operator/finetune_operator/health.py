"""Health: the small HTTP server of the probes and the metrics.

/healthz   alive: the queue moves, relists work, the workers live. A web server that merely answers proves
           nothing, and that is all kopf's own probe would say.
/readyz    ready: this replica holds the Lease and knows the cluster. A standby is not ready, so that the
           Service sends progress to the leader.
/metrics   Prometheus.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from finetune_operator.metrics import Metrics

OLDEST_KEY_SECONDS = 120.0
FAILED_RELISTS = 2


@dataclass(kw_only=True)
class Health:
    """The facts that the probes tell."""

    oldest_age: Callable[[], float]
    failed_relists: Callable[[], int]
    holds_lease: Callable[[], bool]
    workers_alive: bool = True
    primed: bool = False

    def problems(self) -> list[str]:
        """Return why the process should be restarted; empty while it is well."""
        found = []
        if self.oldest_age() > OLDEST_KEY_SECONDS:
            found.append(f"a job has waited for more than {OLDEST_KEY_SECONDS:.0f} s")
        if self.failed_relists() >= FAILED_RELISTS:
            found.append(f"the last {self.failed_relists()} relists failed")
        if not self.workers_alive:
            found.append("a worker has died")
        return found

    def is_ready(self) -> bool:
        """Return whether this replica serves."""
        return self.primed and self.holds_lease()


def probe_application(health: Health, metrics: Metrics) -> web.Application:
    """Return the web application of the probes and the metrics."""

    async def healthz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(status=500 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    async def readyz(_: web.Request) -> web.Response:
        is_ready = health.is_ready()
        return web.Response(status=200 if is_ready else 503, text="ok\n" if is_ready else "standby\n")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return app
