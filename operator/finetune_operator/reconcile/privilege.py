"""Policy: fields that lift the walls between pods and nodes are an admin's to set.

At `kubectl apply` the chart's admission policy refuses them to whoever lacks the right to use them, which it alone
can tell: an object does not say who wrote it. Where that policy is not installed, nobody may set them.
"""

from finetune_api.spec import FineTuneJobSpec


def privileged_fields(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """Return the fields of the spec that only an admin may set, as the user wrote them."""
    template = spec.pod_template
    used = {
        "hostNetwork": template.host_network,
        "privileged": template.privileged,
        "capabilities": bool(template.capabilities),
    }
    paths = [name for name, is_used in used.items() if is_used]
    paths += [f"volumes[{number}].hostPath" for number, one in enumerate(template.volumes) if one.host_path]
    return tuple(f"spec.podTemplate.{path}" for path in paths)
