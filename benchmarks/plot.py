"""Collect finished runs into results/, draw its figures, fill the blocks of its pages and of README.md.

    python benchmarks/plot.py
    python benchmarks/plot.py trpo es

What benchmark.sh finished (runs/benchmark/) is copied, thinned, to results/<section>/<name>/seed<k>.csv and .json. All
else comes from results/ alone, so a clone without runs can redraw it. benchmarks/figures/<section>.py names the columns
that the csv keeps; its draw(results, folder) draws the figures and returns what the page has to compute: blocks, which
stand between <!-- begin: NAME --> and <!-- end: NAME -->, on lines of their own or within one. The words around them
are written by hand. The block "number" stands in README.md as <section>-number.
"""

import argparse
import csv
import importlib
import itertools
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MAX_ROWS = 400
REWRITTEN = "2026-11-29"  # runs before it were made by the longer files at commit 7b0c269
PUBLISHED = Path(__file__).parent / "published"
# Okabe and Ito's colours, which colour-blind readers can tell apart
COLORS = BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#888888",
)  # fmt: skip
mpl.rcParams |= {"axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 8}
mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLORS)


# --- collecting ------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def published(name: str, /, **wanted: str) -> list[dict[str, str]]:
    """The rows of published/<name>.csv, those with these values if any are given."""
    return [row for row in read_rows(PUBLISHED / f"{name}.csv") if wanted.items() <= row.items()]


def thin(rows: list) -> list:
    """At most MAX_ROWS rows, evenly spaced, the first and the last among them."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), MAX_ROWS)).round().astype(int)]


def shorten(cell: str) -> str:
    """A float to six significant digits; whole numbers and empty cells stay as they are."""
    return cell if re.fullmatch(r"-?\d*", cell) else f"{float(cell):.6g}"


def collect(runs: Path, results: Path, sections: list[str]):
    """Copy every finished run's summary and thinned rows from runs/benchmark/ to results/<section>/."""
    for path in sorted(runs.glob("*/seed*/summary.json")):
        summary = json.loads(path.read_text())
        if summary["section"] not in sections:
            continue
        figures = figures_of(summary["section"])
        rows = [{"update": str(i)} | row for i, row in enumerate(read_rows(path.parent / "metrics.csv"), 1)]
        columns = [column for column in ["update", *figures.COLUMNS] if column in rows[0]]
        folder = results / summary["section"] / summary["name"]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"seed{summary['seed']}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([shorten(row[column]) for column in columns] for row in thin(rows))
        facts = getattr(figures, "facts", lambda name, columns: {})
        summary["facts"] = facts(summary["name"], to_arrays(rows))  # of all the rows
        summary["final"] = {key: shorten(value) for key, value in summary["final"].items()}
        (folder / f"seed{summary['seed']}.json").write_text(json.dumps(summary, indent=2) + "\n")


def figures_of(section: str):
    """The module benchmarks/figures/<section>.py."""
    return importlib.import_module(f"benchmarks.figures.{section}")


# --- results ---------------------------------------------------------------------------------


@dataclass(eq=False)
class Result:
    """One run: its summary, and the columns of its csv as arrays, NaN where a cell is empty."""

    name: str
    seed: int
    summary: dict
    columns: dict[str, np.ndarray]

    def __post_init__(self):
        self.facts, self.cpu, self.command = (self.summary.get(key) for key in ("facts", "cpu_seconds", "command"))

    @property
    def old(self) -> bool:
        return self.summary["date"] < REWRITTEN and "peers" not in self.command

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
    return {column: np.array([float(row[column] or "nan") for row in rows]) for column in rows[0]}


class Results:
    """The results of one section; remembers what was asked for and is not there."""

    def __init__(self, folder: Path):
        self.by_name, self.missing = {}, set()
        for path in sorted(folder.glob("*/seed*.json"), key=lambda path: (path.parent.name, int(path.stem[4:]))):
            name, summary = path.parent.name, json.loads(path.read_text())
            columns = to_arrays(read_rows(path.with_suffix(".csv")))
            self.by_name.setdefault(name, []).append(Result(name, summary["seed"], summary, columns))

    def __getitem__(self, name: str) -> list[Result]:
        """The seeds of an entry, in order; none where it was not run."""
        if name not in self.by_name:
            self.missing.add(name)
        return self.by_name.get(name, [])

    def __iter__(self):
        """Every run."""
        return (result for seeds in self.by_name.values() for result in seeds)

    def old(self) -> list[str]:
        """Entries made by the longer files; trpo-post-swimmer-* for all that begin so."""
        found = []
        for beginning, group in itertools.groupby(self.by_name, lambda name: "-".join(name.split("-")[:3])):
            names = list(group)
            old = [name for name in names if any(seed.old for seed in self[name])]
            found += [f"{beginning}-*"] if len(old) == len(names) > 2 else old
        return found


