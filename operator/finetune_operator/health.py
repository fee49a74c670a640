"""Health: the small HTTP server of the probes and the metrics.

/healthz   alive: the queue moves, relists work, the workers live. A web server that merely answers proves
           nothing, and that is all kopf's own probe would say.
/readyz    ready: this replica holds the Lease and knows the cluster, or it stands by and passes progress on
           to the one that does.
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
    stands_by: Callable[[], bool] = lambda: False
    """Whether another replica leads and its address is known."""
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
        """Return whether this replica leads and serves."""
        return self.primed and self.holds_lease()

    def word(self) -> str:
        """Return what this replica is to the Service: `ok`, `standby`, or empty while it is of no use."""
        if self.is_ready():
            return "ok"
        return "standby" if not self.holds_lease() and self.stands_by() else ""


def probe_application(health: Health, metrics: Metrics) -> web.Application:
    """Return the web application of the probes and the metrics."""

    async def healthz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(status=500 if problems else 200, text="\n".join(problems or ["ok"]) + "\n")

    async def readyz(_: web.Request) -> web.Response:
        word = health.word()
        return web.Response(status=200 if word else 503, text=f"{word or 'not ready'}\n")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", scrape)])
    return app
