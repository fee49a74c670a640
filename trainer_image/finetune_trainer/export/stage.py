"""The export stage: weights of the best commit, assembled, merged, examined in a fresh process, published."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from finetune_api.reasons import Reason
from finetune_api.run import Commit, OutputManifest, Prepared, RunLayout, TrainResult
from finetune_api.stage import StageInput, TerminationMessage
from finetune_trainer import log
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.prepared import PreparedFiles, fetch_model, fetch_prepared, find_prepared
from finetune_trainer.data.settings import settle
from finetune_trainer.export import assemble, place, publish
from finetune_trainer.export.card import render
from finetune_trainer.export.examine import examine
from finetune_trainer.export.fresh import Reply, Request
from finetune_trainer.export.place import Place
from finetune_trainer.export.predictions import write_predictions
from finetune_trainer.export.questions import turn_end
from finetune_trainer.export.weights import check_adapter, check_model, fetch_weights, read_result
from finetune_trainer.methods import method_of
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.model.vocabulary import extend
from finetune_trainer.prepare.tokenizer import special_tokens
from finetune_trainer.stage_input import read_pod
from finetune_trainer.storage import Store


def run(job: StageInput, store: Store) -> TerminationMessage:
    """Export the result of a job. Raises StageFailure when it is not what was trained, or cannot be written."""
    target = Place(job, store)
    manifest = target.result()
    if manifest is None:
        target.require_free()
        prepared = find_prepared(store, RunLayout(job.spec.checkpoint.uri, job.run_id))
        manifest = _Export(settle(job, prepared) if prepared else job, store).make(target)
    else:
        log.info("already-exported", uri=target.output.uri)
        target.release()
    return TerminationMessage(reason=Reason.SUCCEEDED, output=publish.output_result(target.output, manifest))


@dataclass(frozen=True)
class _Parts:
    """What the result is made from."""

    prepared: PreparedFiles
    base: Path
    """With rows for the tokens that the job adds."""
    own_config: Path
    """Folder of the base's configuration as it lies in S3."""
    weights: Path
    result: TrainResult
    commit: Commit
    stop_tokens: list[int]

    @property
    def kind(self) -> ModelKind:
        """What the base model is loaded as."""
        return ModelKind.of(self.prepared.record.classes)


