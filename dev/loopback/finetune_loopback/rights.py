"""What a user may do, as the API server's authorizer says: the answers of `kubectl auth can-i`."""

from finetune_loopback.kube_client import KubeApi

REVIEWS = "/apis/authorization.k8s.io/v1"
Rights = dict[tuple[str, str], set[str]]
"""Verbs by API group and resource; a right over named objects stands under `resource:name`."""


def own_rights(api: KubeApi, token: str, namespace: str) -> Rights:
    """Return every right that the bearer of a token has in a namespace and a user without roles has not."""
    nobody = _rights(api, api.token_for(namespace, "nobody"), namespace)
    theirs = _rights(api, token, namespace)
    return {
        what: verbs - nobody.get(what, set()) for what, verbs in theirs.items() if verbs - nobody.get(what, set())
    }


def may(api: KubeApi, user: str, verb: str, what: tuple[str, str], *, namespace: str = "", name: str = "") -> bool:
    """Whether a user may do it: over an API group's resource, in a namespace or (empty) everywhere."""
    group, (resource, _, subresource) = what[0], what[1].partition("/")
    attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
    spec = {
        "user": user,
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "resourceAttributes": {**attributes, "namespace": namespace, "name": name},
    }
    review = api.request("POST", f"{REVIEWS}/subjectaccessreviews", body={"spec": spec})
    return bool(review["status"]["allowed"])


def _rights(api: KubeApi, token: str, namespace: str) -> Rights:
    body = {"spec": {"namespace": namespace}}
    status = api.request("POST", f"{REVIEWS}/selfsubjectrulesreviews", body=body, token=token)["status"]
    if status["incomplete"]:
        raise AssertionError(f"the authorizer does not know all rules: {status.get('evaluationError')}")
    table: Rights = {}
    for rule in status["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames") or [""]:
                    key = (group, f"{resource}:{name}" if name else resource)
                    table.setdefault(key, set()).update(rule["verbs"])
    return table
