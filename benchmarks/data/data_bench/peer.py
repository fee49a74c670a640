"""The peer: `datasets`, with transformers' own chat template, tokens and marks of the answers."""

from pathlib import Path
from typing import Any

from data_bench.task import MARKED_TEMPLATE, Task


def encode(task: Task) -> dict[str, Any]:
    """Read and encode; the result is written as `datasets` writes it."""
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(task.tokenizer, local_files_only=True)
    tokenizer.chat_template = MARKED_TEMPLATE

    def tokens(batch: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        made = tokenizer.apply_chat_template(
            batch["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenizer_kwargs=NO_MASK
        )
        return {"input_ids": made["input_ids"], "assistant_masks": made["assistant_masks"]}

    rows = datasets.load_dataset("json", data_files=task.rows, split="train", cache_dir=task.folder)
    made = rows.map(tokens, batched=True, num_proc=task.processes, remove_columns=rows.column_names)
    return {"read": len(rows), "rows": len(made), "tokens": _tokens(made)}


NO_MASK = {"return_attention_mask": False}


def _tokens(rows: Any) -> int:
    """Return how many tokens there are, without making numbers of Python of them."""
    import pyarrow.compute as pc

    return int(sum(pc.sum(pc.list_value_length(chunk)).as_py() for chunk in rows.data.column("input_ids").chunks))


def encoded(task: Task, lines: list[int]) -> dict[int, tuple[list[int], list[int]]]:
    """Return tokens and flags of the rows of some lines."""
    import datasets

    files = sorted(Path(task.folder).rglob("cache-*.arrow"))
    rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(file)) for file in files])
    wanted = [line for line in lines if line <= len(rows)]
    return {line: (rows[line - 1]["input_ids"], rows[line - 1]["assistant_masks"]) for line in wanted}
