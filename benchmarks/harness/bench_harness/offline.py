"""The variables of a contender's process that keep its libraries from a network and from one another's threads."""

from pathlib import Path


def offline(folder: Path) -> dict[str, str]:
    """Return the variables; what the libraries keep, they keep below a folder."""
    return {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
    }
