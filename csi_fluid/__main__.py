"""Run the command line as ``python -m csi_fluid``."""

import sys

from csi_fluid import cli

if __name__ == "__main__":
    sys.exit(cli.main())
