"""Who may use the page: host names, the origin of writes, the session's cookie, and the token of an open address."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from psdiff_jax.app.sessions import new_id
from psdiff_jax.errors import InputError

ANY = ("0.0.0.0", "::")  # every address of this machine
READS = ("GET", "HEAD")
UPLOADS = "/api/images"  # which limits what it reads itself
MAX_BODY = 2**16  # bytes of any other request
PUBLIC_URL = re.compile(r"https?://[a-z0-9.-]+(:\d+)?")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers send "Origin: null" with the form of /sign-in
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Gate:
    """The session cookie, signed with a key of this process: whoever has a valid one may use the page.

    At an address of this machine everybody gets one; at any other, and behind a proxy, only who gives the token, which
    is printed at start.

    public_url: https://NAME where a proxy serves the page under that name.

    Raises:
      InputError: `public_url` is something else.
    """

    def __init__(self, host: str, port: int, public_url: str = ""):
        self.host, self.port = host.lower(), port
        self.public_url = public_url.lower().rstrip("/")
        if public_url and not PUBLIC_URL.fullmatch(self.public_url):
            raise InputError(f"--public-url {public_url}: give https://NAME or http://NAME:PORT, without a path")
        self.token = None if _is_this_machine(host) and not public_url else secrets.token_urlsafe(24)
        self.cookie = f"psdiff_{port}"  # cookies do not tell ports apart
        self._key = secrets.token_bytes(32)

    @property
    def address(self) -> str:
        """The address to open. A token is in the fragment, which browsers send to nobody and the page sends itself."""
        host = socket.gethostname() if self.host in ANY else self.host
        host = f"[{host}]" if ":" in host else host
        served = self.public_url or f"http://{host}:{self.port}"
        return f"{served}/{f'#token={self.token}' if self.token else ''}"

    def accepts(self, token: str) -> bool:
        return self.token is None or hmac.compare_digest(token.encode(), self.token.encode())

    def new_cookie(self) -> str:
        """A new session's id with its signature."""
        session = new_id()
        return f"{session}.{self._sign(session)}"

    def session(self, cookie: str | None) -> str | None:
        """The session's id in a cookie that this process has signed, else None."""
        session, _, signature = (cookie or "").partition(".")
        return session if hmac.compare_digest(signature.encode(), self._sign(session).encode()) else None

    def serves(self, host: str) -> bool:
        """Whether a Host header is an address, this machine's name, --host or the name of --public-url: a foreign name
        that was pointed at this machine (DNS rebinding) is none of them."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # half an IPv6 address
            return False
        own = (self.host, "localhost", socket.gethostname().lower(), urlsplit(self.public_url).hostname)
        return name in own or _is_address(name)

    def _sign(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), "sha256").hexdigest()


class Guard:
    """ASGI middleware: refuses foreign hosts, writes that come from another origin, and long requests; sets the
    security headers."""

    def __init__(self, app: ASGIApp, gate: Gate):
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        status, refusal = 403, self._refusal(scope["method"], scope["scheme"], headers)
        if not refusal and scope["path"] != UPLOADS and _is_long(headers):
            status, refusal = 413, f"A request of this kind has {MAX_BODY // 1024} kB at most"
        answer = JSONResponse({"error": refusal}, status) if refusal else self.app
        await answer(scope, receive, send_guarded)

    def _refusal(self, method: str, scheme: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not self.gate.serves(host):
            return f"This page is not served under the name {_printable(host)}; open {self.gate.address.split('#')[0]}"
        own = {f"{scheme}://{host}", self.gate.public_url} - {""}
        if method not in READS and headers.get("origin") not in own:
            return f"A write must come from this page: Origin is {_printable(headers.get('origin', 'missing'))}"
        return None


def _is_this_machine(host: str) -> bool:
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_long(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80] or "empty"
