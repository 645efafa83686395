"""`python -P -m weft.runtime.orchestrator --config JSON`."""

from __future__ import annotations

from weft.runtime.environment import prepare_process


def _main() -> None:
    prepare_process()
    from weft.runtime.process import leave

    from .process import main

    leave(main())


if __name__ == "__main__":
    _main()
