"""Writes docs/explanation/performance.md between its two markers, and the plots beside it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._answers import Answer, as_markdown
from benchmarks._measure import ROOT

__all__ = ["write_docs"]

FOLDER = ROOT / "docs" / "explanation"
PAGE = FOLDER / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
FRAME = f"""\
# Performance

What the work costs, against peers in the same run. `nox -s bench -- --write-docs` measures anew and writes this page.

{BEGIN}
{END}
"""


def write_docs(answers: Sequence[Answer], environment: Mapping[str, str]) -> Path:
    """Replace what stands between the markers; the rest of the page stays. Makes the page where there is none."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else FRAME
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.relative_to(ROOT)} lacks the markers {BEGIN} and {END}")
    curves = {answer.name: answer.curves for answer in answers if answer.curves}
    PAGE.write_text(f"{head}{BEGIN}\n{_generated(answers, environment, curves)}\n{END}{tail}", encoding="utf-8")
    for name, draw in PLOTS.items():
        if name in curves:
            _plot(FOLDER / f"{name}.png", curves[name], *draw)
    return PAGE


def _generated(answers: Sequence[Answer], environment: Mapping[str, str], curves: Mapping[str, object]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in environment.items())
    missed = [verdict for answer in answers for verdict in answer.verdicts if not verdict.met]
    total = sum(len(answer.verdicts) for answer in answers)
    today = datetime.datetime.now(datetime.UTC)
    parts = [
        f"Measured {today:%Y-%m-%d} on: {about}. Client and servers share the cores.",
        "A figure is the median of the rounds, with the lowest and the highest; a verdict compares medians.",
        f"{total - len(missed)} of {total} goals are met.",
        as_markdown(answers),
        *(f"![{PLOTS[name][0]}]({name}.png)" for name in PLOTS if name in curves),
    ]
    return "\n\n".join(parts)


PLOTS = {
    "growth": ("Client CPU per host of a cold fan-out", "hosts", "ms"),
    "idle_machines": ("Client memory of connected, idle machines", "machines", "MiB"),
}


def _plot(path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str, y: str) -> None:
    import matplotlib as mpl  # only here: nobody else needs it

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            marker="o",
            label=name,
            linewidth=2.5 if name == "aioremote" else 1.2,
        )
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": ""})
    pyplot.close(figure)
