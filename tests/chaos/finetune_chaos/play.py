"""One round: a job, a fault in the middle of its life, its end, and everything that must hold then."""

import time
from dataclasses import dataclass, field

from finetune_cluster.layout import Layout

from finetune_api.reasons import Phase
from finetune_api.status import FineTuneJobStatus
from finetune_chaos.deck import Round
from finetune_chaos.evidence import keep_evidence
from finetune_chaos.expectation import unexpected
from finetune_chaos.fault import MissedError, Target
from finetune_chaos.health import await_health
from finetune_chaos.life import Life
from finetune_chaos.node_faults import kill_rank
from finetune_chaos.results import missing_results, model_digests
from finetune_chaos.rules import losses_apart, miscounts
from finetune_chaos.watcher import Watcher
from finetune_chaos.workload import STEPS, Workload

PHASE_SECONDS = 180.0
HEALTH_SECONDS = 180.0
DELETION_SECONDS = 180.0
UNDISTURBED_SECONDS = 300.0


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run of the same job came to."""

    status: FineTuneJobStatus
    digests: dict[str, str]
    seconds: float


@dataclass
class Outcome:
    """What came of a round."""

    phase: str = ""
    reason: str = ""
    struck_in: str = ""
    missed: str = ""
    attempt: int = 0
    restarts: int = 0
    counted: int = 0
    identical: bool | None = None
    """Whether the weights are those of the undisturbed run, bit by bit."""
    seconds: float = 0.0
    after_strike: float = 0.0
    """Seconds from the strike to the end of the job."""
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Arena:
    """Where the rounds are played."""

    workload: Workload
    watcher: Watcher
    layout: Layout

    def submit(self, name: str, steps: int = STEPS) -> Life:
        """Create a job and return its life."""
        self.workload.submit(name, steps)
        life = Life(name, self.workload.kube, self.watcher)
        self.watcher.wait_until(lambda: self.watcher.status(name) is not None, PHASE_SECONDS)
        return life

    def undisturbed(self) -> Reference:
        """Run a job that nothing happens to. Raises RuntimeError when it does not succeed."""
        life = self.submit("undisturbed")
        life.await_end(UNDISTURBED_SECONDS)
        seconds, status = time.monotonic() - life.started, life.status
        found = [*self.watcher.violations(life.name), *life.untruths()]
        if status.phase is not Phase.SUCCEEDED or found:
            raise RuntimeError(f"the undisturbed job ended {status.phase}: {status.message}; {'; '.join(found)}")
        with self.workload.s3() as client:
            digests = model_digests(client, status)
        life.delete()
        return Reference(status, digests, seconds)

    def play(self, one: Round, reference: Reference, outcome: Outcome) -> None:
        """Play a round and fill in what came of it. Raises UnhealthyError when the cluster does not mend."""
        life = self.submit(one.job, one.fault.steps)
        target = Target(life, self.workload.kube, self.layout, one.random)
        struck = self._strike(one, target, outcome)
        left = one.fault.seconds - (time.monotonic() - struck)
        if not life.await_end(max(left, 0)):
            outcome.violations.append(f"not over {one.fault.seconds:.0f} s after the strike: {life.status.message}")
        outcome.after_strike = round(time.monotonic() - struck, 1)
        self._judge(one, life, outcome, reference)
        if outcome.violations or self.watcher.violations(life.name):
            keep_evidence(self.watcher, one, [*outcome.violations, *self.watcher.violations(life.name)])
        self._clean(life, outcome)
        outcome.seconds = round(time.monotonic() - life.started, 1)

    def _strike(self, one: Round, target: Target, outcome: Outcome) -> float:
        """Strike, hold, undo and wait until the cluster is whole; return when it was struck."""
        life = target.life
        if one.phase is Phase.RESTARTING and life.await_phase(Phase.RUNNING, PHASE_SECONDS):
            kill_rank(target)
        if one.phase is not Phase.PENDING and not life.await_phase(one.phase, PHASE_SECONDS):
            outcome.missed = f"never {one.phase}"
        self.watcher.wait_until(lambda: life.is_over, one.delay)
        struck = time.monotonic()
        outcome.struck_in = str(life.status.phase)
        try:
            undo = one.fault.strike(target)
        except MissedError as missed:
            outcome.missed = str(missed)
            return struck
        try:
            self._hold(one, life)
        finally:
            undo()
        outcome.missed = ""
        await_health(self.workload.kube, HEALTH_SECONDS)
        if one.fault.ends is not None:
            outcome.violations += life.untruths()
        return struck

    def _hold(self, one: Round, life: Life) -> None:
        if one.fault.until_over:
            life.await_end(one.hold)
        else:
            time.sleep(one.hold)

    def _judge(self, one: Round, life: Life, outcome: Outcome, reference: Reference) -> None:
        status = life.status
        outcome.phase, outcome.reason = str(status.phase), str(status.reason)
        outcome.attempt, outcome.restarts = status.attempt, status.restarts.total
        outcome.counted = status.restarts.counted
        if one.fault.ends is None and not outcome.missed:
            outcome.phase = "gone" if self.watcher.status(life.name) is None else outcome.phase
        else:
            outcome.violations += life.untruths()
            outcome.violations += unexpected(one, status, missed=bool(outcome.missed))
        if status.phase is Phase.SUCCEEDED:
            outcome.violations += miscounts(status, resumes=life.resumes) + losses_apart(status, reference.status)
            with self.workload.s3() as client:
                outcome.violations += missing_results(client, status)
                outcome.identical = model_digests(client, status) == reference.digests

    def _clean(self, life: Life, outcome: Outcome) -> None:
        life.delete()
        outcome.violations += life.leftovers(DELETION_SECONDS)
        outcome.violations = list(dict.fromkeys([*outcome.violations, *self.watcher.violations(life.name)]))
