"""How a worker begins: model, engine, and the state it goes on from."""

from pathlib import Path
from shutil import rmtree

import torch
from transformers import AutoConfig

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import Commit, Prepared, RunLayout
from finetune_api.stage import StageInput
from finetune_api.status import Plan
from finetune_trainer import log
from finetune_trainer.checkpoint import add_score, fetch_commit, find_commit, read_commits
from finetune_trainer.data.prepared import PreparedFiles
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import method_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model import selfcheck
from finetune_trainer.model.attention import backend_for
from finetune_trainer.model.compile import compile_layers
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.load import DTYPES, load_base
from finetune_trainer.objectives import objective_of
from finetune_trainer.prepare.model_shape import measure, read_config
from finetune_trainer.prepare.plan import Facts
from finetune_trainer.storage import Store
from finetune_trainer.train import gradients, processes
from finetune_trainer.train.attempt_plan import plan_of_attempt
from finetune_trainer.train.cadence import evaluates
from finetune_trainer.train.early_stopping import scored
from finetune_trainer.train.engine import deepspeed_config, start_engine
from finetune_trainer.train.errand import run_errand
from finetune_trainer.train.evaluation import evaluate
from finetune_trainer.train.optimizers import make_optimizer, shapes_in_groups
from finetune_trainer.train.processes import Process
from finetune_trainer.train.rates import rates_of
from finetune_trainer.train.report import Reporter
from finetune_trainer.train.reshard import to_universal
from finetune_trainer.train.run import Run, RunData, commits_of
from finetune_trainer.train.saver import Saver
from finetune_trainer.train.scratch import Scratch
from finetune_trainer.train.state import RunState, join_shards, load_state, trusted, wanted
from finetune_trainer.train.stopping import StopSignal
from finetune_trainer.train.watchdog import Watchdog


def build(
    job: StageInput, process: Process, prepared: Prepared, scratch: Scratch, watchdog: Watchdog, stop: StopSignal
) -> Run:
    """Load the model and start its engine; every process must call it."""
    spec = job.spec
    files = PreparedFiles(prepared, scratch.prepared)
    objective = objective_of(spec, prepared.classes)
    data = RunData.open(files.cache, spec, objective)
    given = Given.of(spec, tokenizer=files.tokenizer, adapter=scratch.adapter)
    plan = _plan(job, process, prepared, data, model=scratch.model, given=given)
    method = method_of(spec.method, given)
    width = AutoConfig.from_pretrained(scratch.model, local_files_only=True).get_text_config().hidden_size
    config = deepspeed_config(plan, spec.training, device=spec.distributed.device, hidden_size=width)
    if spec.training.deterministic:
        processes.be_deterministic()
    kind, quantization = ModelKind.of(prepared.classes), method.quantization(DTYPES[plan.precision])
    base = load_base(
        scratch.model, plan, kind=kind, deepspeed_config=config, quantization=quantization, uri=spec.model.uri
    )
    kind.begin(base, spec.training.seed)
    # The same on all processes, so that their adapters begin alike.
    torch.manual_seed(spec.training.seed)
    loss = objective.loss_of(method.adapt(base), spec.training)
    if spec.training.compile:
        compile_layers(loss.transformer)
    optimizer = make_optimizer(loss, spec.training.optimizer, rates_of(loss.transformer, spec.method, spec.training))
    engine = start_engine(loss, plan, optimizer, config)
    gradients.sum_in_fp32(engine.module, plan)
    backend = backend_for(process.device, DTYPES[plan.precision])
    gap = selfcheck.check(engine.module, process.device, backend, virtual_tokens=spec.method.virtual_tokens)
    engine.train()
    processes.seed(spec.training.seed, process)
    log.info(
        "engine-ready",
        zeroStage=plan.zero_stage,
        precision=plan.precision,
        gradientSum="fp32" if gradients.are_summed_in_fp32(plan) else plan.precision,
        attention=backend,
        packingGap=gap,
    )
    return Run(
        job=job,
        plan=plan,
        process=process,
        layout=RunLayout(spec.checkpoint.uri, job.run_id),
        data=data,
        method=method,
        objective=objective,
        engine=engine,
        backend=backend,
        config_digest=prepared.config_digest,
        watchdog=watchdog,
        stop=stop,
    )


def _plan(job: StageInput, process: Process, prepared: Prepared, data: RunData, *, model: Path, given: Given) -> Plan:
    """Return the plan of this attempt; every process must call it."""
    spec, device_bytes = job.spec, processes.smallest_device(process)

    def facts() -> Facts:
        kind = ModelKind.of(prepared.classes)
        shape = measure(read_config(model, spec.model.uri), spec.method, spec.model.uri, kind, given)
        return Facts(shape, data.schedule, data.batches.longest_sequence, job.memory_limit_bytes, device_bytes)

    return plan_of_attempt(job, prepared.plan, data.schedule, device_bytes=device_bytes, facts=facts)


