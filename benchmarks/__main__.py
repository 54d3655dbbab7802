"""`python -m benchmarks`."""

import sys

from benchmarks.cli import main

if __name__ == "__main__":  # the load test's processes import this module again
    sys.exit(main())
