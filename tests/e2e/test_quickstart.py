"""`make quickstart`, as a newcomer runs it."""

import json

import pytest

from quickstart import tour


@pytest.mark.timeout(3600)
def test_the_tuned_model_knows_what_the_base_model_does_not(platform, capsys):
    assert tour.main() == 0
    summary = json.loads(tour.RESULT.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == summary
    assert summary["tuned_accuracy"] >= 0.6
    assert summary["base_accuracy"] < 0.15
    assert summary["tuned_loss"] < summary["base_loss"]
    assert summary["nodes"] == 2
