"""`spec.model.newTokens`: a base model with a row for each token that the job adds to its vocabulary.

The rows are made in the local copy of the model's files, before anything loads them: so every number format, every
ZeRO stage and the export see one and the same model, as if it had come so. They begin as the mean of the rows that
the tokenizer knew before, which leaves the probabilities of all other tokens nearly as they were
(https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finetune_api.exitcodes import ExitCode
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageFailure


def new_token_ids(tokenizer: Path, new_tokens: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of new tokens, ascending, in a prepared tokenizer."""
    if not new_tokens:
        return ()
    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return tuple(sorted(loaded.convert_tokens_to_ids(list(new_tokens))))


def extend(model: Path, tokenizer: Path, new_tokens: Sequence[str]) -> None:
    """Give the model in a folder the rows of its new tokens: its configuration, and its weights if they are there."""
    ids = new_token_ids(tokenizer, new_tokens)
    if not ids:
        return
    old_size = AutoConfig.from_pretrained(model, local_files_only=True).get_text_config().vocab_size
    names = _matrices(model)
    extend_config(model, ids)
    paths = sorted(model.glob("*.safetensors"))
    found = [name for path in paths for name in _extend_file(path, names, ids, old_size=old_size)]
    if paths and not found:
        raise StageFailure(
            ExitCode.INVALID,
            Reason.INVALID_MODEL,
            f"spec.model.newTokens: the model's files hold no matrix called {' or '.join(sorted(names))} with"
            f" {old_size} rows, so that no row can be added; remove newTokens",
        )


def extend_config(model: Path, ids: Sequence[int]) -> None:
    """Write the vocabulary's new size into config.json; rows that the model has in reserve are used first."""
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, max(ids) + 1)
    config.save_pretrained(model)


def _matrices(model: Path) -> set[str]:
    """Return how the names of embeddings and head end: `embed_tokens.weight`, `lm_head.weight`."""
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, local_files_only=True))
    modules = {built.get_input_embeddings(), built.get_output_embeddings()}
    paths = [path for path, module in built.named_modules() if module in modules]
    return {f"{path.rpartition('.')[2]}.{part}" for path in paths for part in ("weight", "bias")}


def _extend_file(path: Path, names: set[str], ids: Sequence[int], *, old_size: int) -> list[str]:
    """Write a file anew with the rows, if it holds one of the matrices; return which."""
    with safe_open(path, framework="pt") as file:
        keys, metadata = list(file.keys()), file.metadata()
        found = [
            key
            for key in keys
            if ".".join(key.split(".")[-2:]) in names and file.get_slice(key).get_shape()[0] == old_size
        ]
    if not found:
        return []
    tensors: Mapping[str, torch.Tensor] = load_file(path)
    written = {key: _with_rows(tensor, ids) if key in found else tensor for key, tensor in tensors.items()}
    beside = path.with_suffix(".extended")
    save_file(written, beside, metadata=metadata)
    beside.replace(path)
    return found


def _with_rows(matrix: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Return a matrix [V, ...] with the mean of the rows before the first id in the place of each id."""
    mean = matrix[: ids[0]].float().mean(0).to(matrix.dtype)
    size = max(len(matrix), ids[-1] + 1)
    extended = torch.cat([matrix, mean.expand(size - len(matrix), *mean.shape)])
    extended[torch.tensor(ids)] = mean
    return extended
