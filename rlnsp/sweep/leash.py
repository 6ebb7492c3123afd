"""``rlnsp`` in a process that does not outlive the worker that started it.

Of a worker that is killed, what it trains is told to stop, and saves; elsewhere than on Linux it trains on to
its end.  Either way it holds its run's lock until then, so that no other worker trains the same run.
"""

import ctypes
import os
import runpy
import signal
import sys

PARENT, CORES = "RLNSP_SWEEP_PARENT", "RLNSP_SWEEP_CORES"
"""Environment variables: the worker's process id, and the cores to run on, as '0,1'."""
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""


def main() -> None:
    """Run the command line on a leash."""
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(os.environ[PARENT]):
            raise SystemExit(128 + signal.SIGTERM)  # it died before it could be noticed
    runpy.run_module("rlnsp", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
