"""`python -m neverblink` is `neverblink`."""

import sys

from neverblink.cli import run

if __name__ == "__main__":  # the decoder child may be spawned, and then imports this file
    sys.exit(run())
