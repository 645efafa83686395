"""`python -P -m weft.runtime.llm.parallel FD`: a further rank of a model; see `follower`."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection

from .follower import follow

if __name__ == "__main__":
    status = follow(Connection(int(sys.argv[1])))
    sys.stderr.flush()
    os._exit(status)  # the device may wait for rank 0 for ever