class _Export:
    def __init__(self, job: StageInput, store: Store) -> None:
        self._job = job
        self._store = store
        self._scratch = read_pod().work_dir / "export"
        self._target = self._scratch / "result"
        self._method = method_of(job.spec.method)
        self._is_adapter = self._method.result == "adapter"
        self._asks_for_answers = job.spec.objective != "classification"

    def make(self, target: Place) -> OutputManifest:
        shutil.rmtree(self._scratch, ignore_errors=True)  # left by an earlier run outside Kubernetes
        parts = self._fetch()
        self._assemble(parts)
        reply = self._examine(parts)
        self._describe(parts, reply)
        files = publish.upload(self._store, self._target, target)
        manifest = OutputManifest(
            job=f"{self._job.namespace}/{self._job.name}",
            uid=self._job.uid,
            run_id=self._job.run_id,
            step=parts.commit.step,
            base_model=self._job.spec.model.uri,
            data_digest=parts.prepared.record.data.digest,
            files=list(files),
            evaluation=parts.result.evaluation,
            merge_gap=reply.merge_gap,
        )
        return publish.publish(self._store, target, manifest)

    def _fetch(self) -> _Parts:
        job, store = self._job, self._store
        layout = RunLayout(job.spec.checkpoint.uri, job.run_id)
        result = read_result(store, layout)
        prepared = fetch_prepared(store, layout, self._scratch / "prepared")
        commit, weights = fetch_weights(store, layout, result, self._scratch / "commit")
        (check_adapter if self._is_adapter else check_model)(weights)
        base = fetch_model(
            store, job.spec.model.uri, prepared.record, self._scratch / "base", weights=self._needs_base()
        )
        own_config = self._scratch / "own-config"
        own_config.mkdir()
        shutil.copy(base / "config.json", own_config)
        extend(base, prepared.tokenizer, job.spec.model.new_tokens)
        stop_tokens = _stop_tokens(prepared, base) if self._asks_for_answers else []
        return _Parts(prepared, base, own_config, weights, result, commit, stop_tokens)

    def _needs_base(self) -> bool:
        is_whole = self._job.spec.method.type == "full"
        return not is_whole or (self._asks_for_answers and self._job.spec.evaluation.predictions.rows > 0)

    def _assemble(self, parts: _Parts) -> None:
        (self._assemble_adapter if self._is_adapter else self._assemble_whole)(parts)
        if self._asks_for_answers:
            for folder in (self._target / place.ADAPTER, self._target / place.MERGED):
                if folder.exists():
                    assemble.write_generation_config(folder, parts.base, stop_tokens=parts.stop_tokens)

    def _assemble_adapter(self, parts: _Parts) -> None:
        tokenizer, kind, adapter = parts.prepared.tokenizer, parts.kind, self._target / place.ADAPTER
        uri = self._job.spec.model.uri
        assemble.assemble_adapter(parts.weights, tokenizer=tokenizer, base_uri=uri, target=adapter)
        if kind.labels:
            assemble.write_config(parts.own_config, kind, target=adapter)
        if self._job.spec.output.merge:
            quantization, merged = self._job.spec.method.spelled_out().quantization, self._target / place.MERGED
            assemble.merge(
                parts.base, adapter, kind=kind, quantization=quantization, tokenizer=tokenizer, target=merged
            )

    def _assemble_whole(self, parts: _Parts) -> None:
        tokenizer, kind, merged = parts.prepared.tokenizer, parts.kind, self._target / place.MERGED
        if self._job.spec.method.type == "freeze":
            assemble.assemble_partial(parts.base, parts.weights, kind=kind, tokenizer=tokenizer, target=merged)
        else:
            assemble.assemble_model(parts.weights, kind=kind, tokenizer=tokenizer, target=merged)

    def _examine(self, parts: _Parts) -> Reply:
        predictions = self._job.spec.evaluation.predictions
        adapter, merged = self._target / place.ADAPTER, self._target / place.MERGED
        request = Request(
            base=str(parts.base) if self._needs_base() else None,
            adapter=str(adapter) if self._is_adapter else None,
            quantization=self._job.spec.method.spelled_out().quantization,
            model=str(merged) if merged.exists() else None,
            classes=parts.prepared.record.classes,
            prepared=str(parts.prepared.directory),
            questions=predictions.rows,
            max_new_tokens=predictions.max_new_tokens,
            stop_tokens=parts.stop_tokens,
            trained_losses=parts.result.compared_losses,
            precision=(parts.result.plan or parts.prepared.record.plan).precision,
        )
        return examine(request, self._scratch / "examination")

    def _describe(self, parts: _Parts, reply: Reply) -> None:
        """Write predictions, model card and data card."""
        if reply.tuned_answers or reply.predictions:
            write_predictions(parts.prepared, reply, self._target / place.PREDICTIONS)
        record: Prepared = parts.prepared.record
        card = render(self._job, prepared=record, result=parts.result, commit=parts.commit, merge_gap=reply.merge_gap)
        (self._target / place.CARD).write_text(card, encoding="utf-8")
        for name in place.DATA_CARDS:
            if (parts.prepared.directory / name).exists():  # not of rows that an earlier release prepared
                shutil.copy(parts.prepared.directory / name, self._target)


def _stop_tokens(prepared: PreparedFiles, base: Path) -> list[int]:
    """Return the tokens that end an answer: as trained, as the tokenizer says, and as the base model says."""
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer, local_files_only=True)
    trained = turn_end(TokenCache.open(prepared.cache, "train"), special_tokens(tokenizer))
    own = {tokenizer.eos_token_id} - {None}
    return sorted(trained | own | assemble.base_stop_tokens(base))
