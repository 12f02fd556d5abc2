"""What a request must show before a server does anything for it: the right host, a known site, a token, a
body of bounded size."""

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experiments.web.access import Access
from experiments.web.replies import failure

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
NO_TOKEN = (
    "no token or a wrong one: open the link that the server printed, or send `Authorization: Bearer TOKEN`"
)


class HostGuard:
    """Refuses requests that were sent to another name, as DNS rebinding does, or by a page of another site,
    and gives every answer the headers that keep pages apart."""

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self.access.answers_to(host_name(hosts[0])):
            refusal = failure(403, f"this server is not {hosts[:1]}: see --allow-host", code="unknown_host")
            await refusal(scope, receive, send_guarded)
        elif not all(self._may_call(origin, hosts[0]) for origin in origins):
            refusal = failure(
                403, f"pages of {origins[0]} may not call: see --allow-origin", code="other_origin"
            )
            await refusal(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def _may_call(self, origin: str, host: str) -> bool:
        own = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
        return own or origin.lower() in self.access.origins


def host_name(header: str) -> str:
    """The name in a Host header, without its port, in small letters; empty where it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        return (parts.hostname or "") if parts.netloc == header and "@" not in header else ""
    except ValueError:
        return ""


class TokenGuard:
    """Asks for the token: in `Authorization: Bearer`, in `?token=` (kept then as a cookie of this site
    alone), or in that cookie."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.token = app, token
        # a browser's cookies are those of a name, whatever the port: two servers must not share one
        self.cookie = f"trivium-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        bearer = shown.strip() if scheme.lower() == "bearer" else ""
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]

        async def send_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                value = f"{self.cookie}={self._kept()}; HttpOnly; SameSite=Strict; Path=/"
                MutableHeaders(scope=message).append("set-cookie", value)
            await send(message)

        if self._is(asked, self.token):
            await self.app(scope, receive, send_cookie)
        elif self._is(bearer, self.token) or self._is(self._sent(headers.get("cookie", "")), self._kept()):
            await self.app(scope, receive, send)
        else:
            await failure(401, NO_TOKEN, code="invalid_api_key")(scope, receive, send)

    def _kept(self) -> str:
        return hashlib.sha256(
            f"cookie {self.token}".encode()
        ).hexdigest()  # any token's signs fit a cookie so

    def _sent(self, cookies: str) -> str:
        try:
            morsel = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return ""
        return morsel.value if morsel else ""

    @staticmethod
    def _is(shown: str, wanted: str) -> bool:
        return hmac.compare_digest(shown.encode(), wanted.encode())


class BodyGuard:
    """Reads no more of a body than the limit, in bytes."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = failure(413, f"the body has more than {self.limit:,} bytes: send less", code="too_large")
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self.limit:
            await refusal(scope, receive, send)
            return
        size = 0

        async def receive_counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limit:
                raise HTTPException(413, f"the body has more than {self.limit:,} bytes: send less")
            return message

        await self.app(scope, receive_counted, send)
