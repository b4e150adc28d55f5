"""Flags and metrics.csv of a benchmark that is no script of algos/ or gen/. Standard library only, for the peers."""

import argparse
import csv
import subprocess
from collections.abc import Iterable
from pathlib import Path


def flags_of(description: str, **defaults) -> argparse.Namespace:
    """--run-dir, --seed and a flag for every default, of its type; required where the default is itself a type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ({"run_dir": Path, "seed": 1} | defaults).items():
        kind = default if isinstance(default, type) else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, required=kind is default)
    return parser.parse_args()


def clone(repository: str, commit: str, folder: Path):
    """A repository at a commit, once."""
    if not folder.exists():
        subprocess.run(["git", "clone", "--quiet", repository, folder], check=True)
    subprocess.run(["git", "-C", folder, "checkout", "--quiet", commit], check=True)


def write_rows(run_dir: Path, rows: Iterable[dict], mode: str = "x"):
    """Write rows as they come, their columns those of the first; a cell that is missing or None stays empty."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "metrics.csv").open(mode, newline="", buffering=1) as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, row)
                writer.writeheader()
            writer.writerow(row)


def add_to_last_row(run_dir: Path, found: dict):
    """Columns that only the last row of a metrics.csv has."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = [row | {name: row.get(name) for name in found} for row in csv.DictReader(file)]
    write_rows(run_dir, [*rows[:-1], rows[-1] | found], mode="w")
