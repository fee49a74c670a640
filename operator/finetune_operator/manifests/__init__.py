"""Builders of the child objects: records in, plain dicts out, no I/O.

A child is built once, from the spec as it is at that moment, and never changed afterwards: the templates of Jobs
are immutable, and a running stage must not follow a later edit. Every pod meets Pod Security `restricted`.
"""

from finetune_operator.manifests.blueprint import Blueprint
from finetune_operator.manifests.children import build_children, build_policies, build_probe
from finetune_operator.manifests.names import child_name

__all__ = ["Blueprint", "build_children", "build_policies", "build_probe", "child_name"]
