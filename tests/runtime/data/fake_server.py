"""Stand-ins for the processes of a server: quick to start, and as unruly as a test asks for.

Run as ``fake_server.py orchestrator|worker FOLDER BEHAVIOUR``. A worker joins by making a file named by
its process id.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from concurrent import futures
from pathlib import Path

import grpc

from weft.proto import orchestrator_pb2, worker_pb2

_PREFIX = "pid-"


def _serve(folder: Path) -> grpc.Server:
    def describe(
        request: orchestrator_pb2.DescribeServerRequest, context: object
    ) -> orchestrator_pb2.ServerInfo:
        pids = [int(file.name.removeprefix(_PREFIX)) for file in folder.glob(f"{_PREFIX}*")]
        return orchestrator_pb2.ServerInfo(workers=[worker_pb2.WorkerInfo(pid=pid) for pid in pids])

    method = grpc.unary_unary_rpc_method_handler(
        describe,
        request_deserializer=orchestrator_pb2.DescribeServerRequest.FromString,
        response_serializer=orchestrator_pb2.ServerInfo.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler("weft.v1.Orchestrator", {"Describe": method})
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handlers])
    server.add_insecure_port(f"unix:{folder}/orchestrator")
    server.start()
    print(json.dumps({"listening": f"unix:{folder}/orchestrator"}), flush=True)
    return server


def _main(role: str, folder: Path, behaviour: str) -> None:
    if behaviour == "broken":
        print("some earlier line", file=sys.stderr)
        sys.exit(f"{role}: the folder 'nowhere' does not exist")
    if behaviour == "talking":
        print("one\ntwo", flush=True)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = _serve(folder) if role == "orchestrator" else None
    if server is None:
        (folder / f"{_PREFIX}{os.getpid()}").touch()
    if behaviour == "dying":
        time.sleep(0.2)
        sys.exit(3)
    if behaviour == "stubborn":
        time.sleep(60)
    sys.stdin.read()
    if server is not None:
        server.stop(None)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
