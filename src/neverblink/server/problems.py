"""Errors as RFC 9457 problem details, with the `error` member that OpenAI clients read."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from neverblink.errors import BudgetError, ConfigError, NeverblinkError, SourceError, UnknownName
from neverblink.outputs.base import plain
from neverblink.sources.base import redact

MEDIA_TYPE = "application/problem+json"
STATUS: tuple[tuple[type[NeverblinkError], int], ...] = (
    (BudgetError, 409),
    (UnknownName, 404),
    (ConfigError, 400),
    (SourceError, 422),
)


class Problem(Exception):
    """An answer other than the one that was hoped for."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def body(status: int, detail: str) -> dict[str, Any]:
    title, text = http.HTTPStatus(status).phrase, redact(plain(detail))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": text,
        "error": {"message": text, "type": kind, "code": title.lower().replace(" ", "_"), "param": None},
    }


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body(status, detail), status, dict(headers or {}), MEDIA_TYPE)


def status_of(error: Exception) -> int:
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def install(app: FastAPI) -> None:
    """Have every error of the app answered this way."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> JSONResponse:
        return answer(error.status, error.detail, error.headers)

    @app.exception_handler(NeverblinkError)
    async def _ours(request: Request, error: NeverblinkError) -> JSONResponse:
        return answer(status_of(error), str(error))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(422, f"{where}: {first['msg']}")

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> JSONResponse:
        return answer(500, f"unexpected {type(error).__name__}; the server's log says where")
