"""A program with an embedded runtime of stand-ins; prints the runtime's folder and process ids as JSON.

Run as ``embedding.py FAKE_SERVER ENDING``, the ending being `exit`, `raise`, `wait`, `fork` or `threads`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from weft.frontend.client import embedded
from weft.runtime.config import Settings
from weft.runtime.processes import ProcessSpec


class _Layout:
    key = None

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def inside(self, folder: Path) -> str:
        return f"unix:{folder}/orchestrator"

    def orchestrator(self, folder: Path, where: Mapping[str, str] | None = None) -> ProcessSpec:
        return ProcessSpec("orchestrator", (sys.argv[1], "orchestrator", str(folder), "good"), announces=True)

    def workers(self, folder: Path) -> list[ProcessSpec]:
        return [ProcessSpec("worker", (sys.argv[1], "worker", str(folder), "good"))]


def _report(address: str) -> None:
    folder = Path(address.removeprefix("unix:")).parent
    pids = [int(file.name.removeprefix("pid-")) for file in folder.glob("pid-*")]
    print(json.dumps({"folder": str(folder), "pids": pids}), flush=True)


def _main(ending: str) -> None:
    address = embedded.start(Settings())
    _report(address)
    assert embedded.start(Settings()) == address
    if ending == "raise":
        raise RuntimeError("the program failed")
    if ending == "wait":
        time.sleep(60)
    if ending == "threads":
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: embedded.start(Settings()), range(8))) == {address}
    if ending == "fork":
        child = os.fork()
        if child == 0:
            own = embedded.start(Settings())
            assert own != address
            _report(own)
            return  # through atexit, which must stop the child's runtime alone
        os.waitpid(child, 0)
        assert Path(address.removeprefix("unix:")).exists()
        print("the parent's still runs", flush=True)


if __name__ == "__main__":
    with patch.object(embedded, "ServerLayout", _Layout):
        _main(sys.argv[2])
