"""Before anything imports torch: one thread for each worker of pytest-xdist, or they fight over the cores."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background with Ctrl-C ignored, and every child inherits that: the tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
