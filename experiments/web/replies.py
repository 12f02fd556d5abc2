"""Answers that are no pages: errors in the form that OpenAI's API gives them."""

from typing import Any

from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """A request that is answered with an error of one line.

    Args:
        message: what was found and what to do.
        status: of HTTP.
        param: the field of the request that is wrong.
        code: a word for programs.
        headers: more of the answer's.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.headers = message, status, param, code, headers

    def response(self) -> JSONResponse:
        """The same as an answer."""
        return failure(self.status, self.message, self.param, self.code, self.headers)


def failure(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error as JSON, its message in one line."""
    return JSONResponse(error_body(status, message, param, code), status, headers)


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": param, "code": code}}
