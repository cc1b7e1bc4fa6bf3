"""An HTTP server on this machine that serves a folder, in ranges, and fails when told to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Server:
    """How it behaves; a path is matched by its end, the empty one by all.

    Attributes:
        url: of the folder.
        busy: answers 503 so many times to a path.
        drops: sends half of an answer and closes, so many times.
        slow: seconds before each answer.
        ranges: whether it sends parts of files.
        asked: paths with their ranges, as they were asked for.
    """

    url: str = ""
    busy: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)
    slow: float = 0.0
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def due(self, faults: dict[str, int], path: str) -> bool:
        """Whether a fault is to happen now; counts it."""
        key = next((k for k, left in faults.items() if left > 0 and path.endswith(k)), None)
        if key is not None:
            faults[key] -= 1
        return key is not None


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *args: Any, **options: Any) -> None:
        self.behaviour = server
        super().__init__(*args, **options)

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        behaviour, asked = self.behaviour, self.headers.get("Range")
        behaviour.asked.append((self.path, asked if body else "HEAD"))
        time.sleep(behaviour.slow)
        if behaviour.due(behaviour.busy, self.path):
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            (super().do_GET if body else super().do_HEAD)()
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        partly = behaviour.ranges and asked is not None
        if partly:
            begin, _, end = str(asked).removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if partly else 200)
        if behaviour.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if partly:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.end_headers()
        if body:
            part = content[first : last + 1]
            if behaviour.due(behaviour.drops, self.path):
                self.wfile.write(part[: len(part) // 2])
                self.close_connection = True
                self.connection.shutdown(2)
                return
            self.wfile.write(part)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """Clients that hang up are what is tested."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server of a folder while the block lasts."""
    behaviour = Server()
    server = _Quiet(("127.0.0.1", 0), partial(_Handler, behaviour, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    behaviour.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()
