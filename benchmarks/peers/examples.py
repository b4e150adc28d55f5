"""PyTorch's own examples (pytorch/examples), untouched, from a clone at a pinned commit: shared by examples_*.py."""

import importlib
import runpy
import sys
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.rows import clone

REPOSITORY, COMMIT = "https://github.com/pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"
SOURCE = Path("runs", "peers", "pytorch-examples")


class Enough(Exception):
    pass


def import_torchvision():
    """Beside CPU-only torch its compiled operators do not load: declare the two that it asks for, uncalled here."""
    try:
        return importlib.import_module("torchvision"), None
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision"), operators  # which vanish when nothing holds them


def run(name: str, flags: list, work: Path, enough: Callable = lambda text: False) -> list[tuple[float, str]]:
    """Run a script in the folder `work` on one thread: CPU seconds and text of each line it prints.

    Ends early after a line of which enough(text) is true.
    """
    clone(REPOSITORY, COMMIT, SOURCE)
    script, printed = (SOURCE / name).absolute(), []

    def clock(*words, **options):
        printed.append((time.process_time(), " ".join(map(str, words))))
        if enough(printed[-1][1]):
            raise Enough

    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *map(str, flags)]
    with suppress(Enough), chdir(work), patch("builtins.print", clock):
        runpy.run_path(str(script), run_name="__main__")
    return printed
