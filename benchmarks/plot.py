"""Collect finished runs into results/, draw its figures, write its tables, fill README.md's blocks.

    python benchmarks/plot.py
    python benchmarks/plot.py trpo es

What benchmark.sh finished (runs/benchmark/) is copied, thinned, to results/<section>/<name>/seed<k>.csv and .json.
Figures and tables come from results/ alone, so a clone without runs can redraw them. benchmarks/figures/<section>.py
says what to draw and which columns that takes. A block of the README is what stands between
<!-- begin: NAME --> and <!-- end: NAME -->, on lines of its own or within one.
"""

import argparse
import csv
import importlib
import json
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

MAX_ROWS = 400
# Okabe and Ito's colours, which colour-blind readers can tell apart
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#888888",
)  # fmt: skip
PUBLISHED = Path(__file__).parent / "published"


# --- collecting ------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def thin(rows: list, limit: int = MAX_ROWS) -> list:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def shorten(cell: str) -> str:
    """A float to six significant digits; whole numbers and empty cells stay as they are."""
    try:
        return cell if re.fullmatch(r"-?\d*", cell) else f"{float(cell):.6g}"
    except ValueError:
        return cell


def collect(runs: Path, results: Path, sections: list[str]):
    """Copy every finished run's summary and thinned rows from runs/benchmark/ to results/<section>/."""
    for path in sorted(runs.glob("*/seed*/summary.json")):
        summary = json.loads(path.read_text())
        if summary["section"] not in sections:
            continue
        figures = figures_of(summary["section"])
        rows = read_rows(path.parent / "metrics.csv")
        for i, row in enumerate(rows):
            row["update"] = str(i + 1)
        folder = results / summary["section"] / summary["name"]
        folder.mkdir(parents=True, exist_ok=True)
        columns = ["update", *(column for column in figures.COLUMNS if column in rows[0])]
        with (folder / f"seed{summary['seed']}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([shorten(row[column]) for column in columns] for row in thin(rows))
        summary["facts"] = figures.facts(summary["name"], to_arrays(rows))  # of all the rows
        summary["final"] = {key: shorten(value) for key, value in summary["final"].items()}
        (folder / f"seed{summary['seed']}.json").write_text(json.dumps(summary, indent=2) + "\n")


def figures_of(section: str):
    """The module benchmarks/figures/<section>.py."""
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module(f"benchmarks.figures.{section}")


# --- results ---------------------------------------------------------------------------------


@dataclass(eq=False)
class Result:
    """One run: its summary, and the columns of its csv as arrays, NaN where a cell is empty."""

    name: str
    seed: int
    summary: dict
    columns: dict[str, np.ndarray]

    def __getitem__(self, column: str) -> np.ndarray:
        return self.columns.get(column, np.full(len(self.columns["update"]), np.nan))

    def final(self, column: str) -> float:
        """The last row's value, NaN where there is none; of eval/episodic_return what the run printed at its end."""
        printed = re.search(r"\breturn (-?[\d.]+)", self.summary.get("result", ""))
        if column == "eval/episodic_return" and printed and not self.summary["final"].get(column):
            return float(printed[1])
        return float(self.summary["final"].get(column) or math.nan)

    def at(self, step: float, column: str = "charts/episodic_return_100") -> float:
        """The column's value after so many environment steps, NaN beyond the run."""
        known = ~np.isnan(self[column])
        if not known.any():
            return math.nan
        return float(np.interp(step, self["global_step"][known], self[column][known], math.nan, math.nan))


def to_arrays(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    def number(cell: str) -> float:
        try:
            return float(cell)
        except ValueError:
            return math.nan

    return {column: np.array([number(row[column]) for row in rows]) for column in rows[0]}


class Results:
    """The results of one section; remembers what was asked for and is not there."""

    def __init__(self, folder: Path):
        self.all, self.missing = {}, set()
        for path in sorted(folder.glob("*/seed*.json")):
            summary = json.loads(path.read_text())
            columns = to_arrays(read_rows(path.with_suffix(".csv")))
            self.all.setdefault(path.parent.name, []).append(
                Result(path.parent.name, summary["seed"], summary, columns)
            )

    def __getitem__(self, name: str) -> list[Result]:
        """The seeds of an entry, in order; none where it was not run."""
        if name not in self.all:
            self.missing.add(name)
        return sorted(self.all.get(name, []), key=lambda result: result.seed)

    def mixed(self) -> list[str]:
        """Entries whose seeds come from different versions of the code."""
        return [name for name, seeds in self.all.items() if len({seed.summary["code"] for seed in seeds}) > 1]


def ratios(above: list[Result], below: list[Result], value, value_below=None) -> list[float]:
    """Quotients seed by seed, where both have the seed: value(above) / value(below), or / value_below(below)."""
    by_seed = {result.seed: (value_below or value)(result) for result in below}
    pairs = [(value(result), by_seed[result.seed]) for result in above if result.seed in by_seed]
    return [a / b for a, b in pairs if not math.isnan(a / b)]


def machines(results: Iterable[Result]) -> str:
    """The hardware and the versions behind results, in a line."""
    hardware, versions = {}, {}
    for result in results:
        found = result.summary["hardware"]
        hardware[", ".join([found["cpu"], f"{found['cores']} cores", *found["gpus"]])] = None
        for name, version in result.summary["versions"].items():
            versions.setdefault(name, {})[version] = None
    return "; ".join([*hardware, ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())])


# --- tables ----------------------------------------------------------------------------------


def number(x: float | None, like: float | None = None) -> str:
    """Three or more significant digits; as many decimals as `like` would get. A dash for what is not known."""
    if x is None or math.isnan(x):
        return "-"
    if math.isinf(x):
        return "never"
    size = abs(x if like is None else like)
    return f"{x:,.{0 if size >= 100 or isinstance(x, int) else 1 if size >= 10 else 2}f}"


def spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation."""
    values = [x for x in values if not math.isnan(x)]
    if not values:
        return "-"
    mean = np.mean(values)
    return number(mean) + (f" ± {number(np.std(values, ddof=1), like=mean)}" if len(values) > 1 else "")


def median(values: Iterable[float], form=number) -> str:
    """Median (least to greatest)."""
    values = [x for x in values if not math.isnan(x)]
    if not values:
        return "-"
    middle = form(sorted_median(values))
    return f"{middle} ({form(min(values))} to {form(max(values))})" if len(values) > 1 else middle


def sorted_median(values: list[float]) -> float:
    """The median, infinities included: where two are in the middle and one is infinite, it is infinite."""
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def table(header: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A markdown table, its first columns flush left, the others flush right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(text: str, blocks: dict[str, str]) -> tuple[str, list[str]]:
    """Put blocks between their markers; returns the text and the names of blocks that it has no markers for."""
    absent = []
    for name, content in blocks.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}(\n?).*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            absent.append(name)
        text = pattern.sub(lambda match, c=content: begin + match[1] + c + match[1] + end, text)  # noqa: B023
    return text, absent


# --- figures ---------------------------------------------------------------------------------


def save(figure: Figure, path: Path, dpi: int = 120):
    """Write a PNG that is the same for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, metadata={"Software": None})


