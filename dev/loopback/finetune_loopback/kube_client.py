"""A small synchronous client of the API server for tests: raw objects, no model of its own."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

YAML = "application/yaml"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
COMPONENTS = {
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "kwok": "system:masters",
}
"""Users of the control plane's other processes, and their groups."""


class ApiError(Exception):
    """The API server refused a request: `code`, and its Status object as `status`."""

    def __init__(self, code: int, status: dict[str, Any]) -> None:
        super().__init__(f"{code}: {status.get('message', status)}")
        self.code = code
        self.status = status

    @property
    def message(self) -> str:
        """The sentence a user reads."""
        return str(self.status.get("message", ""))


@dataclass(frozen=True)
class KubeApi:
    """A running API server."""

    url: str
    admin_token: str
    directory: Path

    @property
    def ca_file(self) -> Path:
        """PEM of the authority that signed the server's certificate."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def admin(self) -> Path:
        """Kubeconfig of a user who may do everything (group system:masters)."""
        return self.kubeconfig("admin", token=self.admin_token)

    @property
    def audit_log(self) -> Path:
        """JSON lines: every write that was asked for, with user, verb, object and code."""
        return self.directory / "audit.log"

    def component(self, user: str) -> Path:
        """Kubeconfig of one of COMPONENTS."""
        return self.kubeconfig(user.rpartition(":")[2], token=self._component_token(user))

    def token_table(self) -> str:
        """Return the static tokens, as kube-apiserver reads them."""
        lines = [f"{self.admin_token},admin,admin,system:masters"]
        lines += [f"{self._component_token(user)},{user},{user},{group}" for user, group in COMPONENTS.items()]
        return "\n".join(lines) + "\n"

    def _component_token(self, user: str) -> str:
        return f"{self.admin_token}-{user.rpartition(':')[2]}"

    def kubeconfig(self, name: str, *, token: str, namespace: str = "default") -> Path:
        """Write and return a kubeconfig that speaks with this token."""
        path = self.directory / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "loopback", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": "loopback", "user": name, "namespace": namespace}}],
            "current-context": name,
        }
        path.write_text(json.dumps(document))
        return path

    def token_for(
        self, namespace: str, account: str, *, audience: str | None = None, pod: dict[str, Any] | None = None
    ) -> str:
        """Return a token of a service account (made when missing), bound to a pod object if one is given."""
        self.ensure(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": account}})
        spec: dict[str, Any] = {"expirationSeconds": 86400, "audiences": [audience] if audience else []}
        if pod is not None:
            reference = {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", **reference}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return str(self.request("POST", path, body={"spec": spec})["status"]["token"])

    def namespace(self, name: str, **labels: str) -> str:
        """Make a namespace, if it is not there, and return its name."""
        self.ensure("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        return name

    def ensure(self, path: str, body: dict[str, Any]) -> None:
        """Create an object in a collection; one that is there already is left as it is."""
        try:
            self.request("POST", path, body=body)
        except ApiError as error:
            if error.code != 409:
                raise

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        token: str | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        **query: str,
    ) -> dict[str, Any]:
        """Ask the API server as the administrator, or with another token; a body of bytes is sent as it is.

        Raises ApiError when it refuses.
        """
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {
            "Authorization": f"Bearer {token or self.admin_token}",
            "Content-Type": content_type,
            "Accept": accept,
        }
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers=headers)  # noqa: S310 - https
        try:
            with urllib.request.urlopen(request, context=self._context(), timeout=30) as reply:  # noqa: S310
                return _parse(reply.read())
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, _parse(error.read())) from None

    def watch(self, path: str, *, seconds: int = 30, **query: str) -> Iterator[dict[str, Any]]:
        """Yield the watch events of a collection, at most `seconds` long."""
        arguments = urlencode({**query, "watch": "1", "timeoutSeconds": str(seconds)})
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        request = urllib.request.Request(f"{self.url}{path}?{arguments}", headers=headers)  # noqa: S310 - https
        with urllib.request.urlopen(request, context=self._context(), timeout=seconds + 10) as reply:  # noqa: S310
            for line in reply:
                yield json.loads(line)

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def _parse(text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text or b"{}")
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {"message": parsed}
