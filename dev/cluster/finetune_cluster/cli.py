"""The verbs of ``python3 dev/cluster``.

kind is used where a Docker engine answers, the namespaces cluster otherwise; what is above the cluster sees one
kubeconfig and cannot tell.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence

from . import images, kind, machine, namespaces, node, tools
from .layout import Layout, layout_from_environment
from .process import ClusterError, say


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python3 dev/cluster", description="The local Kubernetes cluster.")
    verbs = top.add_subparsers(dest="verb", required=True)
    binaries = verbs.add_parser("binaries", help="build the Go tools that are stale")
    binaries.add_argument("names", nargs="*", help=f"among {', '.join(tools.TOOLS)}")
    verbs.add_parser("packages", help="install the Debian packages that the namespaces cluster needs")
    verbs.add_parser("up", help="bring the cluster up, or keep it when it is healthy")
    down = verbs.add_parser("down", help="remove the cluster; caches stay")
    down.add_argument("--purge", action="store_true", help="remove the caches too")
    build = verbs.add_parser("images", help="build the project's images and load them into the cluster")
    build.add_argument("names", nargs="*", help=f"among {', '.join(images.PROJECT_IMAGES)}")
    execute = verbs.add_parser("exec", help="run a command on a node: exec NODE -- COMMAND")
    execute.add_argument("node")
    execute.add_argument("command", nargs="+")
    for verb, help_text in (("kill", "kill a node, as a crash would"), ("start", "bring a killed node back")):
        verbs.add_parser(verb, help=help_text).add_argument("node")
    verbs.add_parser("status", help="print nodes and pods")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    arguments = parser().parse_args(argv)
    try:
        _run(layout_from_environment(), arguments)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(layout: Layout, arguments: argparse.Namespace) -> None:
    match arguments.verb:
        case "binaries":
            tools.build_tools(layout, arguments.names)
            print(layout.bin)
        case "packages":
            machine.install_packages()
        case "up":
            _up(layout)
        case "down":
            _down(layout, purge=arguments.purge)
        case "images":
            _images(layout, arguments.names)
        case _:
            _on_node(layout, arguments)


def _up(layout: Layout) -> None:
    started = time.monotonic()
    (kind if machine.docker_answers() else namespaces).up(layout)
    say(f"  up after {time.monotonic() - started:.1f} s")
    print(f"export KUBECONFIG={layout.kubeconfig}")


def _down(layout: Layout, *, purge: bool) -> None:
    (kind if machine.docker_answers() else namespaces).down(layout)
    if purge and layout.state.exists():
        shutil.rmtree(layout.state)


def _images(layout: Layout, names: list[str]) -> None:
    with_docker = machine.docker_answers()
    sources = images.chosen(names)
    images.build_project_images(layout, sources, with_docker=with_docker)
    (kind if with_docker else namespaces).load_images(layout, [source.name for source in sources])


def _on_node(layout: Layout, arguments: argparse.Namespace) -> None:
    with_docker = machine.docker_answers()
    match arguments.verb:
        case "exec" if with_docker:
            _replace_process(kind.exec_argv(layout, arguments.node, arguments.command))
        case "exec":
            _replace_process(node.inside(namespaces.find_node(arguments.node), arguments.command))
        case "kill" if with_docker:
            kind.kill_node(layout, arguments.node)
        case "kill":
            namespaces.kill_node(arguments.node)
        case "start":
            (kind if with_docker else namespaces).start_node(layout, arguments.node)
        case "status":
            (kind if with_docker else namespaces).status(layout)


def _replace_process(argv: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - the caller wants this command, with its streams and its exit code
