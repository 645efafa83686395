"""`python -P -m weft.runtime.orchestrator --config JSON`."""

from __future__ import annotations

import os
import sys


def _main() -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors come back as exceptions
    from .process import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
