"""uvicorn, with an orderly end: listeners that would never leave are let go first."""

from __future__ import annotations

import logging
import socket
from typing import Any

import uvicorn

from neverblink.server.hub import Hub
from neverblink.server.sse import TooSlow


def in_one_line(record: logging.LogRecord) -> bool:
    """A cut listener is no fault of ours: it needs no traceback in the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, TooSlow):
        record.msg, record.args, record.exc_info = str(error), None, None
    return True


class Serving(uvicorn.Server):
    """Serves an app of `make_app`."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hub: Hub | None = getattr(getattr(self.config.app, "state", None), "hub", None)
        if hub is not None:
            hub.feed.end()
        await super().shutdown(sockets)


def config_of(app: Any, **given: Any) -> uvicorn.Config:
    """How we run it: quiet, without headers of others, patient with large frames, not with those who stay."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=64 * 2**20,
        timeout_graceful_shutdown=1,
        **given,
    )
    logging.getLogger("uvicorn.error").addFilter(in_one_line)
    return config
