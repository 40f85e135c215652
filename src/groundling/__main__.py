"""`python -m groundling` is the `groundling` command."""

import sys

from groundling.cli import main

if __name__ == "__main__":
    sys.exit(main())
