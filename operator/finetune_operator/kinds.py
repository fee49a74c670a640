"""The kinds of object that the operator reads or writes, and where the API server keeps them."""

from typing import NamedTuple
from urllib.parse import quote

import finetune_api
from finetune_operator.manifests.names import MANAGED_BY, MANAGED_BY_LABEL

CHILD_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


class Kind(NamedTuple):
    """One kind: its API version, its name in manifests and its name in URLs."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the URL path of one object, of a namespace's objects, or of all (both None)."""
        root = "/api" if "/" not in self.api_version else "/apis"
        parts = [root, self.api_version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


FINE_TUNE_JOB = Kind(finetune_api.API_VERSION, finetune_api.KIND, finetune_api.PLURAL)
JOB = Kind("batch/v1", "Job", "jobs")
POD = Kind("v1", "Pod", "pods")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
VOLCANO_POD_GROUP = Kind("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups")
COSCHEDULING_POD_GROUP = Kind("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
API_GROUP_LIST = Kind("v1", "APIGroupList", "apis")
TOKEN_REVIEW = Kind("authentication.k8s.io/v1", "TokenReview", "tokenreviews")


def kind_of(manifest: dict[str, object]) -> Kind:
    """Return the kind of a child's manifest. Raises KeyError for a kind the operator does not write."""
    return _BY_NAME[(str(manifest["apiVersion"]), str(manifest["kind"]))]


CHILDREN = (JOB, POD, NETWORK_POLICY, VOLCANO_POD_GROUP, COSCHEDULING_POD_GROUP)
_BY_NAME = {(kind.api_version, kind.kind): kind for kind in CHILDREN}
