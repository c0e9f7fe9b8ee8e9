"""A server on the loopback that says what a test wants it to say."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

READ = object()
"""As many tokens as the request has, where it has token ids."""


@dataclass(frozen=True)
class Says:
    """One answer."""

    pieces: tuple[str, ...] = ("yes",)
    status: int = 200
    kind: str = "text/event-stream"
    body: str = ""
    """Instead of pieces."""
    finish: str | None = "stop"
    """None breaks off."""
    prompt_tokens: Any = READ
    wait: Callable[[], object] = lambda: None
    """Before the first piece."""


def refuses(status: int, message: str) -> Says:
    return Says(status=status, kind="application/json", body=json.dumps({"error": {"message": message}}))


class Scripted(ThreadingHTTPServer):
    """Counts what it is asked."""

    daemon_threads = True

    def __init__(self, script: Callable[[dict[str, Any]], Says]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        server, asked = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(asked)
            server.keys.append(self.headers.get("Authorization"))
            server.paths.append(self.path)
            server.now += 1
            server.most = max(server.most, server.now)
        says = server.script(asked)
        says.wait()
        with server.lock:
            server.now -= 1
        self.send_response(says.status)
        self.send_header("Content-Type", says.kind)
        self.send_header("Connection", "close")
        self.end_headers()
        if says.body:
            self.wfile.write(says.body.encode())
        else:
            self.wfile.writelines(f"data: {json.dumps(event)}\n\n".encode() for event in events(says, asked))
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


def events(says: Says, asked: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"choices": [{"text": piece, "finish_reason": None}]} for piece in says.pieces]
    if says.finish is None:
        return found
    found.append({"choices": [{"text": "", "finish_reason": says.finish}]})
    ids = isinstance(asked["prompt"], list)
    read = (len(asked["prompt"]) if ids else None) if says.prompt_tokens is READ else says.prompt_tokens
    if read is not None:
        found.append({"choices": [], "usage": {"prompt_tokens": read, "completion_tokens": len(says.pieces)}})
    return found


@contextmanager
def scripted(script: Callable[[dict[str, Any]], Says] | Says):
    """Serve a script, or one answer to all."""
    server = Scripted(script if callable(script) else lambda _: script)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