def resume(run: Run, saver: Saver, store: Store, scratch: Path) -> RunState | None:
    """Restore the newest whole commit; return None when the run begins anew."""
    if run.spec.checkpoint.resume == "never":
        processes.on_rank_zero(run.process, lambda: _forget(store, run.layout))
        return None
    while commit := processes.on_rank_zero(run.process, lambda: find_commit(store, run.layout, run.config_digest)):
        _require_resumable(run, commit)
        if _fetch(run, store, commit, scratch):
            resharded = not _has_our_layout(run, commit)
            state = load_state(run, scratch, resharded=resharded)
            commits = processes.on_rank_zero(run.process, lambda: commits_of(run, store))
            saver.resume(commit.step, commits, run.layout)
            log.info("resumed", step=commit.step, commit=run.layout.commit(commit.step).uri)
            return state
    return None


def score_base(run: Run) -> RunState:
    """Return the state of a run that begins: with the scores of the base model, if the job asks for them."""
    if not (run.spec.evaluation.baseline and run.objective.scores_base):
        return RunState()
    # An adapter is still without effect; virtual tokens, which are drawn at random, are not.
    found = evaluate(run, run.data.test, "while it scores the base model", virtual_tokens=0)
    if found is None:
        return RunState()
    log.info("baseline", **found.scores.to_wire())
    return RunState(baseline=found.scores)


def score_resumed(run: Run, saver: Saver, reporter: Reporter | None, store: Store, state: RunState) -> RunState:
    """Evaluate at the step that the run goes on from, if a stop came before the evaluation there was done."""
    last, settings = saver.last, run.spec.evaluation
    total = run.data.schedule.total_steps
    if last is None or last.eval_loss is not None:
        return state
    if not evaluates(last.step, total_steps=total, every_steps=settings.every_steps):
        return state
    found = evaluate(run, run.data.validation, f"while it evaluates after step {last.step}")
    if found is None:
        return state

    def write_down() -> list[Commit]:
        add_score(store, run.layout, step=last.step, found=found.validation)
        return commits_of(run, store)

    with run.watchdog.during(f"while it writes down the score of step {last.step}", slow=True):
        saver.resume(last.step, processes.on_rank_zero(run.process, write_down), run.layout)
    if reporter is not None:
        reporter.evaluation(last.step, found.validation, saver.best or found.validation)
    return scored(state, found.validation, settings)


def _fetch(run: Run, store: Store, commit: Commit, directory: Path) -> bool:
    """Fetch a commit once per pod, in the layout of this run; return whether all pods got it whole."""
    process, resharded = run.process, not _has_our_layout(run, commit)

    def fetch() -> bool:
        rmtree(directory, ignore_errors=True)
        whole = fetch_commit(
            store, run.layout, commit, directory, lambda name: wanted(name, process, resharded=resharded)
        )
        if whole:
            join_shards(directory)
        if whole and resharded:
            reshard(run, directory)
        return whole

    return run_errand(fetch, directory, process, run.watchdog)


def reshard(run: Run, directory: Path) -> None:
    """Bring a fetched commit of all ranks into the form that every layout can be cut from; once per pod."""
    training, loss = run.spec.training, run.engine.module
    rates = rates_of(loss.transformer, run.spec.method, training)
    with trusted():
        to_universal(directory, shapes_in_groups(loss, training.optimizer, rates))


def _has_our_layout(run: Run, commit: Commit) -> bool:
    return (commit.zero_stage, commit.world_size) == (run.plan.zero_stage, run.process.world_size)


def _require_resumable(run: Run, commit: Commit) -> None:
    """Refuse a commit that this run cannot go on from."""
    optimizer = run.spec.training.optimizer
    if not _has_our_layout(run, commit) and not optimizer.can_reshard:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"{run.layout.commit(commit.step).uri} was written by {commit.world_size} processes at ZeRO stage"
            f" {commit.zero_stage}, this attempt has {run.process.world_size} at stage {run.plan.zero_stage}, and"
            f" the state of optimizer {optimizer.type} cannot be divided anew; set spec.distributed as it was, or"
            " create a new job",
        )
    if commit.consumed_sequences != run.data.schedule.cursor(commit.step):
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_DATA,
            f"{run.layout.commit(commit.step).uri} stands at another place in the data than this run at its step",
        )


def _forget(store: Store, layout: RunLayout) -> None:
    """Delete the commits of earlier attempts: checkpoint.resume is never, and each step has room for one commit."""
    store.delete([layout.commit(commit.step) for commit in read_commits(store, layout)])
