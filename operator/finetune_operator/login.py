"""Where the API server is and how the operator proves who it is.

In a pod: the mounted service account, at the address that the kubelet put into the environment (so that a broken
cluster DNS does not stop the operator). Elsewhere: the kubeconfig. The kubelet renews the mounted token every hour,
so the header is built anew every minute instead of once.
"""

import dataclasses
import os
import time

import kopf

HEADER_SECONDS = 60


def log_in(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """Return how to reach the API server. Raises kopf.LoginError without a service account and a kubeconfig."""
    if not os.environ.get("KUBECONFIG"):
        account = kopf.login_with_service_account(settings=settings)
        if account is not None:
            return dataclasses.replace(account, server=_in_cluster_server())
    found = kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise kopf.LoginError("no service account is mounted and no kubeconfig is found; set KUBECONFIG")
    return found


def _in_cluster_server() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT_HTTPS", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class Headers:
    """The Authorization header, read anew every minute and after a refusal."""

    def __init__(self, settings: kopf.OperatorSettings) -> None:
        self._settings = settings
        self._headers: dict[str, str] = {}
        self._read_at = float("-inf")

    def current(self) -> dict[str, str]:
        """Return the headers to send now."""
        if time.monotonic() - self._read_at > HEADER_SECONDS:
            self._headers = log_in(self._settings).as_http_headers()
            self._read_at = time.monotonic()
        return self._headers

    def expire(self) -> None:
        """Read the credentials again before the next request."""
        self._read_at = float("-inf")
