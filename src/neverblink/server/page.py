"""The live page and its files, and the way in for a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from neverblink.server.guard import COOKIE, LOGIN, cookie_of, same
from neverblink.server.problems import Problem

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter()


@router.get("/", include_in_schema=False)
async def index() -> Response:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> Response:
    path = STATIC / name
    if path.suffix not in TYPES or "/" in name or "\\" in name or not path.is_file():
        raise Problem(404, f"no file {name!r}")
    return FileResponse(path, media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


@router.post(LOGIN, include_in_schema=False)
async def login(request: Request) -> Response:
    """A browser gives the key once, and keeps a cookie that no script can read."""
    key = request.app.state.hub.options.api_key
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > 4096:
            raise Problem(413, "a key is shorter")
    given = parse_qs(data.decode("utf-8", "replace")).get("key", [""])[0]
    if key is None or not same(given, key):
        await asyncio.sleep(0.5)  # guessing costs time
        raise Problem(401, "the key is wrong; go back and try again")
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie_of(key), max_age=30 * 86400, httponly=True, samesite="strict", secure=secure)
    return answer
