"""What a benchmark found: figures of contestants, verdicts against goals; as text, JSON and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks._measure import Measured, Spread, Values

__all__ = ["Answer", "Benchmark", "Curve", "Figure", "Run", "Verdict", "as_markdown", "as_text", "figures_of"]

Curve = list[tuple[float, float]]  # x and y of each point


@dataclass(frozen=True, slots=True)
class Figure:
    """One contestant's value."""

    contestant: str
    spread: Spread
    unit: str
    note: str = ""

    def __str__(self) -> str:
        return f"{_number(self.spread.median)} {self.unit} ({_number(self.spread.low)} to {_number(self.spread.high)})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and whether the median reaches it."""

    goal: str
    limit: float
    spread: Spread
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the median is on the right side of the limit."""
        return self.spread.median >= self.limit if self.at_least else self.spread.median <= self.limit

    @property
    def sign(self) -> str:
        """How the value compares with the limit when it is met."""
        return "≥" if self.at_least else "≤"

    def __str__(self) -> str:
        low, high = _number(self.spread.low), _number(self.spread.high)
        unit = f" {self.unit}" if self.unit else " x"
        return (
            f"{self.goal} {self.sign} {_number(self.limit)}{unit}: {self.value}{unit} ({low} to {high}), {self.outcome}"
        )

    @property
    def outcome(self) -> str:
        """The verdict as a word."""
        return "met" if self.met else "missed"

    @property
    def value(self) -> str:
        """The median, with one more digit where rounding would make it look like the limit."""
        value = _number(self.spread.median)
        return f"{self.spread.median:.4g}" if value == _number(self.limit) else value


@dataclass(frozen=True, slots=True)
class Answer:
    """What one benchmark found.

    Attributes:
        name: the benchmark's module.
        question: what was asked, with the load.
        figures: of every contestant, our own first.
        verdicts: against every goal.
        remarks: what the reader has to know to judge the figures.
        raw: every measured value by contestant, round by round.
        curves: for the plots: series by name, points of x and y.
    """

    name: str
    question: str
    figures: Sequence[Figure]
    verdicts: Sequence[Verdict]
    remarks: Sequence[str] = ()
    raw: dict[str, list[Measured]] = field(default_factory=dict[str, list[Measured]])
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])

    def as_json(self) -> dict[str, object]:
        verdicts = [{**asdict(verdict), "met": verdict.met} for verdict in self.verdicts]
        return {**asdict(self), "verdicts": verdicts}


@dataclass(frozen=True, slots=True)
class Run:
    """How a benchmark is to be run: a smaller load with `quick`, and whom to tell about progress."""

    quick: bool
    say: Callable[[str], None]

    def pick(self, full: int, quick: int) -> int:
        """Return the load."""
        return quick if self.quick else full


Benchmark = Callable[[Run], Answer]


def figures_of(values: Values, key: str, unit: str, *, scale: float = 1.0) -> list[Figure]:
    """Return one figure a contestant, in the order in which they were entered."""
    return [
        Figure(name, _scaled(values.spread(name, key), scale), unit, values.notes[name])
        for name, rounds in values.rounds.items()
        if key in rounds[0]
    ]


def _scaled(spread: Spread, by: float) -> Spread:
    return Spread(spread.median * by, spread.low * by, spread.high * by)


def as_text(answer: Answer) -> str:
    """Return what a terminal shows."""
    lines = [f"{answer.name}: {answer.question}"]
    width = max(len(figure.contestant) for figure in answer.figures)
    lines += [f"  {f.contestant:<{width}}  {f}{'  ' + f.note if f.note else ''}" for f in answer.figures]
    lines += [f"  {'MET   ' if verdict.met else 'MISSED'}  {verdict}" for verdict in answer.verdicts]
    lines += [f"  note: {remark}" for remark in answer.remarks]
    return "\n".join(lines)


def as_markdown(answers: Iterable[Answer]) -> str:
    """Return the table of the documentation: a row a benchmark."""
    rows = ["| question | aioremote | others | goal | verdict |", "|---|---|---|---|---|"]
    remarks: list[str] = []
    for answer in answers:
        ours = [f for f in answer.figures if f.contestant.startswith("aioremote")]
        others = [f for f in answer.figures if not f.contestant.startswith("aioremote")]
        cells = (
            f"**{answer.name}**: {answer.question}",
            "<br>".join(map(_cell, ours)),
            "<br>".join(map(_cell, others)),
            "<br>".join(
                f"{v.goal} {v.sign} {_number(v.limit)}{' ' + v.unit if v.unit else ' x'}" for v in answer.verdicts
            ),
            "<br>".join(f"{v.value}, {'met' if v.met else '**missed**'}" for v in answer.verdicts),
        )
        rows.append("| " + " | ".join(cells) + " |")
        remarks += [f"- {answer.name}: {remark}" for remark in answer.remarks]
    return "\n".join([*rows, "", *remarks]).rstrip()


def _cell(figure: Figure) -> str:
    name = figure.contestant.removeprefix("aioremote").strip(" ,")
    note = f" ({figure.note})" if figure.note else ""
    return f"{name + ': ' if name else ''}{figure}{note}"


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