def ratios(above: list[Result], below: list[Result], value, value_below=None) -> list[float]:
    """Quotients seed by seed, where both have the seed: value(above) / value(below), or / value_below(below)."""
    by_seed = {result.seed: (value_below or value)(result) for result in below}
    pairs = [(value(result), by_seed[result.seed]) for result in above if result.seed in by_seed]
    return [a / b for a, b in pairs if not math.isnan(a / b)]


def first_reached(columns: dict[str, np.ndarray], column: str, bar: float, x: str = "global_step") -> float:
    """Where x stands when the column is first at the bar, infinite where it never is."""
    reached = columns[column] >= bar
    return float(columns[x][reached.argmax()]) if reached.any() else math.inf


def pooled(seeds: list[Result], column: str) -> tuple[float, float]:
    """Mean of the last values, and its standard error from the seeds' own, each of as many independent runs."""
    error = math.hypot(*(seed.final(f"{column}_se") for seed in seeds)) / len(seeds)
    return mean(seed.final(column) for seed in seeds), error


def machines(results: Iterable[Result]) -> str:
    """The hardware and the versions behind results, in a line."""
    hardware, versions = {}, {}  # dicts for sets that keep the order
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


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else math.nan


def spread(values: Iterable[float], form: str | None = None) -> str:
    """Mean ± standard deviation, with the digits of number() or in a format such as .2f."""
    values = [x for x in values if not math.isnan(x)]
    if not values:
        return "-"
    middle = np.mean(values)
    cells = [middle] if len(values) == 1 or math.isinf(middle) else [middle, np.std(values, ddof=1)]
    return " ± ".join(format(x, form) if form else number(x, like=middle) for x in cells)


def median(values: Iterable[float], form=number) -> str:
    """Median (least to greatest)."""
    values = [x for x in values if not math.isnan(x)]
    if not values:
        return "-"
    middle = form(sorted_median(values))
    return f"{middle} ({form(min(values))} to {form(max(values))})" if len(values) > 1 else middle


def sorted_median(values: list[float]) -> float:
    """The median, infinities included."""
    return float(np.median(values))


def arrived(values: Iterable[float]) -> str:
    """How many of them are finite: 4 of 5."""
    values = list(values)
    return f"{sum(map(math.isfinite, values))} of {len(values)}"


def cpu(seeds: list[Result]) -> str:
    return median(seed.cpu for seed in seeds)


def count(seeds: list[Result]) -> str:
    return str(len(seeds))


def column(name: str, form: str | None = None, scale: float = 1.0, unit: str = "") -> Callable:
    """A column of beside(): mean ± standard deviation of the last values, scaled."""
    return lambda seeds: spread((scale * seed.final(name) for seed in seeds), form) + unit


def fact(name: str) -> Callable:
    """A column of beside(): median of a fact."""
    return lambda seeds: median(seed.facts[name] for seed in seeds)


