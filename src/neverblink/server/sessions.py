"""One stream of the server: its place in the engine, its record, its alerts.

Its reader's thread only hands chunks over (reader.py); whatever the stream says is dealt with on the engine's thread,
and is in the journal before anybody hears of it.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neverblink.engine import Result
from neverblink.errors import ConfigError, ModelError, NeverblinkError, SnapshotError
from neverblink.memory.journal import Entry, StreamRecord
from neverblink.memory.output import SHOWN, THUMBNAIL, JournalOutput
from neverblink.memory.recall import recall
from neverblink.outputs.base import Output, Outputs, Recorder
from neverblink.pictures import to_jpeg
from neverblink.server.alerts import Watch
from neverblink.server.reader import Reader
from neverblink.server.saying import Answering, being_said
from neverblink.server.spec import Spec
from neverblink.sources import redact
from neverblink.sources.base import SourceOptions
from neverblink.sources.push import PushSource
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk, Event, EventType, Frame, SourceInfo

if TYPE_CHECKING:
    from neverblink.server.hub import Hub

State = Literal["starting", "running", "paused", "ended", "failed"]
SPEAKING_EVERY = 0.08  # seconds between two looks at what is being said


class Session:
    """A stream of the server. Made and changed by `Hub`; the fields below are for anybody to read.

    Args:
        outputs: more places for its events, such as a console.
    """

    def __init__(self, hub: Hub, id: str, spec: Spec, created: float, outputs: Sequence[Output] = ()):
        self.hub, self.id, self.spec, self.created = hub, id, spec, created
        self.kind = spec.kind
        self.state: State = "starting"
        self.trouble = ""  # why it failed
        self.frame: Frame | None = None  # the newest one read
        self.frame_number = 0
        self.caption: Caption | None = None
        self.captions = self.frames_used = self.frames_dropped = self.answers = 0
        self.latency_sum = 0.0
        self.size = (0, 0)  # width, height of the source
        self.duration: float | None = None
        self.push: PushSource | None = None
        self.watches = {rule.id: Watch(rule) for rule in spec.alerts}
        self.stream: Stream | None = None  # in the engine
        self.recorder = Recorder(hub.model.name, id, first=hub.journal.last_seq(id) + 1)
        self.outputs = Outputs(outputs, self.recorder)
        self._journals = [output for output in outputs if isinstance(output, JournalOutput)]
        self._asked: deque[Answering | Watch] = deque()  # in the engine, oldest first
        self._pictures: deque[tuple[float, np.ndarray]] = deque(maxlen=8)  # end of a chunk, its last frame
        self.begun = 0.0  # media second at which this run of the server began to watch
        self._reader: Reader | None = None
        self._saved_at, self._save_took = time.monotonic(), 0.0
        self._unsaved = False  # the last snapshot could not be written, which has been told
        self._said_at = 0.0

    # -- from the event loop ------------------------------------------------------------------------------------------

    def ask(self, answering: Answering, *, remember: bool = False) -> None:
        """Ask about what the stream holds; on the engine's thread."""
        if self.stream is None:
            raise ConfigError(f"stream {self.id} is {self.state} and holds nothing that could be asked about")
        if not self.stream.turn:
            raise ConfigError(f"stream {self.id} has watched nothing yet; ask after its first second")
        self.hub.engine.ask(self.id, answering.words, remember=remember)
        self._asked.append(answering)
        self._note("question", answering.question)

    def recalling(self, question: str) -> tuple[str, list[Entry]]:
        """A question with what the journal knows about it; any thread."""
        stream = self.stream
        if stream is None:
            return question, []

        found = recall(self.hub.journal, self.id, question, fits=partial(stream.options.askable, stream.script))
        return found.words, found.entries

    def describe(self) -> dict[str, Any]:
        """What the API tells of it."""
        caption = self.caption
        return {
            "id": self.id,
            "name": self.spec.shown,
            "source": redact(self.spec.source),
            "kind": self.kind,
            "state": self.state,
            "trouble": redact(self.trouble),
            "created": self.created,
            "media_seconds": caption.end if caption else self.begun,
            "width": self.size[0],
            "height": self.size[1],
            "duration": self.duration,
            "realtime": self.spec.runs_by_the_clock,
            "captions": self.captions,
            "answers": self.answers,
            "frames_used": self.frames_used,
            "frames_dropped": self.frames_dropped,
            "kv_tokens": caption.kv_tokens if caption else 0,
            "kv_budget": self.stream.budget if self.stream else 0,
            "latency_ms": round(caption.latency * 1000, 3) if caption else 0.0,
            "last_caption": caption.text if caption else "",
            "alerts": [watch.rule.shown() for watch in self.watches.values()],
        }

    # -- its life: on the engine's thread, but for `_read` ------------------------------------------------------------

    def enter(self) -> None:
        """Take a place in the engine, with the memory of an earlier run where there is one."""
        options, script = self.hub.stream_options(self.spec), self.hub.script(self.spec)
        overload: Any = "drop-oldest" if self.kind != "file" and self.spec.runs_by_the_clock else "slow"
        self.stream = self.hub.engine.add(self.id, options=options, script=script, overload=overload)
        self.hub.worker.listeners[self.id] = self
        self.begun = self.hub.journal.last_second(self.id)
        if self._snapshot.exists():
            try:
                self.stream.restore(self._snapshot)
                self._note("source", f"goes on with its memory of second {self.stream.end:.0f}")
            except SnapshotError as error:
                self._note("error", f"starts without memory: {error}")

    def leave(self, error: Exception | None = None) -> None:
        """Give the place in the engine back."""
        self.hub.worker.listeners.pop(self.id, None)
        if self.stream is not None and self.id in self.hub.engine.stream_ids:
            self.hub.engine.remove(self.id)
        self.stream = None
        self._fail_asked(error or ConfigError(f"stream {self.id} is gone"))

    def reenter(self, why: str) -> None:
        """Take its place again after the engine has failed, with what it held, or else with its older snapshot."""
        self.save()
        self.leave(ModelError(why))
        self._note("error", why)
        self.enter()

    def start(self) -> None:
        """Begin to read, where the stream stands."""
        self.state = "starting"
        if self.kind == "push" and self.push is None:
            self.push = PushSource("push", SourceOptions(fps=self.fps))
        self._reader = Reader(self)
        self._reader.start()

    def halt(self) -> None:
        """Stop reading; any thread but the engine's, which the reader may be waiting for."""
        if self._reader is not None:
            self._reader.stop()
        self.push = None

    def remember(self, **otherwise: Any) -> None:
        """Write down what it takes to go on after a restart."""
        alerts = [watch.rule.as_json() for watch in self.watches.values()]
        about = {**asdict(self.spec), "alerts": alerts, "state": self.state, "open": 1, "seen": time.time()}
        try:
            shown = self.hub.vault.hide(self.id, {**about, **otherwise})
            self.hub.journal.put_stream(StreamRecord(self.id, self.created, shown))
        except (OSError, sqlite3.Error) as error:
            self._not_kept(error)

    def save(self) -> None:
        """Snapshot; only between two turns."""
        if self.stream is None or not self.stream.turn:
            return
        began = time.monotonic()
        try:
            self.stream.save(self._snapshot)
        except SnapshotError as error:
            if not self._unsaved:
                self._note("error", str(error))
            self._unsaved = True
        else:
            self._unsaved = False
        self._saved_at = time.monotonic()
        self._save_took = self._saved_at - began

    def forget(self) -> None:
        self._snapshot.unlink(missing_ok=True)

    @property
    def _snapshot(self) -> Any:
        return self.hub.folder / "snapshots" / f"{self.id}.safetensors"

    @property
    def fps(self) -> float:
        return self.spec.fps or self.hub.model.fps

    # -- for its reader -----------------------------------------------------------------------------------------------

    def runs(self, info: SourceInfo) -> None:
        """The source is open; any thread."""
        self._set_state("running")
        self.size, self.duration = (info.width, info.height), info.duration

    def watched_before(self, chunk: Chunk) -> bool:
        """Is this a second that was watched before the restart? Any thread."""
        return self.caption is None and not self._pictures and chunk.start < self.begun

    def on_source(self, kind: str, text: str, at: float) -> None:
        """Something happened to the source at a media second; any thread."""
        wanted: Any = kind
        self.hub.worker.call(lambda: self._note(wanted, text, at))

    def submit(self, chunk: Chunk) -> bool | None:
        """True: taken or counted as lost; None: come again; False: the stream is gone. On the engine's thread."""
        if self.stream is None:
            return False
        if not self.hub.engine.submit(self.id, chunk):
            return None
        self._pictures.append((chunk.end, chunk.frames[-1].pixels))
        return True

    def over(self, state: Literal["ended", "failed"], trouble: str = "") -> None:
        """The source is over. What waits in the engine is still watched, and it can still be asked. On the engine's
        thread."""
        self.trouble = trouble or self.trouble
        self._note("error" if state == "failed" else "source", self.trouble or "the source is over")
        self._set_state(state)
        self.hub.on_over(self)

    def _set_state(self, state: State) -> None:
        self.state = state
        self.hub.feed.mention(self.id, "state", {"state": state})
        self.hub.worker.call(self.remember)

    # -- what it says: on the engine's thread -------------------------------------------------------------------------

    def on_result(self, result: Result) -> None:
        if self._reader is not None:
            self._reader.make_room()
        if result.error is not None:
            self.save()  # what it held before the turn that failed
            at = self.stream.end if self.stream is not None else 0.0
            self.trouble = f"{type(result.error).__name__}: {result.error}; resume it to go on from second {at:.0f}"
            self.leave(result.error)
            if self._reader is not None:
                self._reader.give_up()
            self.over("failed")
        elif result.caption is not None:
            self._on_caption(result.caption)
        else:
            self._on_answer(result.answer or "", result.ttft or 0.0)

    def on_round(self) -> None:
        now = time.monotonic()
        if self.stream is None or now - self._said_at < SPEAKING_EVERY:
            return
        saying = being_said(self.stream)
        if saying is None or not saying.text:
            return
        self._said_at = now
        asked = self._asked[0] if self._asked else None
        if saying.answer and isinstance(asked, Answering):
            asked.grow(saying.text)
        if not (saying.answer and isinstance(asked, Watch)):
            self.hub.feed.mention(self.id, "speaking", {"answer": saying.answer, "text": saying.text})

    def _on_caption(self, caption: Caption) -> None:
        self.caption = caption
        self.captions += not caption.silent
        self.frames_used += caption.frames_used
        self.frames_dropped += caption.frames_dropped
        self.latency_sum += caption.latency
        self.hub.latencies.add(caption.latency)
        for event in self.recorder.caption(caption):
            self._keep(event)
        for watch in self.watches.values():
            if watch.caption(caption.text, caption.end):
                self._alert(watch, caption.text, caption)
            if watch.wants_to_ask(caption.end):
                self._ask_about(watch)
        wait = max(self.hub.options.snapshot_seconds, 100 * self._save_took)
        if time.monotonic() - self._saved_at >= wait:
            self.save()
            self.remember()

    def _on_answer(self, answer: str, ttft: float) -> None:
        asked = self._asked.popleft()
        caption = self.caption
        if isinstance(asked, Watch):
            if caption is not None and asked.rule.id in self.watches and asked.answered(answer, caption.end):
                self._alert(asked, answer, caption)
            return
        self.answers += 1
        self.hub.ttfts.add(ttft)
        at = self.stream.end if self.stream is not None else 0.0
        if caption is None:  # asked before the first caption after a restart
            caption = Caption(at, at, "", True, "silence", 0, 0, 0, 0)
        self._keep(self.recorder.answer(answer, caption, time.perf_counter() - asked.began))
        asked.end(answer, at, ttft)

    def _ask_about(self, watch: Watch) -> None:
        try:
            self.hub.engine.ask(self.id, watch.rule.question)
        except NeverblinkError as error:  # too long for this model, or a mark of the chat format
            self._note("error", f"alert {watch.rule.name!r} cannot be asked: {error}")
            self.watches.pop(watch.rule.id, None)
        else:
            self._asked.append(watch)

    def _alert(self, watch: Watch, text: str, caption: Caption) -> None:
        event = replace(self.recorder.note("alert", f"{watch.rule.name}: {text}", caption.end), t_start=caption.start)
        entry = self._keep(event)
        if watch.rule.webhook:
            value = {"alert": watch.rule.id, "stream": self.id, "clip": [event.t_start, event.t_end]}
            told = {**value, "name": watch.rule.name, "text": text, "wall_time": event.wall_time, "row": entry.row}
            self.hub.hooks.send(watch.rule.webhook, told, self._on_hook_failure)

    def _on_hook_failure(self, text: str) -> None:
        self.hub.worker.call(lambda: self._note("error", text))

    def _note(self, kind: EventType, text: str, at: float | None = None) -> None:
        """Something happened at a media second; now where none is given."""
        second = at if at is not None else self.caption.end if self.caption else self.begun
        self._keep(self.recorder.note(kind, text if kind == "question" else redact(text), second))

    def _keep(self, event: Event) -> Entry:
        """Into the journal first, then to everybody."""
        picture = None
        if event.type in SHOWN and self._pictures:
            pixels = next((p for end, p in self._pictures if end >= event.t_end - 1e-6), self._pictures[-1][1])
            picture = to_jpeg(pixels, width=THUMBNAIL, quality=60)
            for output in self._journals:
                output.see(pixels)
        row = 0
        try:
            row = self.hub.journal.add(event, picture)
            self.hub.journal_error = ""
        except sqlite3.Error as error:
            self._not_kept(error)
        entry = Entry(row, event, picture is not None)
        if row:
            self.hub.feed.publish(entry)
        self.outputs.write(event)
        return entry

    def _not_kept(self, error: Exception) -> None:
        """Something could not be written: told by /health/ready and counted; the stream goes on."""
        self.hub.journal_error = f"{self.hub.journal.path}: {error}"
        self.hub.journal_failures += 1

    def _fail_asked(self, error: BaseException) -> None:
        for asked in self._asked:
            if isinstance(asked, Answering):
                asked.fail(error)
            else:
                asked.asking = False
        self._asked.clear()
