"""A checkpoint for other processes, or another ZeRO stage, than wrote it.

DeepSpeed's shards fit the number of processes and the stage alone that made them. They are put together into its
universal form (https://arxiv.org/abs/2406.18820), whole tensors by parameter, from which any layout is cut:

    engine/universal/mp_rank_00_model_states.pt     what is not sharded
    engine/universal/zero/<parameter>/fp32.pt       weight; beside it exp_avg.pt, exp_avg_sq.pt and step.pt
    engine/universal/zero/optimizer_state.pt        what belongs to no parameter

Stage 0 has no shards and no loader of that form: both ends are written here. In bf16 it holds master weights in fp32
beside those of the model, in lists of the same order.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import nn

SHARDS, UNIVERSAL = "state", "universal"
"""Tags of DeepSpeed's checkpoints: folders below ENGINE."""
ENGINE = "engine"
_MODEL_STATES = "mp_rank_00_model_states.pt"
_MODEL_STATES_OF_STAGE_3 = f"zero_pp_rank_0_{_MODEL_STATES}"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MOST_GROUPS = 10_000
"""DeepSpeed reads as many entries as there are parameter groups."""


def to_universal(directory: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Put the shards of all ranks together, which stand in `engine/state`; once per pod.

    `shapes` are those of the trained parameters by name, in the order of the optimizer's groups.
    """
    source, target = directory / ENGINE / SHARDS, directory / ENGINE / UNIVERSAL
    whole = source / _MODEL_STATES
    if whole.exists() and (states := _load(whole))["optimizer"]:
        _split(states, list(shapes), target)
    else:
        _convert(source, target)
    _complete(target, shapes)


def _convert(source: Path, target: Path) -> None:
    with redirect_stdout(sys.stderr):
        from deepspeed.checkpoint import ds_to_universal

        ds_to_universal.main(
            Namespace(
                input_folder=str(source),
                output_folder=str(target),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )


def _split(states: dict[str, Any], names: Sequence[str], target: Path) -> None:
    """Write the state of stage 0, where each process has all, by parameter."""
    optimizer = states["optimizer"]
    masters = chain.from_iterable(optimizer.get("fp32_groups") or [[states["module"][name] for name in names]])
    moments = optimizer.get("optimizer_state_dict", optimizer)["state"].values()
    for name, master, state in zip(names, masters, moments, strict=True):
        folder = target / "zero" / name
        folder.mkdir(parents=True)
        torch.save({"param": master.detach()}, folder / "fp32.pt")
        for moment in _MOMENTS:
            torch.save({"param": state[moment]}, folder / f"{moment}.pt")
        torch.save(state["step"], folder / "step.pt")
    torch.save({**states, "optimizer": None}, target / _MODEL_STATES)


def _complete(target: Path, shapes: Mapping[str, torch.Size]) -> None:
    """Make one form of what DeepSpeed writes, which differs between stage 3 and the others.

    No settings of groups are kept: they are this run's own, and the loader of stage 3 would give all groups those of
    the first, so that norms would decay like matrices.
    """
    import deepspeed

    path = target / "zero" / "optimizer_state.pt"
    known = next(iter(target.glob("zero/*/step.pt")), None)
    step = _load(known) if known else _complete_stage_3(path, shapes)
    torch.save(
        {
            "ds_version": deepspeed.__version__,
            "param_groups": [{}] * _MOST_GROUPS,
            "optimizer_state_dict": {"state": {0: {"step": step}}, "param_groups": [{"params": []}]},
        },
        path,
    )
    names = (_MODEL_STATES, _MODEL_STATES_OF_STAGE_3)
    written, missing = names if (target / _MODEL_STATES).exists() else names[::-1]
    copyfile(target / written, target / missing)


def _complete_stage_3(common: Path, shapes: Mapping[str, torch.Size]) -> Any:
    """Return the step, which stage 3 keeps with the common state, and put it beside each parameter as the others do.

    They have their tensors in shape and under a key; stage 3 writes bare flat ones.
    """
    step = _load(common)["optimizer_state_dict"]["state"][0]["step"]
    for name, shape in shapes.items():
        folder = common.parent / name
        torch.save(step, folder / "step.pt")
        for part in ("fp32", *_MOMENTS):
            path = folder / f"{part}.pt"
            torch.save({"param": _load(path).view(shape)}, path)
    return step


def load_whole(module: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Load the universal form where DeepSpeed cannot: at stage 0."""
    zero = directory / ENGINE / UNIVERSAL / "zero"
    names = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, master in _with_masters(optimizer):
        folder = zero / names[parameter]
        with torch.no_grad():
            master.copy_(_load(folder / "fp32.pt")["param"].view_as(master))
            parameter.copy_(master)
        moments = {key: _load(folder / f"{key}.pt")["param"].view_as(master) for key in _MOMENTS}
        state = {key: moment.to(master.device, torch.float32) for key, moment in moments.items()}
        # Beside the moments: the fused kernel takes no step from another device.
        optimizer.state[master] = {**state, "step": _load(folder / "step.pt").to(master.device, torch.float32)}


def _with_masters(optimizer: Any) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    """Yield each trained parameter of the model with the tensor that the optimizer moves: in fp32 the same one."""
    moved = [group["params"] for group in optimizer.param_groups]
    of_model = getattr(optimizer, "fp16_groups", moved)  # DeepSpeed's name for 16 bits of either kind
    for parameters, masters in zip(of_model, moved, strict=True):
        yield from zip(parameters, masters, strict=True)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
