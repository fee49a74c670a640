"""The API server, as the chaos sees it: raw objects, patient while the server is down, because it kills it itself."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

Value = TypeVar("Value")
Object = dict[str, Any]

PATIENCE = 120.0
"""Seconds that a request is tried while the API server does not answer."""
REQUEST_SECONDS = 20.0
RETRIED_CODES = frozenset({403, 429, 500, 502, 503, 504})
"""403 too: an API server that has just started knows no role yet, and we are the administrator."""
COLLECTIONS = {
    "pods": "/api/v1/namespaces/{namespace}/pods",
    "services": "/api/v1/namespaces/{namespace}/services",
    "events": "/api/v1/namespaces/{namespace}/events",
    "jobs": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "finetunejobs": "/apis/finetune-operator.io/v1alpha1/namespaces/{namespace}/finetunejobs",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "deployments": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "nodes": "/api/v1/nodes",
}
JSON = "application/json"
MERGE = "application/merge-patch+json"


class KubeError(Exception):
    """The API server refused a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Kube:
    """The API server of the cluster that KUBECONFIG names; safe for use by several threads."""

    def __init__(self, namespace: str, patience: float = PATIENCE) -> None:
        self.namespace = namespace
        self._patience = patience
        settings = client.Configuration()
        # The library itself reads the variable when it is imported.
        config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        self._host = settings.host
        self._pool = urllib3.PoolManager(
            ca_certs=settings.ssl_ca_cert,
            cert_file=settings.cert_file,
            key_file=settings.key_file,
            maxsize=8,
            retries=False,
        )

    def path(self, kind: str, name: str = "", *, namespace: str = "") -> str:
        """Return the path of a collection, or of one object in it."""
        collection = COLLECTIONS[kind].format(namespace=namespace or self.namespace)
        return f"{collection}/{name}" if name else collection

    def list_page(self, kind: str, *, selector: str = "", namespace: str = "") -> Object:
        """Return the objects of a kind as a list with its resourceVersion."""
        return self.request("GET", self.path(kind, namespace=namespace), labelSelector=selector)

    def items(self, kind: str, *, selector: str = "", namespace: str = "") -> list[Object]:
        """Return the objects of a kind."""
        return list(self.list_page(kind, selector=selector, namespace=namespace)["items"])

    def find(self, kind: str, name: str, *, namespace: str = "") -> Object | None:
        """Return one object, or None when it is not there."""
        try:
            return self.request("GET", self.path(kind, name, namespace=namespace))
        except KubeError as error:
            if error.code == 404:
                return None
            raise

    def create(self, kind: str, manifest: Object) -> None:
        """Create an object; one that is there already, as after a lost answer, is left as it is."""
        try:
            self.request("POST", self.path(kind), body=manifest)
        except KubeError as error:
            if error.code != 409:
                raise

    def patch(self, kind: str, name: str, change: Object, *, namespace: str = "") -> Object:
        """Merge a change into an object."""
        path = self.path(kind, name, namespace=namespace)
        return self.request("PATCH", path, body=change, content_type=MERGE)

    def delete(self, kind: str, name: str, *, grace: int | None = None, namespace: str = "") -> None:
        """Delete an object and, in the background, what it owns; one that is gone already is no error."""
        body: Object = {"propagationPolicy": "Background"}
        body |= {} if grace is None else {"gracePeriodSeconds": grace}
        try:
            self.request("DELETE", self.path(kind, name, namespace=namespace), body=body)
        except KubeError as error:
            if error.code != 404:
                raise

    def request(
        self, method: str, path: str, *, body: Object | None = None, content_type: str = JSON, **query: str
    ) -> Object:
        """Return the server's answer, tried again through an outage. Raises KubeError when it refuses."""

        def ask() -> Object:
            answer = self._send(method, path, query, body=body, content_type=content_type, seconds=REQUEST_SECONDS)
            return dict(json.loads(answer.data))

        return patiently(ask, self._patience)

    def watch(self, kind: str, version: str, seconds: int) -> Iterator[Object]:
        """Yield the changes of a kind since a resourceVersion, for some seconds.

        Raises KubeError, and urllib3's errors when the server dies meanwhile.
        """
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)}
        answer = self._send("GET", self.path(kind), query, seconds=seconds + REQUEST_SECONDS, whole=False)
        try:
            buffer = b""
            for chunk in answer.stream():
                *lines, buffer = (buffer + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        finally:
            answer.close()

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        *,
        seconds: float,
        body: Object | None = None,
        content_type: str = JSON,
        whole: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        answer = self._pool.request(
            method,
            f"{self._host}{path}?{urlencode(query)}",
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type, "Accept": JSON},
            timeout=urllib3.Timeout(connect=5, read=seconds),
            preload_content=whole,
        )
        if answer.status >= 400:
            raise KubeError(answer.status, answer.data.decode(errors="replace")[:500])
        return answer


def patiently(ask: Callable[[], Value], seconds: float) -> Value:
    """Return what `ask` returns, tried again for some seconds while the API server is away or overloaded."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except KubeError as error:
            if error.code not in RETRIED_CODES or time.monotonic() > end:
                raise
        except (urllib3.exceptions.HTTPError, OSError):
            if time.monotonic() > end:
                raise
        time.sleep(0.5)
