"""Servers for tests, on loopback and torn down for sure: a real OpenAI-compatible one, and a proxy that does harm.

`serve(folder)` runs `transformers serve` on a model folder, offline. `FaultyProxy(url)` stands in front of a server and
answers some requests wrongly, in a given order, before it passes the rest on.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

READY_WITHIN = 120  # seconds; the import of transformers is most of it, on a busy machine more
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def serve(folder: Path | str, log: Path) -> Iterator[str]:
    """`transformers serve` on a model folder; gives the base URL up to and with `/v1`."""
    port = _free_port()
    command = [Path(sys.executable).parent / "transformers", "serve", folder, "--host", "127.0.0.1", "--port", port]
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*map(str, command), "--device", "cpu"], stdout=out, stderr=out, env={**os.environ, **quiet}
        )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}"
            )
        try:
            with _direct.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the server was not ready in {READY_WITHIN} s:\n{log.read_text(errors='replace')[-3000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class FaultyProxy:
    """A proxy whose first answers are the given faults, one a request, in order; later requests are passed on.

    Faults: `429` (with a short `Retry-After`), `later` (429 with one of 0.8 s), `500`, `401`, `timeout` (says nothing
    for `silence` seconds), `cut` (the connection ends in the middle of the body), `refused` (it ends before the first
    byte), `broken_json`, `html`, `error_200` (status 200 with an error for a body), and `pass`. With `only`, requests
    whose body lacks that text pass unharmed.

    Attributes:
        url: Base URL up to and with `/v1`.
        seen: What was done with each request, in order.
        requests: Their bodies.
        times: When they came, by the monotonic clock.
    """

    def __init__(self, target: str, faults: Sequence[str] = (), *, silence: float = 2.0, only: str = "") -> None:
        self.seen: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._target, self._faults, self._silence, self._only = target, list(faults), silence, only
        self._lock, self._stop = threading.Lock(), threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy._answer(self)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            harmed = self._faults and self._only in body.decode()
            fault = self._faults.pop(0) if harmed else "pass"
            self.seen.append(fault)
            self.requests.append(json.loads(body))
            self.times.append(time.monotonic())
        try:
            self._do(fault, handler, body)
        except OSError:
            handler.close_connection = True  # the client did not wait for it

    def _do(self, fault: str, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        soon = {"Retry-After-Ms": "10"}
        if fault == "429":
            _send(handler, 429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.02"})
        elif fault == "later":
            _send(handler, 429, b'{"error": {"message": "come back later"}}', {"Retry-After": "0.8"})
        elif fault == "500":
            _send(handler, 500, b'{"error": {"message": "out of memory"}}', soon)
        elif fault == "401":
            key = handler.headers["Authorization"].removeprefix("Bearer ")
            _send(handler, 401, json.dumps({"error": {"message": f"Incorrect API key {key}"}}).encode())
        elif fault == "timeout":
            self._stop.wait(self._silence)
            handler.close_connection = True
        elif fault == "refused":
            handler.close_connection = True
        elif fault == "broken_json":
            _send(handler, 200, b'{"choices": [{"message": {"content": "half a')
        elif fault == "html":
            _send(handler, 200, b"<html>It works!</html>", {"Content-Type": "text/html"})
        elif fault == "error_200":
            _send(handler, 200, b'{"error": {"message": "upstream is asleep", "code": 502}}')
        else:
            self._pass_on(handler, body, cut=fault == "cut")

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes, *, cut: bool) -> None:
        url = self._target.removesuffix("/v1") + handler.path
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with _direct.open(request, timeout=60) as answer:
                status, given = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, given = error.code, error.read()
        if not cut:
            _send(handler, status, given)
            return
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(given)))
        handler.end_headers()
        handler.wfile.write(given[: len(given) // 2])
        handler.wfile.flush()
        handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
