"""The adapter that is trained further, in S3: which files are used, and their digests."""

from pathlib import Path

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_api.run import FileEntry
from finetune_api.spec import FineTuneJobSpec, Method
from finetune_api.uris import parse_s3
from finetune_trainer.errors import StageFailure
from finetune_trainer.methods import initial_head
from finetune_trainer.methods.initial_head import LABELS_FILE
from finetune_trainer.prepare.model_files import check_safetensors
from finetune_trainer.storage import Store

_NAMES = ("adapter_config.json", "adapter_model.safetensors")


def fetch_initial_adapter(store: Store, method: Method, directory: Path) -> list[FileEntry]:
    """Download spec.method.initialAdapter, and return its entries; none when there is none.

    Where a file beside it tells its labels, it belongs to the adapter. Raises StageFailure when the prefix holds no
    adapter of peft.
    """
    if method.initial_adapter is None:
        return []
    location = parse_s3(method.initial_adapter.uri)
    missing = [name for name in _NAMES if not store.exists(location.child(name))]
    if missing:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            f"{location.uri} holds no {' and no '.join(missing)}; set spec.method.initialAdapter.uri to the folder of"
            " an adapter of peft (adapter/ of an earlier result), saved as safetensors: pickled weights are never"
            " loaded",
        )
    directory.mkdir(parents=True, exist_ok=True)
    names = [*_NAMES, *([LABELS_FILE] if store.exists(location.child(LABELS_FILE)) else [])]
    entries = [store.download(location.child(name), directory / name) for name in names]
    check_safetensors(directory / _NAMES[1], location.child(_NAMES[1]).uri)
    return entries


def labels_of_adapter(spec: FineTuneJobSpec, directory: Path) -> tuple[str, ...]:
    """Return the labels of a classifier's adapter by its rows, as numbers if the spec alone names them; or none.

    Raises StageFailure when nobody says what the rows of its head mean.
    """
    count = initial_head.rows(directory) if spec.method.initial_adapter is not None else 0
    if not count or (labels := initial_head.known_labels(directory)):
        return labels if count else ()
    if not spec.data.labels:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_SPEC,
            "spec.method.initialAdapter cannot be trained further: its labels are not known, since no"
            f" {LABELS_FILE} with id2label stands beside it; list them in spec.data.labels, in the order of the rows"
            " of its head",
        )
    return tuple(map(str, range(count)))
