"""Builders of the child objects: records in, plain dicts out, no I/O.

A child is built once, from the spec as it is at that moment, and never changed afterwards: the templates of Jobs
are immutable, and a running stage must not follow a later edit. Every pod meets Pod Security `restricted`.
"""

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.jobs import build_job
from finetune_operator.manifests.names import child_name, service_name
from finetune_operator.manifests.service import build_rendezvous_service

__all__ = ["Blueprint", "build_job", "build_rendezvous_service", "child_name", "service_name"]
