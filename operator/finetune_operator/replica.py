"""One replica of the operator: its parts, made and wired, not yet started."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from datetime import datetime

from finetune_operator.apply import Writer
from finetune_operator.discovery import Discovery
from finetune_operator.handlers import kopf_settings
from finetune_operator.health import Health
from finetune_operator.job_metrics import JobMetrics
from finetune_operator.kube import Kube
from finetune_operator.leader import Leader
from finetune_operator.metrics import Metrics
from finetune_operator.model import PodSettings
from finetune_operator.observe import Observer
from finetune_operator.progress import ProgressServer
from finetune_operator.reconcile import reconcile
from finetune_operator.records import RawJob
from finetune_operator.refusals import RefusalBook
from finetune_operator.relist import Lister
from finetune_operator.samples import SampleBook
from finetune_operator.settings import Settings
from finetune_operator.standby import Standby
from finetune_operator.store import Store
from finetune_operator.tls import Certificate
from finetune_operator.tokens import TokenReviewer
from finetune_operator.worker import Worker, utc_now
from finetune_operator.workqueue import Timer, WorkQueue

SPARE_CONNECTIONS = 4
"""Connections beyond the workers': token reviews and lists must not wait for slow workers."""

logger = logging.getLogger(__name__)


class Replica:
    """One replica: its parts, wired. Its two clocks are the event loop's and the system's, or a test's."""

    def __init__(
        self, settings: Settings, *, timer: Timer | None = None, now: Callable[[], datetime] = utc_now
    ) -> None:
        timer = timer or asyncio.get_running_loop()
        self._now = now
        self.settings = settings
        self.identity = f"{settings.pod_name}_{uuid.uuid4().hex[:8]}"
        self.stop = asyncio.Event()
        self.primed = asyncio.Event()
        self.kopf_settings = kopf_settings()
        self.metrics = Metrics()
        self.store = Store()
        self.queue = WorkQueue(timer)
        self.samples = SampleBook(self.queue, clock=timer.time)
        self.refusals = RefusalBook()
        self.kube = self._session(settings.workers + SPARE_CONNECTIONS)
        self.lease_kube = self._session(1)
        self.certificate = Certificate(
            cert_file=settings.tls_cert_file, key_file=settings.tls_key_file, ca_file=settings.tls_ca_file
        )
        self.leader = Leader(
            self.lease_kube,
            namespace=settings.operator_namespace,
            name=settings.lease_name,
            identity=self.identity,
            address=_address(settings),
        )
        self.kube.write_guard = self.leader.holds
        self.lister = Lister(
            self.kube,
            store=self.store,
            queue=self.queue,
            metrics=self.metrics,
            namespaces=settings.watch_namespaces,
        )
        self.discovery = Discovery(self.kube)
        self.health = Health(
            oldest_age=self.queue.oldest_age,
            failed_relists=lambda: self.lister.failures,
            holds_lease=self.leader.holds,
            stands_by=lambda: bool(self.leader.address_of_other()),
        )
        self.observer = Observer(
            store=self.store, samples=self.samples, refusals=self.refusals, settings=self.pod_settings()
        )
        self.metrics.watch_state(jobs=self._phases, depth=self.queue.depth, age=self.queue.oldest_age)
        self.metrics.watch_replica(leads=self.leader.holds, certificate_end=lambda: self.certificate.end)
        self.metrics.registry.register(JobMetrics(self.store.jobs, limit=settings.metrics_job_limit))

    def pod_settings(self) -> PodSettings:
        """Return what the manifests take from the settings and the certificate."""
        return PodSettings(
            trainer_image=self.settings.trainer_image,
            progress_url=self.settings.progress_url,
            progress_ca=self.certificate.authority,
            stage_resources=self.settings.stage_resources,
            prices=self.settings.prices,
            operator_namespace=self.settings.operator_namespace,
            allow_privileged=self.settings.allow_privileged_fields,
            api_versions=self.discovery.api_versions,
            network_policies=self.settings.job_network_policies,
            network_ports=self.settings.job_network_ports,
            force_delete_after=self.settings.force_delete_after_seconds,
        )

    def worker(self) -> Worker:
        """Return what the worker tasks run."""
        writer = Writer(
            self.kube,
            store=self.store,
            refusals=self.refusals,
            metrics=self.metrics,
            identity=self.identity,
        )
        return Worker(
            queue=self.queue,
            observer=self.observer,
            writer=writer,
            samples=self.samples,
            refusals=self.refusals,
            metrics=self.metrics,
            decide=reconcile,
            now=self._now,
        )

    def progress_server(self) -> ProgressServer:
        """Return the progress server."""
        return ProgressServer(
            store=self.store,
            reviewer=TokenReviewer(self.kube, metrics=self.metrics),
            samples=self.samples,
            metrics=self.metrics,
            is_ready=self.health.is_ready,
        )

    def standby(self) -> Standby:
        """Return what takes progress until this replica leads."""
        return Standby(
            leader_address=self.leader.address_of_other,
            certificate=self.certificate,
            progress_url=self.settings.progress_url,
        )

    async def prime(self) -> None:
        """Fill the store, then let the workers and the relist go."""
        await self.lister.prime()
        await self.discovery.prime()
        self.observer.settings = self.pod_settings()
        self.observer.listening_since = self._now()
        self.health.primed = True
        self.primed.set()
        logger.info("the store is primed; serving")

    def _session(self, connections: int) -> Kube:
        return Kube(self.kopf_settings, connections=connections, metrics=self.metrics)

    def _phases(self) -> list[tuple[str, str]]:
        jobs = ((entry.key.namespace, entry.record) for entry in self.store.jobs())
        return [(namespace, record.phase) for namespace, record in jobs if isinstance(record, RawJob)]


def _address(settings: Settings) -> str:
    """Return where this replica takes progress, as it stands in a URL; empty when it is not told its address."""
    host = f"[{settings.pod_ip}]" if ":" in settings.pod_ip else settings.pod_ip
    return f"{host}:{settings.progress_port}" if host else ""
