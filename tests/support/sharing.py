"""How processes side by side share out the tests (`-n 2 --dist loadfile`)."""

from xdist.scheduler import LoadFileScheduling

CLUSTER = ("tests/chaos/", "tests/e2e/")


class FilesAndCluster(LoadFileScheduling):
    """Gives each process whole files, and all that play on the local cluster to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what stays together: https://pytest-xdist.readthedocs.io/en/stable/distribution.html."""
        return "cluster" if nodeid.startswith(CLUSTER) else super()._split_scope(nodeid)
