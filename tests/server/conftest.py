"""One server for the tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.server.running import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), max_streams=6, allow_private_urls=True) as running:
        yield running


@pytest.fixture(scope="session")
def pong(server: Server) -> str:
    """A stream that runs, as fast as it can, and never ends."""
    stream_id = server.start(source="arcade:pong?seed=3", realtime=True, name="Pong")
    server.watched(stream_id, 2)
    return stream_id
