"""Before anything imports torch: one thread for each worker of pytest-xdist, or they fight over the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