def curves(axes, results: list[Result], x: str, y: str, color: str, label: str | None = None, linestyle="-", scale=1.0):
    """Every seed as a thin line, their mean as a thick one; band: mean ± std, of fewer than five min to max."""
    lines = []
    for result in results:
        known = ~(np.isnan(result[y]) | np.isnan(result[x]))
        if known.any():
            lines.append((result[x][known] * scale, result[y][known]))
    for line in lines:
        axes.plot(*line, color=color, linewidth=0.6, alpha=0.5, linestyle=linestyle)
    if not lines:
        return
    if len(lines) == 1:
        axes.plot(*lines[0], color=color, linewidth=1.6, label=label, linestyle=linestyle)
        return
    start, end = max(line[0][0] for line in lines), min(line[0][-1] for line in lines)
    grid = np.linspace(start, end, 200)
    values = np.array([np.interp(grid, *line) for line in lines])  # [seeds, 200]
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=1)
    low, high = (values.min(axis=0), values.max(axis=0)) if len(lines) < 5 else (mean - std, mean + std)
    axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(grid, mean, color=color, linewidth=1.8, label=label, linestyle=linestyle)


def not_run(axes):
    """Say on an empty panel why it is empty."""
    axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center", va="center", color=GREY)


# --- everything ------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=root, help="folder of runs/, results/ and README.md")
    known = sorted(path.stem for path in Path(__file__).parent.glob("figures/*.py"))
    parser.add_argument("section", nargs="*", help="draw these only (default: all)")
    args = parser.parse_args()
    root, sections = args.root, args.section or known
    if unknown := set(sections) - set(known):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    collect(root / "runs" / "benchmark", root / "results", sections)
    blocks = {}
    for section in sections:
        folder = root / "results" / section
        results = Results(folder)
        if not results.all:
            continue
        blocks |= figures_of(section).draw(results, folder)
        if results.missing:
            print(f"{folder}: missing {', '.join(sorted(results.missing))}")
        if results.mixed():
            print(f"{folder}: seeds from different versions of the code in {', '.join(results.mixed())}")
    importlib.import_module("benchmarks.matrix").write(root / "results")
    readme = root / "README.md"
    if readme.exists():
        text, absent = fill(readme.read_text(), blocks)
        readme.write_text(text)
        for name in absent:
            print(f"{readme} has no block <!-- begin: {name} -->")
    return 0


if __name__ == "__main__":
    sys.exit(main())
