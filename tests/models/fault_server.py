"""A local chat-completions server that misbehaves on demand, for tests of clients.

It answers each request by a plan: a queue of behaviours for whoever comes next, or a function of
the request. What it was asked is kept.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Act:
    """What happens to one request. Times are in seconds."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Close the connection after so many bytes of the body, though more were announced."""
    silent_s: float = 0.0
    drip_s: float = 0.0
    """Pause before each byte of the body."""
    drip_head: bool = False
    """Drip the status line and the headers too, without end."""
    continues: bool = False
    """Say `100 Continue` without end."""
    reset: bool = False
    """Reset the connection instead of answering."""


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """The words of the conversation."""
        parts = [part for message in self.body["messages"] for part in message["content"]]
        return "".join(part.get("text", "") for part in parts)

    @property
    def pictures(self) -> list[Image.Image]:
        """The pictures, decoded."""
        parts = [part for message in self.body["messages"] for part in message["content"]]
        uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        data = [base64.b64decode(re.sub("^data:image/[a-z]+;base64,", "", uri)) for uri in uris]
        return [Image.open(io.BytesIO(one)) for one in data]


Script = Callable[[Asked], Act]


def completion(
    *texts: str | None,
    usage: tuple[int, int] | None = (100, 10),
    finish: str | list[str | None] = "stop",
    logprobs: list[list[tuple[str, float]]] | None = None,
    **message: object,
) -> bytes:
    """The body of a sound reply."""
    finishes = finish if isinstance(finish, list) else [finish] * len(texts)
    choices: list[dict[str, Any]] = [
        {"index": i, "message": {"role": "assistant", "content": text, **message}}
        for i, text in enumerate(texts)
    ]
    for i, choice in enumerate(choices):
        choice["finish_reason"] = finishes[i]
        if logprobs is not None:
            rows = [{"token": token, "logprob": value} for token, value in logprobs[i]]
            choice["logprobs"] = {"content": rows}
    reply: dict[str, Any] = {"object": "chat.completion", "choices": choices}
    if usage is not None:
        reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(reply).encode()


def said(*texts: str, **options: Any) -> Act:
    """A sound reply."""
    return Act(body=completion(*texts, **options))


def refused(status: int, message: str = "no", **headers: str) -> Act:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    return Act(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class FaultServer:
    """The server, in a thread of this process, on a free port of this machine.

        with FaultServer(said("a man")) as server:
            …  # server.url, server.asked

    `plan` is used up from the left; its last act goes on for ever.
    """

    def __init__(self, *plan: Act, script: Script | None = None) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._plan = deque(plan)
        self._script = script
        self._lock = threading.Lock()
        self._now = 0
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def begin(self, asked: Asked) -> Act:
        """Take note of a request and say what happens to it."""
        with self._lock:
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if self._script is None:
                return self._plan.popleft() if len(self._plan) > 1 else self._plan[0]
        return self._script(asked)

    def end(self) -> None:
        """Take note that a request is over."""
        with self._lock:
            self._now -= 1

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: FaultServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Asked(self.path, json.loads(data), dict(self.headers))
        act = self.server.owner.begin(asked)
        try:
            self._play(act)
        finally:
            self.server.owner.end()

    def _play(self, act: Act) -> None:
        if act.silent_s:
            time.sleep(act.silent_s)
        if act.reset:
            # An abortive close: the client sees a reset, not an end.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
            return
        if act.continues or act.drip_head:
            self._drone(act)
            return
        body = completion("ok") if act.body is None else act.body
        self.send_response(act.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in act.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if act.cut is not None:
            self.wfile.write(body[: act.cut])
            self.close_connection = True
            return
        for start in range(0, len(body), 1 if act.drip_s else max(1, len(body))):
            if act.drip_s:
                time.sleep(act.drip_s)
            self.wfile.write(body[start : start + 1] if act.drip_s else body)

    def _drone(self, act: Act) -> None:
        """Say what never becomes a reply, until the client has gone."""
        self.close_connection = True
        first = b"" if act.continues else b"HTTP/1.1 200 OK\r\nX-Long: "
        more = b"HTTP/1.1 100 Continue\r\n\r\n" if act.continues else b"x"
        try:
            self.wfile.write(first)
            while True:
                time.sleep(act.drip_s or 0.001)
                self.wfile.write(more)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
