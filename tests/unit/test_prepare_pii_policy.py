"""What each action does about personal data in a row, and what is told of it."""

import pytest

from finetune_api.spec import Pii
from finetune_trainer.prepare.pii.policy import Privacy

CLEAN = {"prompt": "How?", "completion": "So.", "id": 1}
DIRTY = {"prompt": "I am a@example.com, tel 02 1234 5678", "completion": "Hi a@example.com", "owner": "b@example.com"}
MASKED = {"prompt": "I am <EMAIL_1>, tel <PHONE_1>", "completion": "Hi <EMAIL_1>", "owner": "<EMAIL_2>"}


@pytest.mark.parametrize(
    ("action", "outcome", "dropped"),
    [("none", DIRTY, 0), ("report", DIRTY, 0), ("mask", MASKED, 0), ("drop", None, 1)],
)
def test_actions(action, outcome, dropped):
    privacy = Privacy(Pii(action=action, region="IT"))
    assert privacy.apply(DIRTY) == outcome
    assert privacy.apply(CLEAN) is CLEAN
    counts = privacy.counts
    found = {"email": 3, "phone": 1} if action != "none" else {}
    assert (counts.places, counts.rows, counts.dropped) == (found, len(found) // 2, dropped)


def test_phone_numbers_without_a_country_need_a_region():
    privacy = Privacy(Pii(action="report", kinds=["phone"]))
    privacy.apply(DIRTY)
    privacy.apply({"prompt": "+39 02 1234 5678"})
    assert privacy.counts.places == {"phone": 1}
