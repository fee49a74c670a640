"""Policy `spec.data.lossOn`: which tokens of a row the loss is taken on.

assistant       the answers, each with the token that ends it
lastAssistant   the last answer alone
completion      everything from the first answer to the end of the last: later questions too
all             every token
"""

from collections.abc import Sequence

from finetune_api.spec.data import LossOn


def supervise(loss_on: LossOn, answers: Sequence[Sequence[int]], length: int) -> list[bool]:
    """Return a flag for each of `length` tokens, given the indices of the tokens of each answer, ascending."""
    chosen: set[int] = set()
    if loss_on == "all":
        chosen = set(range(length))
    elif loss_on == "completion":
        inside = [index for answer in answers for index in answer]
        chosen = set(range(min(inside), max(inside) + 1)) if inside else set()
    else:
        chosen = {index for answer in (answers[-1:] if loss_on == "lastAssistant" else answers) for index in answer}
    return [index in chosen for index in range(length)]
