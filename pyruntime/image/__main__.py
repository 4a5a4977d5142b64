"""Entry point of the program `pyruntime-image`."""

import sys

from pyruntime.image.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
