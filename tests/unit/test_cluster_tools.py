"""Keys and choices of the cluster's Go tools."""

from pathlib import Path

import pytest
from finetune_cluster import tools
from finetune_cluster.changed_source import Change
from finetune_cluster.layout import Layout, layout_from_environment
from finetune_cluster.process import ClusterError
from finetune_cluster.tools import (
    FROM_MACHINE,
    NODE_TOOLS,
    ON_DEMAND,
    TOOLS,
    TRAINING_OPERATOR_UNLIMITED,
    Tool,
    is_fresh,
    key_of,
    wanted,
)


def test_every_tool_is_pinned_by_a_module() -> None:
    for tool in TOOLS.values():
        module = (tool.folder / "go.mod").read_text()
        assert tool.package == "." or f"tool {tool.package}\n" in module or f"\t{tool.package}\n" in module


def test_node_tools_are_tools() -> None:
    assert set(NODE_TOOLS) <= set(TOOLS) - set(ON_DEMAND)


@pytest.mark.parametrize(
    ("names", "on_path", "expected"),
    [
        ([], [], [name for name in TOOLS if name not in ON_DEMAND]),
        ([], ["kubectl"], [name for name in TOOLS if name not in (*ON_DEMAND, *FROM_MACHINE)]),
        (["helm", "kubectl"], ["kubectl"], ["helm"]),
        (["kind"], [], ["kind"]),
        (["kind"], ["kind"], []),
        (["kwok"], [], ["kwok"]),
    ],
)
def test_wanted_leaves_out_what_the_machine_has(names: list[str], on_path: list[str], expected: list[str]) -> None:
    assert [tool.name for tool in wanted(names, on_path=on_path)] == expected


def test_wanted_refuses_unknown_names() -> None:
    with pytest.raises(ClusterError, match="No such tool: docker; the tools are etcd"):
        wanted(["docker"], on_path=[])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tools, "SOURCES", tmp_path)
    folder = tmp_path / "go" / "demo"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module demo\n")
    return folder


def test_key_depends_on_module_package_and_flags(module: Path) -> None:
    key = key_of(Tool("demo", "demo", "."))
    assert key == key_of(Tool("demo", "demo", "."))
    assert key != key_of(Tool("demo", "demo", "./cmd"))
    assert key != key_of(Tool("demo", "demo", ".", "-s"))
    assert key != key_of(Tool("demo", "demo", ".", tags="small"))
    (module / "go.sum").write_text("")
    assert key != key_of(Tool("demo", "demo", "."))


def test_key_depends_on_the_change(module: Path) -> None:
    change = Change("example.com/demo", "main.go", "a", "b")
    assert key_of(Tool("demo", "demo", ".")) != key_of(Tool("demo", "demo", ".", change=change))
    assert key_of(Tool("demo", "demo", ".", change=change)) == key_of(Tool("demo", "demo", ".", change=change))


def test_a_change_finds_its_statement_or_stops_the_build() -> None:
    change = Change("example.com/demo", "main.go", "limit = 20", "limit = 1000")
    assert change.apply("a\n\tlimit = 20\nb") == "a\n\tlimit = 1000\nb"
    for source in ("a\nb", "limit = 20\nlimit = 20"):
        with pytest.raises(ClusterError, match="does not hold exactly once: limit = 20"):
            change.apply(source)


def test_the_peers_limit_is_raised_or_the_build_stops() -> None:
    change = TRAINING_OPERATOR_UNLIMITED
    assert "restConfig.QPS, restConfig.Burst = 1000, 2000" in change.apply(f"a\n\t{change.stock}\nb")
    with pytest.raises(ClusterError, match="does not hold exactly once"):
        change.apply("func main() {}")


def test_tool_is_fresh_only_with_binary_and_present_key(module: Path, tmp_path: Path) -> None:
    tool, layout = Tool("demo", "demo", "."), Layout(tmp_path / "state")
    layout.bin.mkdir(parents=True)
    (layout.bin / "demo.key").write_text(key_of(tool))
    assert not is_fresh(layout, tool)
    (layout.bin / "demo").touch()
    assert is_fresh(layout, tool)
    (module / "go.mod").write_text("module other\n")
    assert not is_fresh(layout, tool)


def test_state_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CLUSTER_STATE", str(tmp_path))
    assert layout_from_environment().kubeconfig == tmp_path / "kubeconfig"
    monkeypatch.delenv("FINETUNE_CLUSTER_STATE")
    assert layout_from_environment().state == Path("/var/lib/finetune-cluster").resolve()
