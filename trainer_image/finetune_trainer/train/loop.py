"""The training loop: from a step to the last one, with its evaluations and commits.

All decisions that touch a collective (evaluate, commit, stop) are taken by every process from the same numbers at
the same step.
"""

from typing import NoReturn

import numpy as np
import torch

from finetune_api.status import Validation
from finetune_trainer import log
from finetune_trainer.checkpoint import CommitMeta
from finetune_trainer.errors import StopRequested
from finetune_trainer.model.flops import count_flops
from finetune_trainer.train.cadence import commit_due, evaluates, is_better
from finetune_trainer.train.early_stopping import is_over, scored
from finetune_trainer.train.ending import diverged, no_number, stopped
from finetune_trainer.train.evaluation import evaluate
from finetune_trainer.train.processes import anywhere, from_rank_zero, meet
from finetune_trainer.train.report import Reporter
from finetune_trainer.train.run import Run
from finetune_trainer.train.sampler import Sampler
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.spikes import noted, spike
from finetune_trainer.train.state import RunState
from finetune_trainer.train.step import Step, train_step
from finetune_trainer.train.suspects import log_rows, named, suspects
from finetune_trainer.train.sync import Outcome, StepSync, Votes

_STOP_DRAIN_SECONDS = 35.0
"""After SIGTERM, for the upload in flight and then for the last one: both and the save between fit the grace."""
_DIVERGED_DRAIN_SECONDS = 30.0
_SETTLE_LOOK_SECONDS = 5.0


