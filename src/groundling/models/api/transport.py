"""HTTP: one POST within limits of time and size (the only module that knows httpx).

httpx limits each silence; a server that drips headers, or says `100 Continue` for ever, is never
silent. So every read of a connection looks at the clock of the whole call too.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from groundling.models.api.settings import EndpointConfig, is_loopback

MOST_BYTES = 32 * 2**20
"""Largest reply that is read, in bytes after decompression."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A whole reply."""

    status: int
    data: bytes
    retry_after: str | None


class LostError(Exception):
    """A call without a whole reply; the message says why.

    `charged` where the server may have worked on it all the same; `mute` where it said nothing.
    """

    def __init__(self, reason: str, *, charged: bool = False, mute: bool = False) -> None:
        self.charged, self.mute = charged, mute
        super().__init__(reason)


class Transport:
    """Connections to an endpoint, shared by threads; `key` goes into one header."""

    def __init__(
        self, config: EndpointConfig, key: str | None, monotonic: Callable[[], float]
    ) -> None:
        self._config, self._monotonic = config, monotonic
        self._call = threading.local()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "groundling",
            "Accept-Encoding": "identity",
        }
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(
                config.read_timeout_s, connect=config.connect_timeout_s, pool=None
            ),
            limits=httpx.Limits(
                max_connections=config.concurrency, max_keepalive_connections=config.concurrency
            ),
            follow_redirects=False,
            trust_env=not is_loopback(config.endpoint),  # a proxy cannot reach this machine
        )
        # httpx has no setting for the backend of its pools.
        for transport in (self._http._transport, *self._http._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                transport._pool._network_backend = _Backend(self._left_s)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def post(self, path: str, body: bytes) -> Arrived:
        """The reply to `body` at the endpoint's `path`. Raises LostError."""
        where = self._config.endpoint
        start_s = self._monotonic()
        self._call.ends_s = start_s + self._config.total_timeout_s
        try:
            with self._http.stream("POST", f"{where}/{path}", content=body) as response:
                data = _whole(response)
                return Arrived(response.status_code, data, response.headers.get("Retry-After"))
        except (httpx.ConnectTimeout, httpx.ConnectError) as fault:
            raise LostError(f"no connection to {where}: {_kind(fault)}", mute=True) from fault
        except (httpx.WriteError, httpx.WriteTimeout) as fault:
            raise LostError(f"the connection to {where} broke while asking", mute=True) from fault
        except httpx.TimeoutException as fault:
            if self._left_s() <= 0:
                most = self._config.total_timeout_s
                reason = f"no whole reply of {where} within {most:g} s"
            else:
                reason = f"{where} was silent for {self._config.read_timeout_s:g} s"
            raise LostError(reason, charged=True, mute=True) from fault
        except (httpx.RequestError, httpx.InvalidURL) as fault:
            reason = f"the connection to {where} broke: {_kind(fault)}"
            raise LostError(reason, charged=True) from fault

    def _left_s(self) -> float:
        """Seconds that the call of this thread may still take."""
        ends_s: float = self._call.ends_s
        return ends_s - self._monotonic()


def _whole(response: httpx.Response) -> bytes:
    """The body, decompressed if need be. Raises LostError for one that is too large."""
    unpack = _unpacking(response.headers.get("Content-Encoding", ""))
    chunks, size = [], 0
    for raw in response.iter_raw():
        chunk = raw if unpack is None else _unpacked(unpack, raw, MOST_BYTES + 1 - size)
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise LostError(f"a reply of more than {MOST_BYTES // 2**20} MiB", charged=True)
    return b"".join(chunks)


def _unpacking(encoding: str) -> Any:
    """What undoes an encoding, a part at a time; None for none."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise LostError("a reply in an encoding that was not asked for", charged=True)


def _unpacked(unpack: Any, raw: bytes, most: int) -> bytes:
    try:
        found: bytes = unpack.decompress(raw, most)
    except zlib.error as fault:
        raise LostError("a reply whose compression is broken", charged=True) from fault
    return found


def _kind(fault: BaseException) -> str:
    return type(fault).__name__


class _Backend(httpcore.NetworkBackend):
    """Opens connections whose every step keeps to what is left of a call."""

    def __init__(self, left_s: Callable[[], float]) -> None:
        self._left_s = left_s
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *options: Any, **named: Any
    ) -> httpcore.NetworkStream:
        """As in httpcore."""
        timeout = _within(timeout, self._left_s(), httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, timeout, *options, **named)
        return _Stream(stream, self._left_s)

    def sleep(self, seconds: float) -> None:
        """As in httpcore."""
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes keep to what is left of the call that uses it."""

    def __init__(self, inner: httpcore.NetworkStream, left_s: Callable[[], float]) -> None:
        self._inner, self._left_s = inner, left_s

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As in httpcore."""
        return self._inner.read(max_bytes, _within(timeout, self._left_s(), httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As in httpcore."""
        self._inner.write(buffer, _within(timeout, self._left_s(), httpcore.WriteTimeout))

    def close(self) -> None:
        """As in httpcore."""
        self._inner.close()

    def start_tls(self, *options: Any, **named: Any) -> httpcore.NetworkStream:
        """As in httpcore."""
        return _Stream(self._inner.start_tls(*options, **named), self._left_s)

    def get_extra_info(self, info: str) -> Any:
        """As in httpcore."""
        return self._inner.get_extra_info(info)


def _within(timeout: float | None, left_s: float, late: type[Exception]) -> float:
    """The shorter of two limits, in seconds. Raises `late` where no time is left."""
    if left_s <= 0:
        raise late("the call took too long")
    return left_s if timeout is None else min(timeout, left_s)
