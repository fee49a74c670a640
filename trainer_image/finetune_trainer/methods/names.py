"""Names of modules in a spec: what they mean, for every method.

A name means whole parts at the end of a path: `norm` is `model.norm` and no `input_layernorm`. Only modules with
weights count: to name another is to train nothing.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def is_called(path: str, name: str) -> bool:
    """Whether a name means the module at a path."""
    return path == name or path.endswith(f".{name}")


def paths_of(model: nn.Module, name: str) -> list[str]:
    """Return where the modules of a name stand. Raises ValueError when there are none."""
    found = [path for path in _paths(model) if is_called(path, name)]
    return found or _none(model, name)


def all_paths_of(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return where the modules of several names stand. Raises ValueError when one has none."""
    return [path for name in names for path in paths_of(model, name)]


def paths_like(model: nn.Module, pattern: str) -> list[str]:
    """Return where the modules of a name or a shell pattern stand. Raises ValueError when there are none."""
    found = [path for path in _paths(model) if fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")]
    return found or _none(model, pattern)


def names_for_peft(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return names of `modules_to_save` by which peft finds the modules that the names mean, and no other.

    peft compares ends of paths letter by letter, so that `norm` would be every `input_layernorm` too: there it is
    given whole paths. A name that means the same to it is kept, as other programs know it. Raises ValueError as
    `paths_of` does, and for a module within another one, which peft would train in neither.
    """
    paths = all_paths_of(model, names)
    if inner := next((path for path in paths if any(path.startswith(f"{other}.") for other in paths)), None):
        raise ValueError(f"{inner} is named, and a module that it is a part of; name one of them")
    return [found for name in names for found in _for_peft(model, name)]


def paths_in_peft(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return where the modules stand that peft takes names of `modules_to_save` for."""
    return [path for path in _paths(model) if any(path.endswith(name) for name in names)]


def _for_peft(model: nn.Module, name: str) -> list[str]:
    meant = paths_of(model, name)
    return [name] if paths_in_peft(model, [name]) == meant else meant


def _paths(model: nn.Module) -> Iterator[str]:
    """Yield the paths of the modules that have weights."""
    for path, module in model.named_modules():
        if path and next(module.parameters(), None) is not None:
            yield path


def _none(model: nn.Module, name: str) -> list[str]:
    known = {path.rpartition(".")[2] for path in _paths(model)}
    near = get_close_matches(name.rpartition(".")[2], sorted(known - {name}), n=1)
    raise ValueError(f"no module with weights is called {name}{f' (there is {near[0]})' if near else ''}")