class Loop:
    """Trains from `done` steps to the last one."""

    def __init__(
        self, run: Run, saver: Saver, reporter: Reporter | None, state: RunState, sampler: Sampler | None = None
    ) -> None:
        self.done = saver.saved
        self._run = run
        self._saver = saver
        self._reporter = reporter
        self._sampler = sampler
        self.state = state
        self._evaluated_at: int | None = None
        """Steps done at the newest evaluation of this attempt."""
        self._sync = StepSync(run.process.device)
        self._flops = count_flops(run.engine.module.transformer, trains_inputs=run.spec.method.virtual_tokens > 0)
        self._steps: dict[int, Step] = {}
        """By the steps done with each: those whose outcome is not known yet."""

    def train(self) -> None:
        """Train to the end, with a commit there. Raises StageFailure when stopped or diverged."""
        if self._reporter is not None:
            self._reporter.begin(self.done, self.state.eval_loss, self._saver.last, self._saver.best)
        self._run.watchdog.pace.begin()
        with self._run.stop.deferred():
            self._train()

    def _train(self) -> None:
        total, evaluation = self._run.data.schedule.total_steps, self._run.spec.evaluation
        while self.done < total and not is_over(self.state, evaluation.early_stopping):
            self._step()
            is_scored = evaluates(self.done, total_steps=total, every_steps=evaluation.every_steps)
            outcomes = self._outcomes(flush=is_scored)
            if any(outcome.votes.stop for outcome in outcomes):
                self._end_early()
            improved = self._evaluate() if is_scored else False
            if is_scored and self._sampler is not None:
                self._sample(self._sampler)
            due = any(outcome.votes.due and outcome.done > self._saver.saved for outcome in outcomes)
            if self.done == total or is_over(self.state, evaluation.early_stopping):
                self._settle()
                self._save()
                self._settle()
            elif due or improved:
                self._commit(improved=improved)
        if self.done < total and self._reporter is not None:
            self._reporter.stopped_early(self.done)
        self._tell_commits()

    def _step(self) -> None:
        """Do one optimizer step and hand in its sums."""
        step = train_step(self._run, self.done)
        self.done += 1
        self._run.watchdog.step(self.done)
        self._steps[self.done] = step
        self._sync.push(self.done, torch.stack(step.losses).sum(), step.grad_norm, self._votes())

    def _votes(self) -> Votes:
        due = self._run.process.rank == 0 and commit_due(
            self._run.spec.checkpoint,
            done=self.done,
            saved=self._saver.saved,
            seconds_since_save=self._saver.seconds_since_save,
        )
        return Votes(stop=self._run.stop.requested, due=due, busy=self._saver.busy)

    def _outcomes(self, *, flush: bool) -> list[Outcome]:
        """Return the steps whose outcome is known, after a look at each."""
        outcomes = self._sync.ready(flush=flush)
        for outcome in outcomes:
            step = self._steps.pop(outcome.done)
            self._look(outcome, step)
            self._tell(outcome, step)
        return outcomes

    def _look(self, outcome: Outcome, step: Step) -> None:
        """Go on only if the numbers of a step are sound."""
        settings, loss = self._run.spec.training.loss_spike, step.mean(outcome.loss_sum)
        if not outcome.is_finite:
            self._diverged(step, no_number(outcome))
        if jump := spike(self.state, loss, settings):
            self._diverged(step, f"the loss of step {outcome.done} is {jump}")
        self.state = noted(self.state, loss, settings)

    def _tell(self, outcome: Outcome, step: Step) -> None:
        if self._reporter is None:
            return
        run, train = self._run, self._run.data.train
        rows = np.concatenate(run.data.batches.sequences(run.data.schedule, step.index))
        lengths = train.lengths[rows]
        self._tell_commits()
        self._reporter.step(
            outcome.done,
            loss=step.mean(outcome.loss_sum),
            learning_rate=run.learning_rate(step.index),
            grad_norm=outcome.grad_norm,
            tokens=int(lengths.sum()),
            flops=None if self._flops is None else self._flops.of(lengths, int(train.supervised_counts[rows].sum())),
            waited=step.waited,
            median_seconds=run.watchdog.pace.median,
        )

    def _tell_commits(self) -> None:
        if self._saver.news() and self._reporter is not None:
            self._reporter.commits(self._saver.last, self._saver.best)

    def _evaluate(self) -> bool:
        """Score the validation rows; return whether no commit has better scores, nor one that is being uploaded."""
        try:
            found = evaluate(self._run, self._run.data.validation, f"while it evaluates after step {self.done}")
        except StopRequested:
            self._end_early()
        if found is None:
            return False
        validation, settings = found.validation, self._run.spec.evaluation
        self._evaluated_at = self.done
        self.state = scored(self.state, validation, settings)
        # Only rank 0 hears of commits, and of uploads that failed.
        standing = self._saver.standing
        improved = from_rank_zero(is_better(validation, standing, settings.best_metric))
        if self._reporter is not None:
            self._reporter.evaluation(self.done, validation, validation if improved else standing or validation)
        return improved

    def _sample(self, sampler: Sampler) -> None:
        """Tell what the model answers now."""
        answers = sampler.answers(f"while it answers the sample prompts after step {self.done}")
        if self._reporter is not None and answers:
            for prompt, answer in zip(self._run.spec.evaluation.sample_prompts, answers, strict=True):
                self._reporter.sample(self.done, prompt, answer)

    def _commit(self, *, improved: bool) -> None:
        """Save; while an upload is in flight, wait for it if the scores are the best so far, else leave it."""
        # What is saved must be known to be sound, and busy must be as every process sees it now.
        self._outcomes(flush=True)
        if anywhere(self._saver.busy, self._run.process):
            if not improved:
                log.warning("checkpoint-postponed", step=self.done, cause="the upload before is still in flight")
                return
            log.warning(
                "waits-for-upload",
                step=self.done,
                upload=self._saver.saved,
                hint="its scores are the best so far; if this comes often, raise spec.evaluation.everySteps",
            )
            self._settle()
        self._save()

    def _save(self) -> None:
        run = self._run
        meta = CommitMeta(
            zero_stage=run.plan.zero_stage,
            consumed_sequences=run.data.schedule.cursor(self.done),
            config_digest=run.config_digest,
            validation=Validation(**self.state.scores) if self._evaluated_at == self.done else Validation(),
        )
        with run.watchdog.during(f"while it saves after step {self.done}", slow=True):
            self._saver.save(self.done, self.state, meta)
            # Rank 0 alone writes the whole weights: in the next step the others would take that for a hang.
            meet(run.process)

    def _settle(self) -> None:
        """Wait until no upload is in flight; each ends, well or badly, by its own deadlines."""
        run = self._run
        with run.watchdog.during(f"while the checkpoint of step {self._saver.saved} is uploaded", slow=True):
            while not self._saver.drain(_SETTLE_LOOK_SECONDS):
                if anywhere(run.stop.requested, run.process):
                    self._end_early()
                if self._saver.moves():
                    run.watchdog.beat()

    def _end_early(self) -> NoReturn:
        """Commit if the grace allows it, and end with exit code 75."""
        self._outcomes(flush=True)
        stuck = not self._saver.drain(_STOP_DRAIN_SECONDS)
        if not stuck and self.done > self._saver.saved:
            self._save()
            stuck = not self._saver.drain(_STOP_DRAIN_SECONDS)
        self._tell_commits()
        raise stopped(self._saver, done=self.done, stuck=stuck)

    def _diverged(self, step: Step, what: str) -> NoReturn:
        """End with exit code 77 and name the rows that are suspected."""
        found, places = suspects(self._run, step), self._run.data.places
        if self._run.process.rank == 0:
            log_rows(found, places, step=step.index + 1)
        self._saver.drain(_DIVERGED_DRAIN_SECONDS)
        self._tell_commits()
        raise diverged(self._saver, what, named(found, places))
