"""Run a script for two hours, with memory, open files and CPU seconds in each of its rows: does anything grow?

python -m benchmarks.endurance algos/trpo_parallel.py --total-timesteps 1000000000
"""

import contextlib
import importlib
import os
import sys
import time
from pathlib import Path

import tyro

if __name__ == "__main__":
    module, start = importlib.import_module(sys.argv[1].removesuffix(".py").replace("/", ".")), time.perf_counter()
    args, log = tyro.cli(module.Args, args=sys.argv[2:]), module.Run.log

    def log_more(run, row: dict):
        hours, pages = (time.perf_counter() - start) / 3600, int(Path("/proc/self/statm").read_text().split()[1])
        memory, files = pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))
        usage = {"hours": hours, "memory_mb": memory, "open_files": files, "cpu_seconds": time.process_time()}
        log(run, row | {f"process/{name}": value for name, value in usage.items()})
        if hours > 2:
            raise KeyboardInterrupt

    module.Run.log = log_more
    with contextlib.suppress(KeyboardInterrupt):
        module.train(args)
