"""The base model in S3: which of its files are used, and their digests.

Weights are read from safetensors alone, because unpickling a file runs whatever code it holds. Every file is
read once and hashed here, so that all later stages load exactly the bits that were checked.
"""

import json
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import FileEntry
from finetune_api.uris import S3Location
from finetune_trainer import log
from finetune_trainer.errors import StageFailure
from finetune_trainer.storage import ObjectInfo, Store

_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)
_TEMPLATES = "additional_chat_templates/"
"""Folder of a tokenizer's chat templates for tools and other uses, as transformers writes it."""
_WEIGHTS, _WHOLE, _INDEX = "*.safetensors", "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HEADER_SIZE_BYTES = 8
_LARGEST_HEADER = 100_000_000


def invalid_model(message: str) -> StageFailure:
    """Return the failure of a model that cannot be tuned."""
    return StageFailure(ExitCode.INVALID, Reason.INVALID_MODEL, message)


class ModelFiles:
    """The files of a model prefix; those in folders below it (other formats, originals) are not part of the model.

    Only the chat templates are, that a tokenizer has beside its first one.
    """

    def __init__(self, store: Store, location: S3Location) -> None:
        self._store = store
        self.location = location
        prefix = f"{location.key.rstrip('/')}/" if location.key else ""
        found = {info.key.removeprefix(prefix): info for info in store.list(location)}
        self._files = {name: info for name, info in found.items() if "/" not in name}
        self._small = [name for name in self._files if any(fnmatch(name, pattern) for pattern in _SMALL_FILES)]
        self._small += [name for name in found if _is_template(name)]
        self._weights = sorted(name for name in self._files if fnmatch(name, _WEIGHTS))

    @cached_property
    def weights(self) -> list[str]:
        """The files that transformers would load: folders hold copies of the weights in other forms, too.

        Raises StageFailure when they are not all there.
        """
        if _WHOLE in self._files:
            return [_WHOLE]
        if _INDEX in self._files:
            return self._of_index()
        raise invalid_model(
            f"{self.location.uri} holds neither {_WHOLE} nor {_INDEX}; it has {', '.join(self._weights[:5])}:"
            " save the model with save_pretrained of transformers"
        )

    def _of_index(self) -> list[str]:
        uri = self._location(_INDEX).uri
        try:
            named = sorted(set(json.loads(self._store.read(self._location(_INDEX)))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise invalid_model(f"{uri} is no index of weights ({error}); copy it again") from error
        if not named:
            raise invalid_model(f"{uri} is no index of weights (it names no file); copy it again")
        missing = [str(name) for name in named if name not in self._files]
        if missing:
            raise invalid_model(f"{uri} names files that are not there: {', '.join(missing[:3])}; copy them too")
        return named

    def check(self) -> None:
        """Raise StageFailure when the prefix does not hold a model."""
        uri = self.location.uri
        if not self._weights:
            pickles = [name for name in self._files if any(fnmatch(name, pattern) for pattern in _PICKLES)]
            if pickles:
                hint = f"it has {pickles[0]}, but pickled weights are never loaded: save them as safetensors"
            elif self._files:
                hint = f"it has {', '.join(sorted(self._files)[:5])}: copy the weights there too"
            else:
                hint = "it is empty: copy the model there, or mend spec.model.uri"
            raise invalid_model(f"{uri} holds no .safetensors weights; {hint}")
        if "config.json" not in self._files:
            raise invalid_model(f"{uri} holds no config.json; copy the model's config.json beside its weights")
        if not any(name in self._files for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise invalid_model(f"{uri} holds no tokenizer; copy the model's tokenizer.json beside its weights")
        if others := [name for name in self._weights if name not in self.weights]:
            log.info("weights-not-used", files=others, why=f"they are not those of {_WHOLE} or its index")

    def fetch_small(self, directory: Path) -> list[FileEntry]:
        """Download config, tokenizer with its chat templates, and index; return their entries."""
        directory.mkdir(parents=True, exist_ok=True)
        return [self._store.download(self._location(name), directory / name) for name in sorted(self._small)]

    def hash_weights(self, scratch: Path) -> list[FileEntry]:
        """Read every weight file once, one at a time below `scratch`, and return the entries with their digests."""
        entries = []
        for name in self.weights:
            path = scratch / "weights.safetensors"
            entry = self._store.download(self._location(name), path)
            check_safetensors(path, self._location(name).uri)
            path.unlink()
            log.info("weights-checked", uri=self._location(name).uri, bytes=entry.size)
            entries.append(entry)
        return entries

    def info(self, name: str) -> ObjectInfo:
        """Return what the listing says of a file."""
        return self._files[name]

    def _location(self, name: str) -> S3Location:
        return self.location.child(name)


def _is_template(name: str) -> bool:
    file = name.removeprefix(_TEMPLATES)
    return file != name and "/" not in file and file.endswith(".jinja")


def check_safetensors(path: Path, uri: str) -> dict[str, Any]:
    """Return the header (name -> dtype, shape, offsets). Raises StageFailure when the file is broken."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_SIZE_BYTES), "little")
        if size < _HEADER_SIZE_BYTES or length > min(size, _LARGEST_HEADER):
            raise invalid_model(f"{uri} is not a safetensors file, or it was cut off; copy it again")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError) as error:
            raise invalid_model(f"{uri} is not a safetensors file ({error}); copy it again") from error
    needed = _HEADER_SIZE_BYTES + length + max(ends, default=0)
    if size < needed:
        raise invalid_model(f"{uri} was cut off: it has {size} bytes of {needed}; copy it again")
    return header
