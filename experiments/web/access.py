"""Who may use a server: its address, the names and sites that it answers to, and its token."""

import argparse
import ipaddress
import re
import secrets
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from experiments.cli.user_errors import UserError

HOST, PORT = "127.0.0.1", 8000
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN = re.compile(r"[!-~]+")  # what can stand in a header

INTERRUPTED = 130
"""the exit code of a program that Ctrl+C has ended before it served"""


class Access(NamedTuple):
    """Where a server listens and whom it answers."""

    host: str = HOST
    port: int = PORT
    """0 takes a free one"""
    token: str | None = None
    """what a client must show; None = nothing, on loopback alone"""
    origins: tuple[str, ...] = ()
    """other web sites that may call it, each as `https://name:port`"""
    hosts: tuple[str, ...] = ()
    """more names that a client may know it by"""
    opens: bool = False
    """whether a browser is opened on it"""

    def answers_to(self, name: str) -> bool:
        """Whether a client that asked for this host meant this server. A web site that has its own name point
        here (DNS rebinding) asks for that name, never for an IP address."""
        if name in (*LOOPBACK, self.host.lower(), *self.hosts):
            return True
        if not _unspecified(self.host):
            return False
        return _is_address(name) or name == socket.gethostname().lower()

    def url(self, port: int) -> str:
        """The link to open, with the token."""
        host = socket.gethostname() if _unspecified(self.host) else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/{f'?token={self.token}' if self.token else ''}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that serves pages."""
    option = parser.add_argument_group("the server").add_argument
    option("--host", default=HOST, help=f"address to listen on ({HOST}); any other needs a token")
    option("--port", type=int, default=PORT, help=f"port to listen on ({PORT}); 0 takes a free one")
    option(
        "--token",
        help="what clients must show; made up and printed where the address is not this machine's own",
    )
    option(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine (repeat)",
    )
    option(
        "--allow-origin",
        action="append",
        default=[],
        metavar="SITE",
        help="another web site that may call, as https://name (repeat)",
    )
    option("--open", action="store_true", help="open a browser on it")


def access_of(options: argparse.Namespace) -> Access:
    """Whom a command line lets in; a token is made up where the address needs one.

    Raises:
        UserError: a port, token, name or site that cannot be.
    """
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}: give 0 to 65535")
    if not options.host.strip():
        raise UserError(f"--host is {options.host!r}: give an address, such as {HOST} or 0.0.0.0")
    token = options.token
    if token is not None and not TOKEN.fullmatch(token):
        raise UserError("--token: give ASCII letters, digits and signs without spaces, or leave it out")
    if token is None and not is_loopback(options.host):
        token = secrets.token_urlsafe(24)
    for name in options.allow_host:
        if not re.fullmatch(r"[\w.:-]+", name):
            raise UserError(f"--allow-host is {name!r}: give a name without scheme and port, such as my.lab")
    origins = tuple(_origin(site) for site in options.allow_origin)
    hosts = tuple(name.lower() for name in options.allow_host)
    return Access(options.host, options.port, token, origins, hosts, options.open)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host.lower() == "localhost"


def _unspecified(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _origin(site: str) -> str:
    parts = urlsplit(site)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or site != f"{parts.scheme}://{parts.netloc}"
    ):
        raise UserError(f"--allow-origin is {site!r}: give each site as https://name or http://name:port")
    return site.lower()
