"""Several sources through one engine: each is read in a thread of its own, one thread sees and speaks for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from neverblink.engine.engine import Engine
from neverblink.engine.member import Result
from neverblink.sources.ahead import Ahead
from neverblink.sources.base import Source
from neverblink.sources.chunks import asked, chunks
from neverblink.types import Chunk


class Ears:
    """What a source tells while it is read, until the reader that hears it is there."""

    def __init__(self) -> None:
        self.tell: Callable[[str, str, float], None] = lambda *_: None

    def __call__(self, kind: str, text: str, at: float) -> None:
        self.tell(kind, text, at)


def watch_sources(
    engine: Engine,
    sources: Mapping[str, Source],
    *,
    ears: Mapping[str, Ears],
    seconds: float | None = None,
    questions: Mapping[float, str] | None = None,
    on_event: Callable[[str, str, str, float], None] = lambda *_: None,
    on_chunk: Callable[[str, Chunk], None] = lambda *_: None,
) -> Iterator[Result]:
    """Read every source to its end; results as they come.

    A source that fails, or whose stream does, ends alone: its error is a result, and comes behind every second that was
    read before it.

    Args:
        engine: with a stream for each source, of the same id; those that are over are removed.
        sources: opened ones. ears: the listener that each was opened with.
        seconds: of media, of each source. questions: media second -> question, asked of every stream.
        on_event: told (stream id, type, text, media seconds), in the caller's thread.
        on_chunk: given (stream id, chunk) of what is handed to the engine, in the caller's thread.
    """
    changed = threading.Condition()
    with ExitStack() as stack:
        readers: dict[str, Ahead[tuple[Chunk, str | None]]] = {}
        for name, source in sources.items():
            options = engine.stream(name).options
            items = asked(chunks(source, options.fps, options.chunk_seconds), seconds, questions)
            heard = _named(on_event, name)
            readers[name] = stack.enter_context(Ahead(items, on_note=heard, free=source.close, changed=changed))
            ears[name].tell = readers[name].tell
        over: dict[str, Exception | None] = {}
        while engine.stream_ids:
            for name in engine.stream_ids:
                if name in over or not readers[name].is_ready() or engine.must_wait(name):
                    continue
                try:
                    chunk, question = next(readers[name])
                except StopIteration:
                    over[name] = None
                except Exception as error:  # a fault of one source, ours or not, ends one stream
                    over[name] = error
                else:
                    on_chunk(name, chunk)
                    engine.submit(name, chunk, question)
            yield from engine.advance()
            for name in [name for name in over if name in engine.stream_ids and not engine.is_busy(name)]:
                engine.remove(name)
                if over[name] is not None:
                    yield Result(name, error=over[name])
            for name in readers.keys() - set(engine.stream_ids):
                readers.pop(name).close()  # a source that nobody listens to any more
            if not engine.has_work and engine.stream_ids:
                with changed:
                    here = [readers[name] for name in engine.stream_ids]
                    changed.wait_for(lambda: any(reader.has_news for reader in here))  # noqa: B023  called here only


def _named(on_event: Callable[[str, str, str, float], None], name: str) -> Callable[[str, str, float], None]:
    return lambda kind, text, at: on_event(name, kind, text, at)
