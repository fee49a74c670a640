"""How a job should end after its fault."""

from finetune_api.reasons import Phase, Reason
from finetune_api.status import FineTuneJobStatus
from finetune_chaos.deck import Round


def unexpected(one: Round, status: FineTuneJobStatus, *, missed: bool) -> list[str]:
    """Return how a job ended otherwise than its fault should make it end; one that was missed should succeed."""
    told = f"{status.phase} {status.reason}: {status.message}"
    wanted = Reason.SUCCEEDED if missed else one.fault.ends
    found = [] if status.reason is wanted else [f"ended {told}, expected {wanted}"]
    if missed:
        return found
    # The job was brought to Restarting by a rank that was killed, which counts.
    extra = 1 if one.phase is Phase.RESTARTING else 0
    fewest, most = (bound + extra for bound in one.fault.restarts)
    if not fewest <= status.restarts.total <= most:
        found.append(f"{status.restarts.total} restarts, expected {fewest} to {most}")
    if status.restarts.counted > one.fault.counted + extra:
        found.append(f"{status.restarts.counted} restarts counted, at most {one.fault.counted + extra} should")
    return found
