"""A Kubernetes of a few dozen lines for one FineTuneJob: Job controller, scheduler, kubelet and users, all by chance.

It carries out plans as the operator's writer does and checks, at every step, what must hold whatever happens. It
knows of Jobs and pods only what the decisions rely on, and plays it as unkindly as Kubernetes may: pods fail with any
code, nodes are lost, Jobs and pods are deleted by somebody, and the operator dies between its writes.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from reconcile_builders import SETTINGS, T0, job, spec

from finetune_api.reasons import Phase
from finetune_api.stage import Stage
from finetune_operator.manifests.names import ATTEMPT_LABEL, STAGE_LABEL
from finetune_operator.model import ChildJob, ChildPod, FineTuneJob, JobCondition, Observed, Plan, Terminated
from finetune_operator.reconcile import reconcile

CODES = (1, 64, 65, 75, 75, 76, 77, 134, 137, 143)
ORDER = (Phase.PREPARING, Phase.STARTING, Phase.RUNNING, Phase.EXPORTING)


@dataclass
class FakeCluster:
    """One FineTuneJob, its Jobs and pods, and the time; `chaos` is the share of steps that go wrong."""

    random: Random
    chaos: float
    now: datetime = T0
    owner: FineTuneJob = field(default_factory=lambda: job(spec=spec(preRunningDeadlineSeconds=600)))
    jobs: dict[str, ChildJob] = field(default_factory=dict)
    pods: dict[str, ChildPod] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    serial: int = 0
    phases: list[Phase] = field(default_factory=list)
    writes: int = 0

    def observe(self) -> Observed:
        """What the operator sees."""
        return Observed(
            job=self.owner, settings=SETTINGS, jobs=tuple(self.jobs.values()), pods=tuple(self.pods.values())
        )

    def operate(self) -> Plan:
        """One pass of the operator, with what must hold of its plan."""
        seen = self.observe()
        plan = reconcile(seen, self.now)
        self._check(seen, plan)
        self.writes += plan.status != self.owner.status
        if plan.status.phase is not self.owner.status.phase:
            self.phases.append(plan.status.phase)
        self.owner = replace(self.owner, status=plan.status)
        if self.random.random() >= self.chaos / 5:  # else it died after the status was written
            self._apply(plan)
        return plan

    def _check(self, seen: Observed, plan: Plan) -> None:
        old, new = seen.job.status, plan.status
        assert new.attempt >= old.attempt
        assert new.attempt <= old.attempt + 1
        assert new.restarts.total >= old.restarts.total
        assert new.restarts.counted <= 3
        assert new.start_time is not None
        assert new.message or old.phase.is_terminal
        if old.phase.is_terminal:
            assert new == old
        if new.phase.is_terminal:
            assert plan.children == ()
        if any(child["kind"] in ("Job", "Pod") for child in plan.children):
            assert all(pod.is_terminal for pod in seen.pods), "a child while a pod lives"
        for child in plan.children:
            assert child["metadata"]["name"] not in {**self.jobs, **self.pods}, "a child is created once"
        again = reconcile(replace(seen, job=replace(seen.job, status=new)), self.now)
        if new.phase is old.phase:
            assert (again.status, again.events) == (new, ()), "a second look changes nothing"

    def _apply(self, plan: Plan) -> None:
        for delete in plan.deletes:
            if delete.kind == "Job":
                self._delete_job(self.jobs[delete.name])
            else:
                self.pods.pop(delete.name)
        for child in plan.children:
            if child["kind"] in ("Job", "Pod"):
                self._create(child)

    def _create(self, manifest: dict) -> None:
        labels, name = manifest["metadata"]["labels"], manifest["metadata"]["name"]
        stage, attempt = Stage(labels[STAGE_LABEL]), int(labels[ATTEMPT_LABEL])
        self.serial += 1
        uid = f"{name}-{self.serial}"
        if manifest["kind"] == "Pod":
            self.pods[name] = ChildPod(name=name, uid=uid, job=name, stage=stage, attempt=attempt)
            return
        self.jobs[name] = ChildJob(name=name, uid=uid, stage=stage, attempt=attempt)
        self.sizes[name] = manifest["spec"]["completions"]

    def step(self) -> None:
        """One thing happens in the cluster, and time goes on."""
        self.now += timedelta(seconds=self.random.choice((1, 2, 5, 20)))
        if self.random.random() < self.chaos:
            self._misfortune()
        else:
            self._work()
        self._control_jobs()
        live = {pod.job for pod in self.pods.values() if not pod.is_terminal}
        assert len(live) <= 1, "never two live Jobs"

    def _work(self) -> None:
        """A pod takes its next usual step."""
        for pod in list(self.pods.values()):
            if pod.phase == "Pending":
                placed = replace(pod, node=f"n{pod.index}") if not pod.node else replace(pod, phase="Running")
                self.pods[pod.name] = placed
            elif pod.phase == "Running" and self.random.random() < 0.3:
                self._end(pod, 75 if pod.deletion_timestamp else 0)

    def _misfortune(self) -> None:
        if self.random.random() < 0.1:
            self.set_suspend(not self.owner.spec.get("suspend", False))
        live = [pod for pod in self.pods.values() if not pod.is_terminal]
        if not live:
            return
        pod = self.random.choice(live)
        match self.random.randrange(6):
            case 0 | 1:
                self._end(pod, self.random.choice(CODES))
            case 2:
                self._end(pod, 137, reason="OOMKilled" if self.random.random() < 0.3 else "Error")
            case 3:
                evicted = replace(pod, disruption="EvictionByEvictionAPI", deletion_timestamp=self.now)
                self._end(evicted, 143)
            case 4:
                self.pods.pop(pod.name)
            case 5:
                self._delete_job(self.jobs[pod.job]) if pod.job in self.jobs else self.pods.pop(pod.name)

    def set_suspend(self, suspend: bool) -> None:
        """The user suspends the job or lets it go on."""
        self.owner = replace(self.owner, spec={**self.owner.spec, "suspend": suspend})

    def _end(self, pod: ChildPod, code: int, reason: str = "Error") -> None:
        if pod.phase == "Pending" and code == 0:
            return
        end = Terminated(exit_code=code, reason=reason, finished_at=self.now)
        self.pods[pod.name] = replace(pod, phase="Failed" if code else "Succeeded", terminated=end)

    def _delete_job(self, child: ChildJob) -> None:
        self.jobs.pop(child.name)
        self.pods = {name: pod for name, pod in self.pods.items() if pod.job != child.name or pod.is_terminal}

    def _control_jobs(self) -> None:
        """The Job controller: makes pods, ends the pods of a failed Job, sets conditions when all have ended."""
        for child in list(self.jobs.values()):
            pods = [pod for pod in self.pods.values() if pod.job == child.name]
            wanted = self.sizes[child.name]
            if child.is_complete or child.condition("Failed"):
                continue
            if not pods and not child.failed and child.active == 0:
                self._make_pods(child, wanted)
            elif any(pod.phase == "Failed" for pod in pods) or len(pods) < wanted:
                self._fail_job(child, pods)
            elif all(pod.phase == "Succeeded" for pod in pods):
                self._conclude(child, "Complete")

    def _make_pods(self, child: ChildJob, wanted: int) -> None:
        self.jobs[child.name] = replace(child, active=wanted)
        for index in range(wanted):
            self.serial += 1
            name = f"{child.name}-{index}-{self.serial}"
            made = ChildPod(name=name, job=child.name, stage=child.stage, attempt=child.attempt, index=index)
            self.pods[name] = made

    def _fail_job(self, child: ChildJob, pods: list[ChildPod]) -> None:
        if not child.failure:
            self._conclude(child, "FailureTarget")
        for pod in pods:
            if not pod.is_terminal and pod.deletion_timestamp is None:
                self.pods[pod.name] = replace(pod, deletion_timestamp=self.now + timedelta(seconds=30))
            elif not pod.is_terminal and self.random.random() < 0.5:
                self._end(pod, self.random.choice((75, 137, 143)))
        if all(pod.is_terminal for pod in self.pods.values() if pod.job == child.name):
            self._conclude(self.jobs[child.name], "Failed")

    def _conclude(self, child: ChildJob, kind: str) -> None:
        condition = JobCondition(type=kind, status="True", message="")
        self.jobs[child.name] = replace(child, conditions=(*child.conditions, condition))
