"""Where everything of the cluster lies: one state folder, so that nothing else on the machine is touched."""

import os
from dataclasses import dataclass
from pathlib import Path

STATE_VARIABLE = "FINETUNE_CLUSTER_STATE"
DEFAULT_STATE = "/var/lib/finetune-cluster"
REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = REPOSITORY / "dev" / "cluster"


@dataclass(frozen=True)
class Layout:
    """Paths under the state folder. Caches survive ``down``; ``nodes`` does not."""

    state: Path

    @property
    def bin(self) -> Path:
        """Built Go tools, each beside its ``<tool>.key``."""
        return self.state / "bin"

    @property
    def locks(self) -> Path:
        """Lock files, one for each thing that two callers must not do at once."""
        return self.state / "locks"

    @property
    def containers(self) -> Path:
        """Image store of buildah."""
        return self.state / "containers"

    @property
    def uv_cache(self) -> Path:
        """Download cache shared by image builds."""
        return self.state / "uv-cache"

    @property
    def keys(self) -> Path:
        """Content keys of the images that were built last."""
        return self.state / "keys"

    @property
    def scratch(self) -> Path:
        """Temporary files of builds, on the same disk as the stores."""
        return self.state / "scratch"

    @property
    def nodes(self) -> Path:
        """One folder per node of the namespaces cluster."""
        return self.state / "nodes"

    @property
    def kubeconfig(self) -> Path:
        """Administrator's kubeconfig of whichever cluster runs."""
        return self.state / "kubeconfig"

    @property
    def record(self) -> Path:
        """What was started last, to tell a healthy cluster from leftovers."""
        return self.state / "cluster.json"

    def node(self, name: str) -> Path:
        """Folder of one node."""
        return self.nodes / name


def layout_from_environment() -> Layout:
    """Layout under ``FINETUNE_CLUSTER_STATE``, or under the default folder."""
    return Layout(Path(os.environ.get(STATE_VARIABLE, DEFAULT_STATE)).resolve())
