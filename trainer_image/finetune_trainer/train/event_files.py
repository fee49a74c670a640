"""TensorBoard: event files in a local folder, uploaded whole (`tensorboard --logdir` reads a copy of them)."""

from collections.abc import Sequence
from pathlib import Path

from finetune_api.uris import S3Location
from finetune_trainer.storage import Store
from finetune_trainer.train.tracking import Line


class EventFiles:
    """Writes the event files of one attempt."""

    def __init__(self, directory: Path, store: Store, location: S3Location) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        self._store = store
        self._location = location
        self._writer = SummaryWriter(log_dir=str(directory))

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines: a scalar for each number."""
        for line in lines:
            for name, value in line.numbers.items():
                self._writer.add_scalar(name, value, line.step, walltime=line.time)

    def upload(self) -> None:
        """Upload all files."""
        self._writer.flush()
        for path in sorted(self._directory.iterdir()):
            self._store.put(self._location.child(path.name), path.read_bytes())

    def close(self, *, succeeded: bool) -> None:
        """Close the files."""
        self._writer.close()
