"""``python -m rlnsp``, as ``accelerate launch -m rlnsp`` wants it."""

import sys

from rlnsp.cli import main

if __name__ == "__main__":
    sys.exit(main())
