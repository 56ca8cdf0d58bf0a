"""The section of a report about how its run was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from bayes_cannon.report_html import Column, Grid, Note
from bayes_cannon.report_inputs import ReportInputs
from bayes_cannon.report_parts import Item
from bayes_cannon.report_registry import section
from bayes_cannon.software import software_versions

__all__ = ["settings"]

_VERSIONS = ("pymc", "pytensor", "nutpie", "arviz", "numpy", "scipy", "xarray", "zarr", "astropy",
             "matplotlib")  # fmt: skip


@section(
    "settings", "Settings and versions",
    "What made this run, so that it can be made again.",
    order=170,
)  # fmt: skip
def settings(inputs: ReportInputs) -> Iterator[Item]:
    """Settings of every stage and versions of the programs."""
    parts: dict[str, Any] = {
        "inference": {k: inputs.summary[k] for k in ("method", "seed") if k in inputs.summary}
        | dict(inputs.summary.get("settings") or {}),
        "priors": inputs.summary.get("priors") or {},
    }
    model = inputs.summary.get("model") or (inputs.cannon.settings if inputs.cannon else {})
    parts |= {"training": model.get("training") or {}, "dataset": model.get("dataset") or {}}
    for title, content in parts.items():
        rows = list(_flat(content))
        if rows:
            columns = (Column("setting"), Column("value", kind="wide"))
            yield Grid(f"{title.capitalize()}.", columns, rows)
    if not inputs.summary:
        yield Note("The run has no summary.json, so its settings are not known.", gone=True)
    trained = dict(model.get("versions") or {})
    now = software_versions(*_VERSIONS)
    versions = [(n, str(trained.get(n, "")), v) for n, v in now.items() if v]
    heads = ("program", "when trained", "when this report was made")
    yield Grid("Versions.", tuple(map(Column, heads)), versions)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as names with dots and plain values."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, str) and value[:1] in "[{":
            with suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)
