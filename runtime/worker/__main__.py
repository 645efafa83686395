"""`python -P -m weft.runtime.worker --config JSON`."""

from __future__ import annotations

import os
import signal

from weft.runtime.environment import prepare_process


def _main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # while the imports below still run
    prepare_process()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or else torch's threads, waiting, keep others off
    from weft.runtime.process import leave

    from .process import main

    leave(main())


if __name__ == "__main__":
    _main()
