"""The matrix of results/README.md: published numbers beside ours and the peers', for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np

from benchmarks.plot import PUBLISHED, Result, Results, number, read_rows, spread, table

HEADER = ["system", "measure", "published", "ours", "seeds", "peer", "ratio", "CPU s", "commit", "state"]
TEXT = """# Published numbers, ours and the peers'

{count} comparisons: {states}; the others have no published number.
Errors in that sense are standard errors over seeds. Ours: mean ± standard deviation over seeds; a row of one seed may
train many runs at once. The peer ran on the same machine; the ratio is ours to the peer's. CPU s: median of a run.
Commit: the last one that changed the script before the run ("-dirty": with later edits). Hardware, versions and the
command of each run stand in the json beside its csv; two cores unless a page says otherwise. By post:
[posts.md](posts.md); what the originals got wrong: [mistakes.md](mistakes.md). Written by `python benchmarks/plot.py`.
Scripts became shorter since; repeated on 2026-11-30, a row or two each of random_search, hill_climbing, td_lambda, es,
q_learning, sarsa_lambda, tile_coding, dynamic_programming, dyna_q, dyna2 and the two mcts had the same digits.

"""


def value(result: Result, column: str) -> float:
    """A fact of the run ("bar.seconds": a fact within a fact), or the last row's value of a column."""
    fact = result.summary.get("facts", {})
    for name in column.split("."):
        fact = fact.get(name) if isinstance(fact, dict) else None
    return result.final(column) if fact is None else float(fact)


def cells(line: dict[str, str], seeds: list[Result], peers: list[Result]) -> list[str]:
    """The row of the table for a line of published/matrix.csv; its last cell is the state.

    The line names a row of benchmark.sh (section/name), a column or fact of it, and its peer's.
    """
    scale = float(line["scale"])
    values = [scale * value(seed, line["column"]) for seed in seeds]
    theirs = [scale * value(peer, line["peer_column"]) for peer in peers]
    bar = float(line["published"] or math.nan)
    published = "-" if math.isnan(bar) else f"{bar:,.4g}" if abs(bar) < 1000 else f"{bar:,.0f}"
    published += f" ({line['source']})" if line["source"] else ""
    if not values or math.isnan(np.mean(values)):
        state = "not run"
    elif math.isnan(bar):
        state = "-"
    else:
        several = len(values) > 1 and np.isfinite(values).all()
        ours = np.std(values, ddof=1) / math.sqrt(len(values)) if several else 0.0
        error = math.hypot(ours, float(line["error"] or 0))
        short = (bar - np.mean(values)) * (1 if line["better"] == "higher" else -1)
        state = "met" if short <= 0 else "within two errors" if short <= 2 * error else f"missed: {line['missed']}"
    ratio = number(float(np.mean(values) / np.mean(theirs))) if values and theirs else "-"
    seconds = number(float(np.median([seed.summary["cpu_seconds"] for seed in seeds]))) if seeds else "-"
    commits = ", ".join(sorted({seed.summary.get("commit") or "-" for seed in seeds})) or "-"
    system = f"[{line['system']}]({line['row'].split('/')[0]}/README.md)"
    ours = [spread(values), str(len(seeds)), spread(theirs), ratio]
    return [system, line["measure"], published, *ours, seconds, commits, state]


def write(folder: Path):
    """Write results/README.md from what results/ holds."""
    lines = read_rows(PUBLISHED / "matrix.csv")
    results = {section: Results(folder / section) for section in {line["row"].split("/")[0] for line in lines}}

    def runs(row: str) -> list[Result]:
        section, _, name = row.partition("/")
        return results[section][name] if row else []

    rows = [cells(line, runs(line["row"]), runs(line["peer"])) for line in lines]
    states = [row[-1].split(":")[0] for row in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("met", "within two errors", "missed", "not run"))
    (folder / "README.md").write_text(TEXT.format(count=len(rows), states=counts) + table(HEADER, rows, left=3) + "\n")
