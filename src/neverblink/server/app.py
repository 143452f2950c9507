"""The app: routes, guard and hub put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from neverblink import __version__
from neverblink.model import Model
from neverblink.options import StreamOptions
from neverblink.server import chat, page, problems, push, realtime, routes
from neverblink.server.guard import Guard
from neverblink.server.hub import Hub
from neverblink.server.options import ServeOptions
from neverblink.server.spec import Spec


def make_app(
    model: Model,
    options: ServeOptions,
    stream_options: StreamOptions | None = None,
    *,
    begin: Sequence[Spec] = (),
    on_ready: Any = None,
) -> FastAPI:
    """The app of a server.

    Args:
        begin: streams to start, unless they go on from the last time.
        on_ready: called with the hub when everything runs.
    """
    options.check()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        hub = app.state.hub = Hub(model, options, stream_options)
        await hub.open()
        try:
            here = {session.spec.source for session in hub.sessions.values()}
            for spec in begin:
                if spec.source not in here:
                    await hub.create(spec)
            if on_ready is not None:
                await on_ready(hub)
            yield
        finally:
            await hub.close()

    app = FastAPI(
        title="neverblink",
        version=__version__,
        description="Watch video that never ends with a vision-language model.",
        docs_url=None,  # it would load scripts of another host
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(app)
    for part in (routes.router, page.router, push.router, chat.router, realtime.router):
        app.include_router(part)
    guards: list[Guard] = []

    def guard(inner: Any) -> Guard:
        guards.append(Guard(inner, options, (page.STATIC / "login.html").read_bytes()))
        return guards[-1]

    app.add_middleware(guard)  # type: ignore[arg-type]  # a function that makes one will do
    app.state.refused = lambda: sum(g.refused for g in guards)
    return app
