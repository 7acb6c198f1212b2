"""The agent, which dies just before its nth change of a mount; test_agent_killed.py runs it.

Arguments: that number, then those of `csi-fluid`.
"""

import sys

from csi_fluid import cli
from tests.privileged import dying

if __name__ == "__main__":
    dying.let_die(dying.Fate(int(sys.argv.pop(1)), armed=True))
    sys.exit(cli.main())
