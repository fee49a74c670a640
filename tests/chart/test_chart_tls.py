"""The certificate that the chart makes: it names the host that pods call, and its authority signed it."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509

from finetune_loopback.helm import NAMESPACE, RELEASE, find, render

HOST = f"{RELEASE}.{NAMESPACE}.svc"


def certificates(values: dict[str, Any] | None = None) -> tuple[x509.Certificate, x509.Certificate]:
    data = find(render(values), "Secret")["data"]
    leaf, authority = (x509.load_pem_x509_certificate(base64.b64decode(data[key])) for key in ("tls.crt", "ca.crt"))
    return leaf, authority


def test_secret_holds_no_key_of_the_authority() -> None:
    secret = find(render(), "Secret")

    assert secret["type"] == "kubernetes.io/tls"
    assert secret["data"].keys() == {"tls.crt", "tls.key", "ca.crt"}


def test_certificate_is_for_the_host_and_signed_by_the_authority() -> None:
    leaf, authority = certificates()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    leaf.verify_directly_issued_by(authority)
    assert HOST in names.get_values_for_type(x509.DNSName)
    assert f"{HOST}.cluster.local" in names.get_values_for_type(x509.DNSName)


def test_validity() -> None:
    leaf, _ = certificates({"tls": {"validityDays": 30}})

    assert abs(leaf.not_valid_after_utc - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)


def test_existing_secret_is_used_instead() -> None:
    manifests = render({"tls": {"existingSecret": "own"}})

    assert "Secret" not in {one["kind"] for one in manifests}
    for pod in (find(manifests, "Deployment")["spec"]["template"]["spec"], find(manifests, "Pod")["spec"]):
        assert [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] == ["own"]


def test_test_pod_sees_the_authority_alone() -> None:
    (volume,) = find(render(), "Pod")["spec"]["volumes"]

    assert [item["key"] for item in volume["secret"]["items"]] == ["ca.crt"]
