"""Run a script with a clock that counts the CPU seconds of its process, so that neighbours on the machine do not count.

    python benchmarks/cpu_clock.py gen/vae.py --dataset mnist --epochs 3 --torch-threads 1

Whatever the script times with time.perf_counter, time/elapsed above all, is then in CPU seconds: with one thread what
the clock on the wall would show on an idle machine. To be compared with peers timed the same way, side by side.
"""

import runpy
import sys
import time

if __name__ == "__main__":
    time.perf_counter = time.process_time
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
