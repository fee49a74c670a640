"""`spec.method.initialAdapter`: a LoRA adapter of peft that is trained further; its own file says what it is."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.spec import Lora
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import initial_head
from finetune_trainer.methods.embeddings import tied_to
from finetune_trainer.methods.names import all_paths_of, paths_in_peft
from finetune_trainer.model.sharded import fill, whole_shape
from finetune_trainer.model.task import HEAD, task_type

_KEPT = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora"),
        "target_parameters",
        *("modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
        *("fan_in_fan_out", "ensure_weight_tying"),
    }
)
"""What an adapter is; taken over."""
_FREE = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
        *("auto_mapping", "init_lora_weights", "bias", "loftq_config", "eva_config", "corda_config"),
        *("megatron_core", "runtime_config"),
    }
)
"""What is known by other means, or says how it once began."""


def initial_config(directory: Path, settings: Lora | None, model: PreTrainedModel) -> LoraConfig:
    """Return peft's settings of the adapter; `settings` are the spec's, None when it leaves them to the adapter.

    Raises StageFailure when they contradict one another, or when such an adapter cannot be trained further.
    """
    found: dict[str, Any] = json.loads((directory / CONFIG_NAME).read_text())
    if problem := next(_unfit(found), None):
        raise _refused(f"it {problem}")
    config = LoraConfig(**{name: value for name, value in found.items() if name in _KEPT}, task_type=task_type(model))
    if settings is not None:
        if differing := list(_differing(config, settings, model)):
            raise _refused(
                f"it has {', '.join(differing)}; write so, or remove spec.method.lora: the adapter decides"
            )
        config.lora_dropout = settings.dropout
    elif config.use_dora:  # what ZeRO stage 3 and 8 bits exclude must be known from the spec
        raise _refused(f"it is of DoRA; write spec.method.lora: {{useDora: true, {_shape(config)}}}")
    return config


def _shape(config: LoraConfig) -> str:
    return f"rank: {config.r}, alpha: {config.lora_alpha:g}"


def _unfit(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield why an adapter cannot be trained further here."""
    if found.get("peft_type") != "LORA":
        yield f"is of type {found.get('peft_type')}; only LORA is trained further"
    if found.get("bias", "none") != "none":
        yield f"trains biases (bias: {found['bias']}), which are a part of the base model"
    begun = found.get("init_lora_weights", True)
    if isinstance(begun, str) and begun != "gaussian":
        yield f"began by changing the base model (init_lora_weights: {begun}); convert it to plain LoRA with peft"
    plain = LoraConfig().to_dict()
    for name in sorted(set(found) - _KEPT - _FREE):
        if found[name] and found[name] != plain.get(name):
            yield f"has a setting that is not supported here ({name})"


def _differing(config: LoraConfig, settings: Lora, model: PreTrainedModel) -> Iterator[str]:
    """Yield the settings of the adapter that the spec has otherwise, as they stand in a spec."""
    theirs = {
        "rank": (config.r, settings.rank),
        "alpha": (config.lora_alpha, settings.alpha),
        "useRslora": (config.use_rslora, settings.use_rslora),
        "useDora": (config.use_dora, settings.use_dora),
        "modulesToSave": _saved(config, settings, model),
    }
    if not settings.adapts_every_linear:
        targets = config.target_modules
        listed = [targets] if isinstance(targets, str) else sorted(targets or [])
        theirs["targetModules"] = (listed, sorted(settings.target_modules))
    for name, (has, wanted) in theirs.items():
        if has != wanted:
            yield f"{name}: {json.dumps(has)}"


def _saved(config: LoraConfig, settings: Lora, model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Return where the modules stand that the adapter trains whole, and those that the spec names.

    Names are no measure: peft adds that of a classifier's head, which is always trained, and writes one of the two
    of a tied matrix.
    """
    both = paths_in_peft(model, config.modules_to_save or []), all_paths_of(model, settings.modules_to_save)
    has, wanted = ({*found, *tied_to(model, found)} - {HEAD} for found in both)
    return sorted(has), sorted(wanted)


def fill_from(
    directory: Path,
    model: nn.Module,
    keys: Mapping[str, str],
    *,
    copies: Collection[str],
    labels: Sequence[str],
) -> None:
    """Give the trained parameters the adapter's values; `keys` are those of its file by the parameters' names.

    `copies` are keys of parameters that have another key, too. `labels` are the model's by class id, none if it is no
    classifier: each gets the row of the adapter's head that has its name.

    Without values (on the meta device) it only compares. Raises StageFailure when the file has other tensors.
    """
    if problem := initial_head.problem(directory, labels):
        raise _refused(problem)
    order = initial_head.order(directory, labels)
    places = {key: model.get_parameter(name) for name, key in keys.items()}
    with safe_open(directory / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
        stored = set(file.keys()) - set(copies)
        if stored != set(places):
            odd = sorted(stored ^ set(places))[0]
            raise _refused(
                f"its tensors are not those of this base model ({odd}); set spec.model.uri to its own base"
            )
        for key, place in sorted(places.items()):
            shape, expected = tuple(file.get_slice(key).get_shape()), tuple(whole_shape(place))
            if shape != expected:
                raise _refused(f"{key} has shape {shape}, the model {expected}; set spec.model.uri to its own base")
            if not place.is_meta:
                values = file.get_tensor(key)
                fill(place, values[order] if initial_head.is_of_head(key) else values)


def _refused(problem: str) -> StageFailure:
    message = f"spec.method.initialAdapter cannot be trained further: {problem}"
    return StageFailure(ExitCode.INVALID, Reason.INVALID_SPEC, message)
