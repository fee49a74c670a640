"""Virtual tokens: where they stand in a run of documents, each of which begins with the same ones."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class VirtualTokens:
    """V virtual tokens before each of D documents of T tokens of text in all: a run of D * V + T places."""

    count: int
    places: torch.Tensor
    """int64 [D * V], of the virtual tokens."""
    texts: torch.Tensor
    """int64 [T], of the documents' own tokens."""

    def before(self, virtual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the whole run, [D * V + T, ...], of the virtual tokens' rows [V, ...] and the text's [T, ...]."""
        documents = len(self.places) // self.count
        rows = torch.cat([virtual.repeat(documents, *[1] * (virtual.ndim - 1)), text])
        # Each place is written once, so that the gradient is a gather: nothing has to be summed up but the copies.
        return torch.empty_like(rows).index_copy(0, torch.cat([self.places, self.texts]), rows)


def place(
    bounds: NDArray[np.int64], count: int, device: torch.device
) -> tuple[NDArray[np.int64], VirtualTokens | None]:
    """Return the documents' boundaries [D + 1] with `count` virtual tokens before each, and where these stand."""
    if not count:
        return bounds, None
    inserted = count * np.arange(len(bounds), dtype=np.int64)
    places = (bounds + inserted)[:-1, None] + np.arange(count)
    texts = np.arange(bounds[-1]) + np.repeat(inserted[1:], np.diff(bounds))

    def move(array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return bounds + inserted, VirtualTokens(count, move(places.ravel()), move(texts))
