"""Flags and metrics.csv of a benchmark that is no script of algos/ or gen/. Standard library only, for the peers."""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path


def flags_of(description: str, **defaults) -> argparse.Namespace:
    """--run-dir, --seed and a flag for every default, of its type; required where the default is itself a type."""
    options = {"description": description, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**options)
    for name, default in ({"run_dir": Path, "seed": 1} | defaults).items():
        required = isinstance(default, type)
        kind = {"type": default, "required": True} if required else {"type": type(default), "default": default}
        parser.add_argument(f"--{name.replace('_', '-')}", **kind)
    return parser.parse_args()


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
