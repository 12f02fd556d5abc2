"""A web application with its guards, and the server that runs it."""

import gc
import json
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from experiments.cli.user_errors import REPORT, USER_ERRORS, UserError, tell
from experiments.web.access import Access
from experiments.web.guard import BodyGuard, HostGuard, TokenGuard
from experiments.web.replies import Refusal, failure

BODY = 4 * 2**20
"""bytes of a request's body, at most"""
KEPT_ALIVE = 75
"""seconds that a connection may rest; a client that uses it again just as it is closed meets an error"""
SWITCH = 0.0005
"""seconds after which Python lets another thread run: one that computes must not keep those that answer"""
FAREWELL = 3
"""seconds that answers still being written have when the server ends"""


def create_app(access: Access, lifespan: Callable[[Any], Any] | None = None, limit: int = BODY) -> FastAPI:
    """An application without routes that answers nobody but whom `access` lets in; its errors are JSON.

    Args:
        access: whom it answers.
        lifespan: an async context manager around its life, as of Starlette.
        limit: bytes of a body.
    """
    guards = [
        Middleware(HostGuard, access=access),
        Middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
        ),
        *([Middleware(TokenGuard, token=access.token)] if access.token else []),
        Middleware(BodyGuard, limit=limit),
    ]
    # FastAPI's own pages of documentation load scripts from another host
    pages: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}
    app = FastAPI(lifespan=lifespan, middleware=guards, dependencies=[Depends(check_characters)], **pages)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for kind in USER_ERRORS:
        app.add_exception_handler(kind, _mistake)
    app.add_exception_handler(Exception, _bug)
    return app


async def check_characters(request: Request) -> None:
    """Refuses half a character, which JSON can write (`"\\ud800"`) and no file, tokenizer or answer can hold.

    Raises:
        Refusal: the body has one.
    """
    body = await request.body()
    if b"\\ud" not in body.lower():
        return
    with suppress(ValueError, RecursionError):  # of what is no JSON: the route says so
        fields = json.loads(body)
        for name, value in fields.items() if isinstance(fields, dict) else ():
            try:
                json.dumps([name, value], ensure_ascii=False).encode()
            except UnicodeEncodeError:
                name = name.encode(errors="replace").decode()
                message = f"{name}: half a character, a surrogate without its other half: send whole ones"
                raise Refusal(message, param=name) from None


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return failure(400, f"the body is no JSON: {first['ctx']['error']}", code="invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    return failure(400, f"{name or 'the body'}: {message}", name or None)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"there is no {request.method} {request.url.path} here"
    headers = dict(error.headers) if error.headers else None
    return failure(error.status_code, detail, headers=headers)


async def _mistake(request: Request, error: Exception) -> JSONResponse:
    """What a library tells of a user's mistake."""
    return failure(400, str(error))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    """Its trace is in the terminal."""
    tell(REPORT)
    return failure(500, f"{type(error).__name__} in the server: its terminal says more")


def listen(access: Access) -> socket.socket:
    """The socket of an address, taken before anything slow is done.

    Raises:
        UserError: the address is not this machine's, or its port is taken.
    """
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    # by its number asyncio knows TCP, and sends each event at once: else each waits 40 ms for the one before
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # a server that has just ended leaves its port waiting
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((access.host, access.port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        reason = error.strerror or str(error)
        raise UserError(
            f"--host {access.host} --port {access.port}: {reason.lower()}: give another, or --port 0 for a "
            "free one"
        ) from error
    return taken


def serve(app: FastAPI, access: Access, taken: socket.socket | None = None) -> int:
    """Answers until it is interrupted; returns the exit code.

    Args:
        app: of `create_app`.
        access: where it listens.
        taken: the socket, where it has been made already.
    """
    taken = taken or listen(access)
    url = access.url(taken.getsockname()[1])
    server = uvicorn.Server(config(app))
    print(f"{url}\nCtrl+C ends it.", flush=True)
    if access.opens:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()  # what is loaded stays: looking through all of it again would keep everybody waiting 0.3 s
    with suppress(KeyboardInterrupt), taken:  # uvicorn raises it again when it has ended
        server.run(sockets=[taken])
    return 0


def config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs an application: no line for each request, whose address may have a token in it."""
    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEPT_ALIVE,
        timeout_graceful_shutdown=FAREWELL,
    )