def table(header: list[str], rows: Iterable[list[str]], left: int = 1) -> str:
    """A markdown table, its first columns flush left, the others flush right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def beside(first: str, ours: dict, columns: dict[str, str | Callable], theirs: Iterable[list[str]] = ()) -> str:
    """Ours beside what was published: a line for each label of `ours` whose seeds were run, then the lines of theirs.

    A label is a cell or a tuple of cells, and so is the header's `first`. A column of the table is a column of the csv
    (mean ± standard deviation of the seeds' last values) or a function of the seeds that returns the cell.
    """
    cells = {label: label if isinstance(label, tuple) else (label,) for label in [first, *ours]}
    lines = [
        [*cells[label], *(c(seeds) if callable(c) else spread(s.final(c) for s in seeds) for c in columns.values())]
        for label, seeds in ours.items()
        if seeds
    ]
    return table([*cells[first], *columns], [*lines, *theirs], left=len(cells[first]))


def fill(page: Path, blocks: dict[str, str]):
    """Put blocks between their markers; name those that the page has no markers for."""
    text = page.read_text()
    for name, content in blocks.items():
        pattern = rf"(<!-- begin: {name} -->(\n?)).*?(<!-- end: {name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: m[1] + c + m[2] + m[3], text, flags=re.DOTALL)
        if not count:
            print(f"{page} has no block <!-- begin: {name} -->")
    page.write_text(text)


# --- figures ---------------------------------------------------------------------------------


@contextmanager
def figure(path: Path, rows: int = 1, columns: int = 1, size: tuple = (6, 4), dpi: int = 120, **options):
    """A list of panels to draw on; afterwards a PNG. Where the body makes no legend, panels with labels get one."""
    drawn = Figure(figsize=size, layout="constrained")
    panels = list(drawn.subplots(rows, columns, squeeze=False, **options).flat)
    yield panels
    if not drawn.legends and not any(axes.get_legend() for axes in panels):
        for axes in panels:
            if axes.get_legend_handles_labels()[1]:
                axes.legend()
    drawn.savefig(path, dpi=dpi, metadata={"Software": None})


def curves(axes, results: list[Result], x: str, y: str, label: str, color=None, linestyle="-", scale: float = 1.0):
    """Every seed as a thin line, their mean as a thick one; the band is that of band()."""
    known = [~(np.isnan(result[x]) | np.isnan(result[y])) for result in results]
    lines = [(scale * r[x][k], r[y][k]) for r, k in zip(results, known, strict=True) if k.any()]
    if not lines:
        return
    grid = lines[0][0]
    if not all(np.array_equal(line[0], grid) for line in lines):
        grid = np.linspace(max(line[0][0] for line in lines), min(line[0][-1] for line in lines), 200)
    values = np.array([np.interp(grid, *line) for line in lines])  # [seeds, points]
    (thick,) = axes.plot(grid, values.mean(axis=0), color=color, linewidth=1.7, label=label, linestyle=linestyle)
    if len(lines) > 1:
        axes.fill_between(grid, *band(values), color=thick.get_color(), alpha=0.15, linewidth=0)
        for line in lines:
            axes.plot(*line, color=thick.get_color(), linewidth=0.6, alpha=0.5, linestyle=linestyle)


def panel(axes, ours: dict[str, list[Result]], x: str, y: str, levels: dict[str, float] | None = None, **settings):
    """Curves of label -> seeds, levels as dotted lines, and what axes.set takes; x in units of `scale`."""
    scale = settings.pop("scale", 1.0)
    for label, seeds in ours.items():
        curves(axes, seeds, x, y, label, scale=scale)
    for label, level in (levels or {}).items():
        axes.axhline(level, color=GREY, linestyle=":", label=label)
    axes.set(**settings)


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Around the mean of [seeds, n]: the bootstrap's 95 % interval over seeds, of two or three seeds least to greatest.

    Neither leaves the range of the seeds.
    """
    if len(values) < 4:
        return values.min(axis=0), values.max(axis=0)
    from scipy.stats import bootstrap

    interval = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return interval.low, interval.high


def pictures(folder: Path, shown: dict[str, tuple[str, str, str]]) -> str:
    """Pictures that runs left, {name: (row, file, words)}, as markdown; copied if the run was made here."""
    parts = []
    for name, (row, file, words) in shown.items():
        path = folder.parents[1] / "runs" / "benchmark" / row / "seed1" / file
        if path.exists():
            shutil.copy(path, folder / name)
        if (folder / name).exists():
            parts.append(f"{words}:\n\n![{Path(name).stem}]({name})")
    return "\n\n".join(parts)


# --- everything ------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--root", type=Path, default=root, help="folder of runs/, results/ and README.md")
    parser.add_argument("section", nargs="*", help="draw these only (default: all)")
    args = parser.parse_args()
    known = sorted(path.stem for path in Path(__file__).parent.glob("figures/*.py"))
    if unknown := set(args.section) - set(known):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    results_folder, sections, numbers = args.root / "results", args.section or known, {}
    collect(args.root / "runs" / "benchmark", results_folder, sections)
    for section in sections:
        folder, module = results_folder / section, figures_of(section)
        results = Results(folder)
        if not results.by_name:
            continue
        blocks = module.draw(results, folder)
        if "number" in blocks:
            numbers[f"{section}-number"] = blocks.pop("number")
        old = ", ".join(results.old())
        words = f"Made by the longer file at commit 7b0c269, not yet again: {old}. {getattr(module, 'OLD', '')}"
        fill(folder / "README.md", blocks | {"machines": machines(results), "old": words.strip() if old else ""})
        if results.missing:
            print(f"{folder}: missing {', '.join(sorted(results.missing))}")
    importlib.import_module("benchmarks.matrix").write(results_folder)
    fill(args.root / "README.md", numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
