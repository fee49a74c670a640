"""The prepare stage: probe, fetch, check, split, encode, plan, publish.

It runs on a CPU pod before any GPU is taken, and says in its last word all that is wrong with spec, model or data.
What it publishes is one set of objects under this pod's own prefix and, last, the manifest that names them: put
once and never replaced, so a second pod of the same run uses what the first one made.
"""

import shutil
from pathlib import Path
from typing import Any

from finetune_api.reasons import Reason
from finetune_api.run import Prepared, RunLayout
from finetune_api.spec import FineTuneJobSpec
from finetune_api.stage import StageInput, TerminationMessage
from finetune_api.status import DataReport
from finetune_api.uris import parse_s3
from finetune_trainer import log
from finetune_trainer.data.batches import batches_of
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.prepared import find_prepared
from finetune_trainer.data.schedule import schedule_of
from finetune_trainer.data.settings import config_digest, settings_of
from finetune_trainer.methods.given import Given
from finetune_trainer.model.compile import require_compiler
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.vocabulary import extend_config
from finetune_trainer.prepare.adapter_files import fetch_initial_adapter, labels_of_adapter
from finetune_trainer.prepare.data_card import list_warnings
from finetune_trainer.prepare.data_warnings import experts_not_adapted, fewer_sequences, rows_of_fewer_tokens, tell
from finetune_trainer.prepare.model_files import ModelFiles
from finetune_trainer.prepare.model_shape import ModelShape, measure, read_config
from finetune_trainer.prepare.plan import Facts, resolve
from finetune_trainer.prepare.preview import log_preview
from finetune_trainer.prepare.probe import probe
from finetune_trainer.prepare.rows import RowsInput, prepare_rows
from finetune_trainer.prepare.space import require_scratch
from finetune_trainer.prepare.tokenizer import ensure_padding, load_tokenizer
from finetune_trainer.prepare.validation_rows import no_validation_rows, require_validation_rows
from finetune_trainer.stage_input import read_pod
from finetune_trainer.storage import Store


def run(job: StageInput, store: Store) -> TerminationMessage:
    """Prepare the data of a job. Raises StageFailure with all that a user has to mend."""
    probe(job, store)
    if job.spec.training.compile:
        require_compiler()  # this pod has the image that trains
    layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
    prepared = find_prepared(store, layout)
    if prepared is None:
        prepared = _prepare(job, store, layout)
    else:
        log.info("already-prepared", writer=prepared.writer)
        require_validation_rows(job.spec, prepared.data.validation.rows)
    return TerminationMessage(reason=Reason.SUCCEEDED, plan=prepared.plan, data=_told(job.spec, prepared.data))


def _told(spec: FineTuneJobSpec, data: DataReport) -> DataReport:
    """Return the report with what spec.evaluation lacks: that may be edited after the manifest has been put."""
    more = tell(no_validation_rows(spec, data.validation.rows))
    return data.model_copy(update={"warnings": [*data.warnings, *more]})


def _prepare(job: StageInput, store: Store, layout: RunLayout) -> Prepared:
    pod = read_pod()
    scratch = pod.work_dir / "prepare"
    shutil.rmtree(scratch, ignore_errors=True)  # left by an earlier run outside Kubernetes
    result = scratch / "prepared"
    model = ModelFiles(store, parse_s3(job.spec.model.uri))
    model.check()
    small_files = model.fetch_small(scratch / "model")
    adapter_files = fetch_initial_adapter(store, job.spec.method, scratch / "adapter")
    shape, tokenizer = _shape_and_tokenizer(job, scratch)
    warnings = tell(
        experts_not_adapted(shape.experts_left_out),
        rows_of_fewer_tokens(shape.max_positions, job.spec.data.max_length),
    )
    rows = prepare_rows(RowsInput(job.spec, store, tokenizer, shape, result))
    require_validation_rows(job.spec, rows.validation_rows)
    classes = rows.classes
    if classes is not None:
        shape = _measure(job, scratch, ModelKind.of(classes))
    cache = TokenCache.open(result / "cache", "train")
    log_preview(tokenizer, cache)
    batches = batches_of(job.spec, cache)
    steps = schedule_of(job.spec.training, batches.num_sequences)
    warnings += tell(fewer_sequences(batches.num_sequences, job.spec.training.global_batch_size))
    facts = Facts(shape, steps, batches.longest_sequence, job.memory_limit_bytes)
    plan = resolve(job.spec, facts)
    log.info("plan", **plan.to_wire())
    # Last, since it takes longest: what is wrong with the rows has been told by now.
    model_files = [*small_files, *model.hash_weights(scratch)]
    prefix = layout.prepared(pod.uid)
    data = rows.report(batches.num_sequences, prefix, warnings=warnings)
    list_warnings(result, data.warnings)
    files = store.upload_all(result, prefix)
    rows.offer(pod.uid, files, prefix)
    require_scratch(job.spec, plan, model=[*model_files, *adapter_files], prepared=files)
    settings = settings_of(job.spec)
    prepared = Prepared(
        writer=pod.uid,
        files=files,
        model_files=model_files,
        adapter_files=adapter_files,
        data=data,
        plan=plan,
        classes=classes,
        settings=settings,
        config_digest=config_digest(settings, plan, data.digest),
    )
    return _publish(store, layout, prepared)


def _shape_and_tokenizer(job: StageInput, scratch: Path) -> tuple[ModelShape, Any]:
    """Return the model's shape and tokenizer, saved in the folder of the result; both with the new tokens."""
    kind = _provisional_kind(job.spec, scratch / "adapter")
    shape = _measure(job, scratch, kind)
    tokenizer = _tokenizer(job.spec, scratch / "model", shape)
    tokenizer.save_pretrained(scratch / "prepared" / "tokenizer")
    if job.spec.model.new_tokens:
        extend_config(scratch / "model", _given(job, scratch).new_tokens)
        shape = _measure(job, scratch, kind)
    return shape, tokenizer


def _measure(job: StageInput, scratch: Path, kind: ModelKind) -> ModelShape:
    method, uri = job.spec.method, job.spec.model.uri
    return measure(read_config(scratch / "model", uri), method, uri, kind, _given(job, scratch))


def _given(job: StageInput, scratch: Path) -> Given:
    return Given.of(job.spec, tokenizer=scratch / "prepared" / "tokenizer", adapter=scratch / "adapter")


def _provisional_kind(spec: FineTuneJobSpec, adapter: Path) -> ModelKind:
    """Return the kind of model before its labels are known, so that one that cannot be it is told at once."""
    if spec.objective != "classification":
        return ModelKind()
    return ModelKind(labels=labels_of_adapter(spec, adapter) or ("0", "1"))


def _tokenizer(spec: FineTuneJobSpec, model: Path, shape: ModelShape) -> Any:
    tokenizer = load_tokenizer(model, spec.model)
    if spec.objective == "classification":
        ensure_padding(tokenizer, spec.model, vocabulary=shape.vocabulary)
    return tokenizer


def _publish(store: Store, layout: RunLayout, prepared: Prepared) -> Prepared:
    """Put the manifest, or return the one that another pod of this run has put in the meantime."""
    text = prepared.model_dump_json(by_alias=True, exclude_none=True).encode()
    if store.put_new(layout.prepared_manifest, text, writer=prepared.writer):
        return prepared
    log.warning("prepared-by-another-pod", manifest=layout.prepared_manifest.uri)
    other = find_prepared(store, layout)
    assert other is not None  # noqa: S101 - it made our conditional put fail
    return other
