"""A process that takes spans over OTLP, gRPC and HTTP, as the official package has it.

    python otlp_receiver.py FOLDER [--wait SECONDS] [--dies-at N] [--refuses]

Each request is kept as FOLDER/<number>.pb. The ports are printed as a line of JSON.
`--dies-at` ends the process when the Nth request has come, without an answer,
`--refuses` answers that the service is not available, `--wait` answers late, and leaves
FOLDER/answered then.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


class Taking:
    """Keeps what comes."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self._count = 0
        self._lock = threading.Lock()

    def take(self, request: ExportTraceServiceRequest) -> bool:
        """Keep a request and return whether it is to be accepted."""
        with self._lock:
            self._count += 1
            number = self._count
        path = self.given.folder / f"{number:04}.pb"
        path.with_suffix(".part").write_bytes(request.SerializeToString())
        path.with_suffix(".part").replace(path)
        if number == self.given.dies_at:
            os._exit(1)
        time.sleep(self.given.wait)
        (self.given.folder / "answered").touch()
        return not self.given.refuses


def http_server(taking: Taking) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            right = self.path == "/v1/traces"
            accepted = right and taking.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if accepted else 503 if right else 404)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def grpc_server(taking: Taking) -> tuple[grpc.Server, int]:
    class Servicer(TraceServiceServicer):
        def Export(  # noqa: N802 - the protocol's name
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            if not taking.take(request):
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--dies-at", type=int)
    parser.add_argument("--refuses", action="store_true")
    taking = Taking(parser.parse_args())
    web = http_server(taking)
    _server, port = grpc_server(taking)
    print(json.dumps({"http": web.server_port, "grpc": port}), flush=True)
    web.serve_forever()


if __name__ == "__main__":
    main()
