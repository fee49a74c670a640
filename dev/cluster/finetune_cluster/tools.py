"""The Go programs of the cluster: built from committed go.mod files, rebuilt only when their key changes.

Each module folder under ``dev/cluster/go`` pins one upstream project, because their replace directives exclude one
another. The key of a tool is the hash of that folder and of the build's flags, so a fresh clone on the same machine
finds its tools built.
"""

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from .changed_source import Change, changed_source
from .layout import SOURCES, Layout
from .process import ClusterError, locked, run, step

KUBERNETES_VERSION = "v1.34.4"
ETCD_VERSION = "3.6.16"
COREDNS_VERSION = "v1.14.7"
PAUSE_VERSION = "3.10.1"


@dataclass(frozen=True)
class Tool:
    """One program: its name, the module folder that pins it, its package, linker flags, build tags and change."""

    name: str
    module: str
    package: str
    linker_flags: str = "-s -w"
    tags: str = ""
    change: Change | None = None

    @property
    def folder(self) -> Path:
        """The module's folder in the repository."""
        return SOURCES / "go" / self.module


def _kubernetes(name: str) -> Tool:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    version = "k8s.io/component-base/version"
    stamps = (
        f"-X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    )
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", f"-s -w {stamps}")


# kwok starts a watch that was closed anew at resourceVersion 0, not where it was, and so reads every pod again: under
# load it patched pods up to six times, also after they had succeeded, where two patches are due. 0.8.0 is alike.
KWOK_GOES_ON = Change(
    "sigs.k8s.io/kwok",
    "pkg/utils/informer/event.go",
    "if !o.EnableListPager || o.EnableStreamWatch {",
    'if opts.ResourceVersion == "" && (!o.EnableListPager || o.EnableStreamWatch) {',
)
# No flag of this version raises the limit of 20 requests a second that its client library sets.
TRAINING_OPERATOR_UNLIMITED = Change(
    "github.com/kubeflow/training-operator",
    "cmd/training-operator.v1/main.go",
    "mgr, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{",
    """restConfig := ctrl.GetConfigOrDie()
	restConfig.QPS, restConfig.Burst = 1000, 2000
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{""",
)


def _training_operator(name: str, change: Change | None = None) -> Tool:
    package = "github.com/kubeflow/training-operator/cmd/training-operator.v1"
    return Tool(name, "training-operator", package, change=change)


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        Tool("helm", "helm", "helm.sh/helm/v3/cmd/helm", "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0"),
        Tool("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
        _kubernetes("kubeadm"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubelet"),
        Tool("coredns", "coredns", "github.com/coredns/coredns"),
        Tool("pause", "pause", "."),
        _kubernetes("kubectl"),
        Tool("kind", "kind", "sigs.k8s.io/kind"),
        Tool("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", change=KWOK_GOES_ON),
        # Only rules are checked: without its fifty service discoveries promtool builds in a fraction of the time.
        Tool("promtool", "prometheus", "github.com/prometheus/prometheus/cmd/promtool", tags="remove_all_sd"),
        _training_operator("training-operator"),
        _training_operator("training-operator-tuned", TRAINING_OPERATOR_UNLIMITED),
    )
}
# Built only where the machine lacks them, and kind only where a Docker engine answers.
FROM_MACHINE = ("kubectl", "kind")
# Built only when somebody asks for them by name: the cluster itself runs without them.
ON_DEMAND = ("kind", "kwok", "promtool", "training-operator", "training-operator-tuned")
NODE_TOOLS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubeadm",
    "coredns",
    "pause",
)


def key_of(tool: Tool) -> str:
    """Content key of a tool: hexadecimal digest of its module folder, package, flags and change."""
    tags = f"{tool.tags}\0" if tool.tags else ""
    change = f"{tool.change}\0" if tool.change else ""
    digest = hashlib.sha256(f"{tool.package}\0{tool.linker_flags}\0{tags}{change}".encode())
    for path in sorted(tool.folder.iterdir()):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def wanted(names: Iterable[str], *, on_path: Iterable[str]) -> list[Tool]:
    """The tools to have for these names, or for none: all that the cluster needs and the machine lacks.

    Raises ClusterError for a name that is no tool of ours.
    """
    chosen = list(names)
    unknown = [name for name in chosen if name not in TOOLS]
    if unknown:
        raise ClusterError(f"No such tool: {', '.join(unknown)}; the tools are {', '.join(TOOLS)}.")
    present = set(on_path)
    defaults = [name for name in TOOLS if name not in ON_DEMAND]
    return [TOOLS[name] for name in chosen or defaults if not (name in FROM_MACHINE and name in present)]


def tools_on_path() -> list[str]:
    """Those of the optional tools that the machine has already."""
    return [name for name in FROM_MACHINE if shutil.which(name)]


def find_tool(layout: Layout, name: str) -> Path:
    """Path of a tool: ours when built, else the machine's. Raises ClusterError when there is neither."""
    ours = layout.bin / name
    if ours.exists():
        return ours
    machines = shutil.which(name)
    if machines is None:
        raise ClusterError(f"{name} is missing: run `python3 dev/cluster binaries {name}`.")
    return Path(machines)


def build_tools(layout: Layout, names: Iterable[str] = ()) -> None:
    """Build those of the named tools (all, when none is named) whose key changed."""
    for tool in wanted(names, on_path=tools_on_path()):
        if is_fresh(layout, tool):
            continue
        with locked(layout.locks / f"build-{tool.module}"):
            if not is_fresh(layout, tool):
                with step(f"build {tool.name}"):
                    _build(layout, tool)


def is_fresh(layout: Layout, tool: Tool) -> bool:
    """Whether the built tool stands and its key is the present one."""
    stamp = layout.bin / f"{tool.name}.key"
    return (layout.bin / tool.name).exists() and stamp.exists() and stamp.read_text() == key_of(tool)


def _build(layout: Layout, tool: Tool) -> None:
    if shutil.which("go") is None:
        raise ClusterError("Go is not installed: put a Go toolchain of at least 1.26 on PATH, then run this again.")
    layout.bin.mkdir(parents=True, exist_ok=True)
    fresh = layout.bin / f".{tool.name}.new"
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", tool.linker_flags, "-tags", tool.tags, "-o", str(fresh)]
    with changed_source(tool.folder, tool.change) if tool.change else nullcontext(tool.folder) as folder:
        run(["go", "build", *flags, tool.package], cwd=folder, env={"CGO_ENABLED": "0"})
    fresh.replace(layout.bin / tool.name)
    stamp = layout.bin / f".{tool.name}.key.new"
    stamp.write_text(key_of(tool))
    stamp.replace(layout.bin / f"{tool.name}.key")
