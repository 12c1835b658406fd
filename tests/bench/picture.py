"""The curves: throughput against senders, and latency of the REST API against load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from tests.bench.contenders import RECIPES
from tests.bench.images import CT
from tests.bench.measure import quantile
from tests.bench.table import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.use("Agg")


def draw(path: Path, results: Sequence[Result]) -> None:
    """Write the picture; without stores of CT images there is nothing to draw."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of its back end

    stores = [result for result in results if result.case.work == "store" and _is_drawn(result.case.parameters)]
    stores.sort(key=lambda result: result.case.parameters["senders"])
    if not stores:
        return
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    right.set_yscale("log")
    for name in RECIPES:
        _draw_throughput(left, name, stores)
        _draw_latency(right, name, stores)
    _label(left, "unmodified senders, one association each", f"{CT.name} images per second", "Throughput")
    left.set_xscale("log", base=2)
    left.set_xticks([r.case.parameters["senders"] for r in stores], [str(r.case.parameters["senders"]) for r in stores])
    _label(
        right, f"{CT.name} images stored per second meanwhile", "GET /system, ms (p50 thin, p99 thick)", "REST latency"
    )
    figure.savefig(path)
    plt.close(figure)


def _is_drawn(parameters: Any) -> bool:
    return bool(parameters["size"] == CT.name and parameters["latency"] == 0.025)


def _draw_throughput(axes: Axes, name: str, stores: Sequence[Result]) -> None:
    points = [(r.case.parameters["senders"], r.median(name), r.values(name)) for r in stores if r.values(name)]
    if points:
        senders, medians, rounds = zip(*points, strict=True)
        (line,) = axes.plot(senders, medians, marker="o", label=name)
        lows, highs = [min(values) for values in rounds], [max(values) for values in rounds]
        axes.fill_between(senders, lows, highs, color=line.get_color(), alpha=0.15)


def _draw_latency(axes: Axes, name: str, stores: Sequence[Result]) -> None:
    points = sorted((r.median(name) or 0.0, *_latencies(r, name)) for r in stores if r.values(name))
    if points:
        load, middle, late = zip(*points, strict=True)
        (line,) = axes.plot(load, late, marker="o", linewidth=2, label=name)
        axes.plot(load, middle, marker=".", linewidth=0.8, color=line.get_color())


def _latencies(result: Result, name: str) -> Iterator[float]:
    pooled = [latency for sample in result.samples[name] for latency in sample.details["rest_ms"]]
    yield quantile(pooled, 0.5)
    yield quantile(pooled, 0.99)


def _label(axes: Axes, below: str, beside: str, title: str) -> None:
    axes.set(xlabel=below, ylabel=beside, title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
