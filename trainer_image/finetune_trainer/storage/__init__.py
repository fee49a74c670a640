"""S3, as the stages use it.

    store = open_s3(spec.storage.s3)
    entry = store.upload(path, location)             # SHA-256 computed on the way
    store.download(location, path, sha256=entry.sha256)
    store.put_new(location, data, writer=writer)     # the one atomic publication

Object stores have no rename and clients do not notice every flipped bit, therefore: content is identified by
SHA-256 on both ways, nothing is overwritten, and what must appear at once is one conditional PUT.
"""

from finetune_trainer.storage.faults import CorruptObject
from finetune_trainer.storage.retry import PATIENT, RetryBudget
from finetune_trainer.storage.store import ObjectInfo, Store, open_s3

__all__ = ["PATIENT", "CorruptObject", "ObjectInfo", "RetryBudget", "Store", "open_s3"]
