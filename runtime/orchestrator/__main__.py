"""`python -P -m weft.runtime.orchestrator --config JSON`."""

from __future__ import annotations

import sys

from weft.runtime.channels import prepare_process


def _main() -> int:
    prepare_process()
    from .process import main

    return main()


if __name__ == "__main__":
    sys.exit(_main())
