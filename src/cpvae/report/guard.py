"""What stands between the page of `app` and whoever asks for it.

The page is for one person at this machine. But every page that is open in the same browser can send
requests to it, too: so it answers only if it is asked by its own address, and by its own page. The
browser is told to load nothing from elsewhere, and to show the page in no other one. What is
uploaded is limited, and all files are gone when the page ends.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cpvae.lock import is_alive
from cpvae.text import printable

HOSTS = ("127.0.0.1", "localhost", "[::1]")
MOST_UPLOADED = 100 * 2**20  # bytes of one request
KEPT = (600, 3600)  # seconds between two looks for old files of the page, and how old they get
HEADERS = {
    # whatever the library's templates link to
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'; object-src 'none'",
    "x-frame-options": "DENY",  # the same for browsers of before
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
FOLDER = "GRADIO_TEMP_DIR"  # where the library keeps files
PREFIX = re.compile(r"cpvae-app-(?P<pid>\d+)-.*")
PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][^\\/\s'\"]+)+[\\/](?=[^\\/\s'\"])")


class Refused(Exception):
    """A request that is not answered: its status and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Guard:
    """Answers who may ask, and adds headers to every answer; an application of ASGI around another.

    Arguments:
        app: that answers
        most: bytes that one request may have
    """

    def __init__(self, app: Any, most: int = MOST_UPLOADED):
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        taken, begun = 0, False

        async def limited() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:  # of a request that did not say how long it is
                raise Refused(413, f"More than {self.most:,} bytes")
            return message

        async def with_headers(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                more = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, limited, with_headers)
        except Refused as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            elif not begun:
                await _tell(with_headers, error)

    def _check(self, scope: Any) -> None:
        """Refuses foreign addresses and pages, and what is too long.

        Raises:
            Refused: see above.
        """
        headers = {key.decode("latin-1"): text.decode("latin-1") for key, text in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            raise Refused(403, "This page is for its own machine")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(403, "Another page may not ask this one")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            scope.get("method") != "GET" or headers.get("sec-fetch-mode") != "navigate"
        ):
            raise Refused(403, "Another page may not ask this one")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most:
            raise Refused(413, f"More than {self.most:,} bytes")


async def _tell(send: Any, error: Refused) -> None:
    text = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": error.status, "headers": text})
    await send({"type": "http.response.body", "body": f"{error}\n".encode()})


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Within it the page's files are in a folder of their own, which is then removed.

    Those that a process which was killed has left are removed, too. Where the user names a folder
    for them, in ``GRADIO_TEMP_DIR``, they are kept there.
    """
    if os.environ.get(FOLDER):
        yield
        return
    for left in Path(tempfile.gettempdir()).glob("cpvae-app-*"):
        found = PREFIX.fullmatch(left.name)
        if found and not is_alive(int(found["pid"])):
            shutil.rmtree(left, ignore_errors=True)
    os.environ[FOLDER] = tempfile.mkdtemp(prefix=f"cpvae-app-{os.getpid()}-")
    try:
        yield
    finally:
        shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


def without_paths(error: Exception) -> str:
    """What an error says, without where files lie: their names alone."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {Path(str(error.filename or '')).name}"
    return printable(PATH.sub("", text))
