"""The rows by which a result is compared with what was trained: few and short, since the export has no GPU."""

import torch

from finetune_trainer.data.cache import TokenCache

_ROWS = 4
_TOKENS = 128


def compared_rows(test: TokenCache, train: TokenCache) -> list[torch.Tensor]:
    """Return the beginnings of the first test rows, or training rows where there are none, int64 [T] each."""
    cache = test if len(test) else train
    tokens = (cache.row(number)[0][:_TOKENS] for number in range(min(_ROWS, len(cache))))
    return [torch.from_numpy(row.astype("int64")) for row in tokens]
