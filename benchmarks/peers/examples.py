"""PyTorch's own examples (pytorch/examples), untouched, from a clone at a pinned commit: shared by examples_*.py."""

import builtins
import importlib
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

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


def clone(files: list[str]):
    if not (SOURCE / files[0]).exists():
        if not (SOURCE / ".git").exists():
            subprocess.run(["git", "clone", "--filter=blob:none", "--no-checkout", REPOSITORY, SOURCE], check=True)
        subprocess.run(["git", "-C", SOURCE, "checkout", COMMIT, "--", *files], check=True)
    if subprocess.run(["git", "-C", SOURCE, "diff", "--quiet", COMMIT, "--", *files], check=False).returncode:
        raise SystemExit(f"{SOURCE} holds another version than {COMMIT}: remove it")


def run(files: list[str], flags: list, work: Path, enough: Callable = lambda text: False) -> list[tuple[float, str]]:
    """Run the first of these files in the folder `work`, one thread: CPU seconds and text of each line it prints.

    Ends early after a line of which enough(text) is true.
    """
    clone(files)
    script, printed, before = (SOURCE / files[0]).absolute(), [], (builtins.print, os.getcwd())

    def clock(*words, **options):
        printed.append((time.process_time(), " ".join(map(str, words))))
        if enough(printed[-1][1]):
            raise Enough

    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    sys.path.insert(0, str(script.parent))
    sys.argv = [str(script), *map(str, flags)]
    builtins.print = clock
    os.chdir(work)
    with suppress(Enough):
        runpy.run_path(str(script), run_name="__main__")
    builtins.print = before[0]
    os.chdir(before[1])
    return printed
