"""The data benchmark from end to end: both contenders give every row the same tokens and the same flags."""

import json
from pathlib import Path

from data_bench.cli import main


def test_both_contenders_encode_the_same_rows(tiny_model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.json"
    arguments = ["--size", "0.3", "--sample", "0.3", "--repeats", "1", "--processes", "2"]
    assert main([*arguments, "--tokenizer", str(tiny_model), "--out", str(out)]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["equal_rows"] > 50
    assert line["duplicates"] > 0
    assert line["ratio_to_datasets_map"] > 0
    assert 50 < line["peak_memory_mb"] < 3000
    assert json.loads(out.read_text())["all"]["read"] == line["rows"]
