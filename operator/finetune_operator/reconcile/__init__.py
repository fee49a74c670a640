"""The operator's decisions: `reconcile(observed, now) -> Plan`, pure.

No I/O, no clock, no chance: the same observation and the same time give the same plan, and a plan that was carried
out leads to no further change. Each policy has a module of its own and a table test of the same name:

    validate   can the spec be read                      waiting    why pods do not run yet, and for how long
    launch     the child of a stage, and when it may be  verdict    what a failed stage means
    prepare    from prepared data to training            retry      restarts, counted and free, with back-off
    training   pods of an attempt start and run          failure    the end without a result
    export     from trained weights to the result        success    the end with one
    facts      what the pods told                        status     phase, conditions, times, Events
    suspend    stop, keep, go on                         deadline   how long a job may take
    hang       a training that makes no step             node_loss  pods that nobody ends
    ttl        when a job that has ended is deleted      usage      what the pods took
    run_identity   when a changed spec begins another run

The life of a job: Pending, Preparing, (Queued,) Starting, Running, then Restarting and Starting as often as needed,
Exporting, and at last Succeeded or Failed, which is never left. Suspended may follow each of them but the last two.
"""

from finetune_operator.reconcile.cycle import reconcile

__all__ = ["reconcile"]
