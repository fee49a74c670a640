"""What a contender is told."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_LENGTH = 2048
TURN = "{{ '<|im_start|>' + message['role'] + '\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TEMPLATE = (
    "{% for message in messages %}" + TURN + "{{ message['content'] + '<|im_end|>' }}{{ '\n' }}{% endfor %}" + PROMPT
)
MARKED_TEMPLATE = (
    "{% for message in messages %}" + TURN + "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}" + PROMPT
)
"""The same text, with the marks by which transformers knows the answers."""


@dataclass(frozen=True)
class Task:
    """Rows to encode, with which tokenizer, in how many processes, and where to put the result."""

    rows: str
    tokenizer: str
    folder: str
    processes: int

    def save(self, path: Path) -> None:
        """Write the task to a file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Task":
        """Read a task."""
        fields: dict[str, Any] = json.loads(path.read_text())
        return cls(**fields)
