"""`python -m finetune_trainer.export.fresh REQUEST REPLY`: loads the result as a user would, in a new process.

Nothing of the process that made the files is left here, and the network is off: what loads here loads anywhere.
The models are loaded one after the other: the base (its answers), base and adapter (their answers, the reference
for the comparison), and the whole model (its answers, or its distance from that reference).
"""

import sys
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from pydantic import Field
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel

from finetune_api.base import Record
from finetune_api.run import Classes
from finetune_api.spec import Quantization
from finetune_trainer.data.cache import TokenCache
from finetune_trainer.data.compared import compared_rows
from finetune_trainer.export.answers import answer
from finetune_trainer.export.assemble import load_adapter, load_base, load_result
from finetune_trainer.export.classify import Prediction, classify
from finetune_trainer.export.questions import read_questions
from finetune_trainer.methods.load_adapter import NAME as BOTTLENECK
from finetune_trainer.model.kind import ModelKind
from finetune_trainer.objectives.classification import TRIED_CLASS


class Request(Record):
    """What to load and to ask; paths are local."""

    base: str | None = Field(description="Folder of the base model; None: it is not needed.")
    adapter: str | None = Field(description="Folder of the adapter.")
    quantization: Quantization | None = Field(default=None, description="How the base was quantised in training.")
    model: str | None = Field(description="Folder of the whole model.")
    classes: Classes | None = Field(default=None, description="What the model tells apart, if it is a classifier.")
    prepared: str = Field(description="Folder of the prepared data.")
    questions: int = Field(description="Test rows to answer.")
    max_new_tokens: int = Field(description="Longest answer in tokens.")
    stop_tokens: list[int] = Field(description="Tokens that end an answer.")
    trained_losses: list[float] = Field(default=[], description="Losses on the compared rows in training.")
    precision: str = Field(default="fp32", description="Number format that training computed in.")


class Reply(Record):
    """What was found."""

    base_answers: list[str] = Field(default=[], description="Answers of the base model.")
    tuned_answers: list[str] = Field(default=[], description="Answers of the tuned model.")
    predictions: list[Prediction] = Field(default=[], description="Labels that the tuned model gives.")
    labels: list[str] = Field(default=[], description="Labels that the tuned model knows, by class id.")
    adapter_fits: bool = Field(default=True, description="Whether the adapter's file has exactly the keys it needs.")
    finite: bool = Field(default=True, description="Whether the tuned model's outputs are numbers.")
    losses: list[float] = Field(default=[], description="Losses of the tuned model on the compared rows.")
    divergence: float | None = Field(
        default=None,
        description="KL divergence between base with adapter and the merged model, nats per token, or per row of a"
        " classifier.",
    )
    dtype: str = Field(default="", description="Number format of the tuned model.")

    @property
    def merge_gap(self) -> float | None:
        """The divergence, of which rounding may leave less than nothing."""
        return None if self.divergence is None else max(self.divergence, 0.0)


class Examiner:
    """Loads what a request names and looks at it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        prepared = Path(request.prepared)
        self._tokenizer = AutoTokenizer.from_pretrained(prepared / "tokenizer", local_files_only=True)
        test = TokenCache.open(prepared / "cache", "test")
        self._compared = compared_rows(test, TokenCache.open(prepared / "cache", "train"))
        self._kind = ModelKind.of(request.classes)
        asks = request.classes is None
        self._questions = read_questions(test, prepared / "test.jsonl", request.questions) if asks else []
        count = 0 if asks else min(request.questions, len(test))
        self._rows = [test.row(index)[0].tolist() for index in range(count)]

    def examine(self) -> Reply:
        """Return what was found."""
        request = self._request
        base = load_base(Path(request.base), request.quantization, self._kind) if request.base else None
        answers = self._ask(base) if base is not None else []
        found = self._examine_adapter(base) if self._request.adapter else self._examine_model()
        return found.model_copy(update={"base_answers": answers})

    def _examine_model(self) -> Reply:
        """Look at a model that was trained in full."""
        assert self._request.model is not None  # noqa: S101 - a result is an adapter or a model
        model = load_result(Path(self._request.model), self._kind)
        return self._reply(model, self._scores(model))

    def _examine_adapter(self, base: PreTrainedModel | None) -> Reply:
        """Look at an adapter, and at the model that it was merged into, if that was asked for."""
        assert self._request.adapter is not None  # noqa: S101
        assert base is not None  # noqa: S101
        tuned = load_adapter(base, Path(self._request.adapter))
        scores = self._scores(tuned)
        reply = self._reply(tuned, scores).model_copy(
            update={"adapter_fits": _fits(tuned, Path(self._request.adapter))}
        )
        del tuned, base
        if self._request.model is None:
            return reply
        merged = load_result(Path(self._request.model), self._kind)
        found = {"divergence": divergence(scores, self._scores(merged)), "labels": _labels(merged)}
        return reply.model_copy(update=found)

    def _reply(self, tuned: Any, scores: list[torch.Tensor]) -> Reply:
        return Reply(
            tuned_answers=self._ask(tuned),
            predictions=self._classify(tuned),
            labels=_labels(tuned),
            losses=self._losses(scores),
            finite=all(bool(torch.isfinite(row).all()) for row in scores),
            dtype=str(tuned.dtype).removeprefix("torch."),
        )

    def _ask(self, model: Any) -> list[str]:
        if not self._questions:
            return []
        return answer(
            model,
            self._tokenizer,
            [question.prompt for question in self._questions],
            max_new_tokens=self._request.max_new_tokens,
            stop_tokens=self._request.stop_tokens,
        )

    def _classify(self, model: Any) -> list[Prediction]:
        classes = self._request.classes
        return [] if classes is None else classify(model, self._rows, pad_token_id=classes.pad_token_id)

    def _scores(self, model: Any) -> list[torch.Tensor]:
        """Return log-probabilities of the first rows: [tokens, vocabulary], or [1, classes]."""
        scores = []
        for row in self._compared:
            with torch.inference_mode():
                logits = model(input_ids=row[None]).logits
                scores.append(torch.log_softmax(logits.flatten(0, -2).float(), dim=-1))
        return scores

    def _losses(self, scores: list[torch.Tensor]) -> list[float]:
        """Return the losses of what training predicts of the same rows; none if one is no number."""
        if self._kind.labels:
            losses = [-row[:, TRIED_CLASS] for row in scores]
        else:
            # Virtual tokens of peft's stand before the row and have scores too.
            pairs = zip(scores, self._compared, strict=True)
            losses = [-row[-len(ids) : -1].gather(1, ids[1:, None]).flatten() for row, ids in pairs]
        every: list[float] = torch.cat(losses).tolist()
        return every if all(map(isfinite, every)) else []


def divergence(reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Return the mean KL divergence of one set of log-probabilities from another, in nats per token or row."""
    pairs = zip(reference, other, strict=True)
    per_token = [(right.exp() * (right - left)).sum(dim=-1) for left, right in pairs]
    return float(torch.cat(per_token).mean())


def _labels(model: Any) -> list[str]:
    return [label for _, label in sorted((model.config.id2label or {}).items())]


def _fits(model: PeftModel | PreTrainedModel, directory: Path) -> bool:
    """Whether the adapter's file holds exactly the tensors that the model has places for."""
    if isinstance(model, PeftModel):
        places = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    else:
        places = {name for name in model.state_dict() if f".{BOTTLENECK}." in name}
    with safe_open(directory / "adapter_model.safetensors", framework="pt") as file:
        return set(file.keys()) == places


if __name__ == "__main__":
    request = Request.model_validate_json(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(Examiner(request).examine().model_dump_json(by_alias=True))
