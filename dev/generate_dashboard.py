"""Write the chart's Grafana dashboard from the table in dashboard.yaml: charts/finetune-operator/dashboards/.

`python dev/generate_dashboard.py` writes it; with `--check` it writes nothing and exits 1 when it is stale.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
TABLE = HERE / "dashboard.yaml"
TARGET = HERE.parent / "charts/finetune-operator/dashboards/finetune-operator.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
HEIGHTS = {"timeseries": 7, "stat": 4}
DEFAULTS = {"kind": "timeseries", "unit": "short", "width": 8, "stacked": False}

Json = dict[str, Any]


def build_dashboard() -> Json:
    """Return the dashboard as Grafana imports it."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "refresh": 1}
    names = _variable("name", 'finetune_operator_job_step{namespace=~"$namespace"}')
    return {
        "uid": "finetune-operator",
        "title": "finetune-operator",
        "tags": ["finetune-operator"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, _variable("namespace", "finetune_operator_jobs"), names]},
        "panels": _place(yaml.safe_load(TABLE.read_text())),
    }


def _place(rows: dict[str, list[Json]]) -> list[Json]:
    """Return all rows and their panels, placed from left to right."""
    found: list[Json] = []
    y = 0
    for title, panels in rows.items():
        found.append(_row(title, number=len(found) + 1, y=y))
        x, y, height = 0, y + 1, 0
        for panel in ({**DEFAULTS, **one} for one in panels):
            if x + panel["width"] > COLUMNS:
                x, y, height = 0, y + height, 0
            found.append(_panel(panel, number=len(found) + 1, x=x, y=y))
            x, height = x + panel["width"], max(height, HEIGHTS[panel["kind"]])
        y += height
    return found


def _row(title: str, *, number: int, y: int) -> Json:
    place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Json, *, number: int, x: int, y: int) -> Json:
    lines = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel["stacked"] else {}
    return {
        "id": number,
        "type": panel["kind"],
        "title": panel["title"],
        "description": panel["text"],
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel["width"], "h": HEIGHTS[panel["kind"]]},
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0, "custom": lines}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
            for place, (legend, query) in enumerate(panel["queries"].items())
        ],
    }


def _variable(name: str, metric: str) -> Json:
    """Return a variable over the values of a label."""
    query = {"query": f"label_values({metric}, {name})", "refId": name}
    every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2, "sort": 1, **every}


def main() -> int:
    """Write or check the file. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is stale")
    check = parser.parse_args().check
    text = json.dumps(build_dashboard(), indent=1) + "\n"
    stale = not TARGET.is_file() or TARGET.read_text() != text
    if stale and check:
        sys.stderr.write(f"{TARGET.name} is stale; run `make generate`\n")
    elif stale:
        TARGET.write_text(text)
        sys.stdout.write(f"wrote {TARGET.name}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
