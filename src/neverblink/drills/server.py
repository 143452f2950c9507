"""Drills of the server as a whole: killed, stopped, listened to by a thousand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

from neverblink.drills.base import Drill, Finding, drill_of, percentile
from neverblink.drills.serving import Child, End, Served, Starter, cues, wait_for
from neverblink.memory.journal import Entry, Journal, StreamRecord
from neverblink.outputs.base import Recorder, plain
from neverblink.outputs.vtt import escape

GAME = "arcade:pong?seed=2"


def trouble_of(journal: Path) -> str:
    """What SQLite says of a journal, its index of words included; "" where it is sound."""
    try:
        with contextlib.closing(sqlite3.connect(journal)) as db:
            db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            (found,) = db.execute("PRAGMA integrity_check").fetchone()
            (unknown,) = db.execute(
                "SELECT count(*) FROM events WHERE text <> '' AND id NOT IN (SELECT id FROM words_docsize)"
            ).fetchone()
            return str(found) if found != "ok" else f"{unknown} lines are not in the index" if unknown else ""
    except sqlite3.Error as error:
        return str(error)


def lines_of(journal: Path, stream_id: str | None = None) -> list[Entry]:
    with Journal(journal, read_only=True) as book:
        return book.events(stream_id, limit=10**7)


# -- R13: kill -9 -----------------------------------------------------------------------------------------------------


def kill_watch(folder: Path, scale: float) -> Finding:
    """`watch` with subtitles and a journal that all runs share. What was said on the terminal must be in both, but for
    the second that was being told."""
    kills, rng = max(2, round(200 * scale)), random.Random(13)
    journal, captions, damaged, lost = folder / "journal.db", 0, 0, 0
    with Starter(folder) as starter:
        for run in range(kills):
            vtt, target = folder / f"{run}.vtt", rng.randint(200, 1500)
            own = ["--model", str(starter.toy), "--no-realtime", "--vtt", str(vtt), "--journal", str(journal)]
            child = starter.start("watch", f"arcade:pong?seed={run}", *own)
            wait_for(lambda: vtt.exists() and vtt.stat().st_size > target, "subtitles")  # noqa: B023
            time.sleep(rng.uniform(0, 0.05))
            child.end(signal.SIGKILL)
            lines = [line.partition("] ")[2] for line in child.out.read_text().splitlines() if line.startswith("[")]
            told = [line for line in lines if line.strip()]  # a text of marks only is no cue
            try:
                written = cues(vtt.read_text())
            except ValueError:
                damaged, written = damaged + 1, []
            said = [plain(e.event.text) for e in lines_of(journal, f"watch-{run + 1}") if plain(e.event.text)]
            shorter = min(len(said), len(written))
            same = [escape(text) for text in said[:shorter]] == written[:shorter]
            lost = max(lost, len(told) - shorter, 0 if same else 10**6)
            captions += len(told)
    bad = trouble_of(journal)
    figure = (
        f"{damaged} of {kills} VTT files damaged, the journal {'damaged' if bad else 'sound'}, at most {lost} s of "
        f"captions lost at a kill ({captions} told)"
    )
    measured: dict[str, float | int | str] = {
        "kills": kills,
        "vtt_damaged": damaged,
        "journal_trouble": bad or "none",
        "captions_lost_s": lost,
    }
    return Finding(figure, not damaged and not bad and lost <= 1 and captions >= kills, measured)


def kill_serve(folder: Path, scale: float) -> Finding:
    """A realtime game, listened to. Killed at a random moment, started again, and what was heard held against the
    journal: every second is there once, the first new one comes soon, the stream has its memory."""
    kills, rng = max(2, round(50 * scale)), random.Random(13)
    journal = folder / "data" / "journal.db"
    back: list[float] = []
    ready: list[float] = []
    behind: list[float] = []
    kept: list[float] = []
    unheard = lost = doubled = bad_vtt = 0.0
    stream_id, last, before = "", -1, 0
    with Starter(folder) as starter:
        served = Served(starter, folder / "data", GAME)
        for run in range(kills + 1):
            began = time.monotonic()
            took = served.start()
            stream_id = stream_id or served.ask("GET", "/v1/streams").json["streams"][0]["id"]
            heard = served.events(stream_id, last)
            wait_for(lambda: heard.steps, "the first new second")  # noqa: B023
            if run:
                ready.append(took)
                back.append(time.monotonic() - began)
                kept.append(heard.steps[0]["kv_tokens"] / max(1, before))
                vtt = served.ask("GET", f"/v1/streams/{stream_id}/captions.vtt").body.decode()
                spoken = [e.event.text for e in lines_of(journal, stream_id) if e.event.type == "caption"]
                bad_vtt += cues(vtt)[: last + 1] != [t for t in map(escape, spoken) if t][: len(cues(vtt)[: last + 1])]
            time.sleep(rng.uniform(5.5, 8.0))  # a snapshot is written every 5 s
            served.end(signal.SIGKILL)
            heard.join(10)
            entries = lines_of(journal, stream_id)
            texts = {entry.event.seq: entry.event.text for entry in entries}
            unheard += sum(texts.get(event["id"]) != event["text"] for event in heard.events)
            last, before = entries[-1].event.seq, heard.steps[-1]["kv_tokens"]
    entries = lines_of(journal, stream_id)
    steps = [e.event for e in entries if e.event.type in ("caption", "silence")]
    for one, two in itertools.pairwise(steps):
        lost, doubled = lost + max(0.0, two.t_start - one.t_end), doubled + (two.t_start < one.t_end)
    reached = 0.0
    for entry in entries:
        reached = entry.event.t_end if entry.event.type in ("caption", "silence") else reached
        if "with its memory of second" in entry.event.text:
            behind.append(reached - float(entry.event.text.rpartition(" ")[2]))
    bad, seqs = trouble_of(journal), [entry.event.seq for entry in entries]
    held = not (bad or unheard or doubled or bad_vtt) and lost <= 1 and max(back) <= 10 and len(behind) == kills
    figure = (
        f"{kills} kills: journal {'damaged' if bad else 'sound'}, {lost:g} s of captions lost, {doubled:g} told twice, "
        f"{unheard:g} heard and not kept; new captions {percentile(back, 0.5):.1f} s (median) and "
        f"{max(back):.1f} s (most) after the start, {len(behind)} of {kills} with their memory, "
        f"at most {max(behind, default=-1):.0f} s older"
    )
    measured = {
        "kills": kills,
        "seconds_watched": len(steps),
        "events": len(entries),
        "seq_whole": int(seqs == list(range(len(seqs)))),
        "captions_lost_s": lost,
        "told_twice": doubled,
        "heard_and_not_kept": unheard,
        "vtt_wrong": bad_vtt,
        "ready_s_median": round(percentile(ready, 0.5), 2),
        "first_caption_s_median": round(percentile(back, 0.5), 2),
        "first_caption_s_most": round(max(back), 2),
        "with_memory": len(behind),
        "memory_older_s_most": max(behind, default=-1),
        "kv_tokens_kept_least": round(min(kept), 3),
    }
    return Finding(figure, held and seqs == list(range(len(seqs))), measured)


# -- R16: listeners ---------------------------------------------------------------------------------------------------


class Ear:
    """A client that goes away and comes back again and again, and remembers the numbers that it was told."""

    def __init__(self, port: int, stream_id: str, after: int, rng: random.Random):
        self.port, self.path, self.rng = port, f"/v1/streams/{stream_id}/events", rng
        self.numbers: list[int] = []
        self.after, self.connects = after, 0

    async def listen(self, until: Callable[[], bool]) -> None:
        while not until():
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._once(time.monotonic() + self.rng.uniform(5, 25), until)

    async def _once(self, leave: float, until: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        last = self.numbers[-1] if self.numbers else self.after
        head = f"GET {self.path} HTTP/1.0\r\nHost: 127.0.0.1\r\nLast-Event-ID: {last}\r\n\r\n"
        writer.write(head.encode())
        self.connects += 1
        number: int | None = None
        try:
            async for line in _lines(reader, leave, until):
                if line == b"\n":
                    number = None
                elif line.startswith(b"id: "):
                    number = int(line[4:])
                elif line.startswith(b"data: ") and line.endswith(b"\n") and number is not None:
                    self.numbers.append(number)
        finally:
            writer.transport.abort()  # in the middle of whatever comes


async def _lines(reader: asyncio.StreamReader, leave: float, until: Callable[[], bool]) -> AsyncIterator[bytes]:
    while time.monotonic() < leave and not until():
        try:
            async with asyncio.timeout(1):
                line = await reader.readline()
        except TimeoutError:
            continue
        if not line:
            return
        yield line


def listeners(count: int) -> Callable[[Path, float], Finding]:
    """A drill with so many of them, and ten that read nothing."""

    def run(folder: Path, scale: float) -> Finding:
        return asyncio.run(_listeners(folder, max(4, round(count * scale)), 30 + 60 * min(1.0, scale)))

    return run


def long_journal(folder: Path, stream_id: str, lines: int) -> None:
    """A stream that the server will go on with, and more of its past than fits into the buffers of a connection."""
    with Journal(folder / "journal.db") as book:
        about = {"source": GAME, "name": "", "alerts": [], "state": "running", "open": 1}
        book.put_stream(StreamRecord(stream_id, time.time(), about))
        recorder = Recorder("toy", stream_id)
        for number in range(lines):
            book.add(recorder.note("source", f"{number} " + "x" * 3000, 0.0))


async def _listeners(folder: Path, count: int, seconds: float) -> Finding:
    stream_id, past, slow_count = "s-00000001", 4000, 10
    (folder / "data").mkdir()
    long_journal(folder / "data", stream_id, past)
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(most, count * 2 + 200)), hard))
    with Starter(folder) as starter:
        served = Served(starter, folder / "data")
        await asyncio.to_thread(served.start)
        await asyncio.to_thread(wait_for, lambda: _seen(served, stream_id) >= 3, "the stream")
        empty, began, at = served.rss(), time.monotonic(), _seen(served, stream_id)
        over = False
        ears = [Ear(served.port, stream_id, past - 1, random.Random(number)) for number in range(count)]
        tasks = [asyncio.create_task(ear.listen(lambda: over)) for ear in ears]
        full = empty
        while time.monotonic() < began + seconds or not all(ear.numbers for ear in ears):
            await asyncio.sleep(1)
            full = max(full, served.rss())
            if time.monotonic() > began + seconds + 300:
                break
        pace = (await asyncio.to_thread(_seen, served, stream_id) - at) / (time.monotonic() - began)
        over = True
        await asyncio.gather(*tasks)
        last = max(ear.numbers[-1] for ear in ears if ear.numbers)
        silent = sum(not ear.numbers for ear in ears)
        slow = await _slow_readers(served, stream_id, slow_count)
        told = {entry.event.seq for entry in lines_of(folder / "data" / "journal.db", stream_id)}
        await asyncio.to_thread(served.end)
        traced = served.children[-1].errors.count("Traceback")
    lost = sum(len(set(range(past, ear.numbers[-1] + 1)) - set(ear.numbers)) for ear in ears if ear.numbers)
    doubled = sum(len(ear.numbers) - len(set(ear.numbers)) for ear in ears)
    unknown = sum(len(set(ear.numbers) - told) for ear in ears)
    each, slow_each = (full - empty) / count / 2**20, slow["bytes"] / slow_count / 2**20
    connects = sum(ear.connects for ear in ears)
    figure = (
        f"{count} listeners, {connects} connections: {lost} lost and {doubled} doubled of "
        f"{sum(len(ear.numbers) for ear in ears)} events; {each:.2f} MB a listener, {slow_each:.2f} MB a slow one, "
        f"{slow['cut']:.0f} of {slow_count} slow ones cut after {slow['seconds']:.0f} s; the stream kept {pace:.2f} of "
        "its pace"
    )
    measured = {
        "listeners": count,
        "connections": connects,
        "events": sum(len(ear.numbers) for ear in ears),
        "lost": lost,
        "doubled": doubled,
        "unknown": unknown,
        "never_heard": silent,
        "tracebacks": traced,
        "mb_a_listener": round(each, 3),
        "mb_a_slow_listener": round(slow_each, 3),
        "slow_cut": slow["cut"],
        "slow_cut_s": round(slow["seconds"], 1),
        "pace": round(pace, 3),
        "last_seq": last,
    }
    held = (
        not (lost or doubled or unknown or silent or traced)
        and each <= 1
        and slow_each <= 1
        and slow["cut"] == slow_count
    )
    return Finding(figure, held, measured)


def _seen(served: Served, stream_id: str) -> float:
    seconds: float = served.ask("GET", f"/v1/streams/{stream_id}").json["media_seconds"]
    return seconds


async def _slow_readers(served: Served, stream_id: str, count: int) -> dict[str, float]:
    """Clients that ask for the whole past and read nothing of it: how many are cut, after what time, at what cost."""

    def cut() -> float:
        text = served.ask("GET", "/metrics").body.decode()
        return float(text.partition("\nneverblink_sse_clients_cut_total ")[2].split()[0])

    before, empty, began = await asyncio.to_thread(cut), served.rss(), time.monotonic()
    sockets = []
    for _ in range(count):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", served.port))
        one.sendall(f"GET /v1/streams/{stream_id}/events?after=-1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        sockets.append(one)
    full, found = empty, 0.0
    while found < count and time.monotonic() < began + 120:
        await asyncio.sleep(0.5)
        full, found = max(full, served.rss()), await asyncio.to_thread(cut) - before
    for one in sockets:
        one.close()
    return {"cut": found, "seconds": time.monotonic() - began, "bytes": full - empty}


# -- R19: an orderly end ----------------------------------------------------------------------------------------------


class Stopped(NamedTuple):
    """A process that was told to stop."""

    kind: str
    end: End
    trouble: str  # what is wrong with what it left; "" for nothing


def stop(folder: Path, scale: float) -> Finding:
    """`serve` with a listener, a socket of frames and a question on its way; `watch` with every kind of file, one
    source and two; and `serve` while it starts."""
    rounds, rng = max(1, round(10 * scale)), random.Random(19)
    ends: list[Stopped] = []
    with Starter(folder) as starter:
        for number in range(rounds):
            for sent in (signal.SIGTERM, signal.SIGINT):
                here = folder / f"{number}-{sent.name}"
                here.mkdir()
                ends.append(_stop_serve(starter, here, sent))
                ends.append(_stop_watch(starter, here, sent, [f"arcade:pong?seed={number}"]))
                ends.append(_stop_watch(starter, here, sent, ["arcade:pong", "arcade:tennis"]))
                ends.append(_stop_early(starter, here, sent, rng.uniform(0, 1.0)))
    wrong = [f"{one.kind}: {one.trouble}" for one in ends if one.trouble]
    wrong += [f"{one.kind}: status {one.end.status}" for one in ends if one.end.status]
    statuses = sorted({one.end.status for one in ends})
    slowest, cpu = max(one.end.seconds for one in ends), max(one.end.cpu for one in ends)
    figure = (
        f"{len(ends)} stops: exit status {statuses}, at most {slowest:.1f} s ({cpu:.1f} s of them CPU), {len(wrong)} "
        "left a wrong file"
    )
    measured: dict[str, Any] = {"stops": len(ends), "statuses": str(statuses), "seconds_most": round(slowest, 2)}
    for kind in sorted({one.kind for one in ends}):
        own = [one.end for one in ends if one.kind == kind]
        measured[f"seconds_{kind}"] = round(max(end.seconds for end in own), 2)
        measured[f"cpu_seconds_{kind}"] = round(max(end.cpu for end in own), 2)
    measured["wrong"] = "; ".join(wrong)[:500]
    return Finding(figure, statuses == [0] and slowest <= 5 and not wrong, measured)


def _stop_serve(starter: Starter, folder: Path, number: signal.Signals) -> Stopped:
    from websockets.sync.client import connect

    served, journal = Served(starter, folder / "data", GAME), folder / "data" / "journal.db"
    served.start()
    stream_id = served.ask("GET", "/v1/streams").json["streams"][0]["id"]
    heard = served.events(stream_id, -1)
    wait_for(lambda: len(heard.steps) > 2, "three seconds")
    with connect(f"ws://127.0.0.1:{served.port}/v1/frames") as frames, socket.socket() as asking:
        frames.send(json.dumps({stream_id: 64}))
        frames.recv()
        body = json.dumps({"question": "What?"}).encode()
        head = f"POST /v1/streams/{stream_id}/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        asking.connect(("127.0.0.1", served.port))
        asking.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        end = served.end(number)
    heard.join(10)
    texts = {entry.event.seq: entry.event.text for entry in lines_of(journal, stream_id)}
    troubles = [
        trouble_of(journal),
        "the journal was left open" if journal.with_name("journal.db-wal").exists() else "",
        "something heard is not kept" if any(texts.get(e["id"]) != e["text"] for e in heard.events) else "",
        "" if list((folder / "data" / "snapshots").glob("*.safetensors")) else "no snapshot",
        _traceback(served.children[-1]),
    ]
    return Stopped("serve", end, "; ".join(filter(None, troubles)))


def _stop_watch(starter: Starter, folder: Path, number: signal.Signals, sources: list[str]) -> Stopped:
    kind = "watch" if len(sources) == 1 else "watch_two"
    here = folder / kind
    here.mkdir()
    files = [f"--{name}={here / 'out'}.{name}" for name in ("vtt", "srt", "jsonl")]
    child = starter.start("watch", "--model", str(starter.toy), *sources, *files, f"--journal={here / 'journal.db'}")
    wait_for(lambda: child.out.exists() and child.out.read_text(errors="replace").count("[00:") > 2, "three captions")
    end = child.end(number)
    try:
        spoken = sum(len(cues(path.read_text())) for path in here.glob("*.vtt"))
        lines = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    except ValueError as error:
        return Stopped(kind, end, str(error))
    kept = [(e.event.stream_id, plain(e.event.text)) for e in lines_of(here / "journal.db")]
    told = [(line["stream_id"], plain(line["text"])) for line in lines]
    captions = sum(bool(text) for _, text in told)
    troubles = [trouble_of(here / "journal.db"), _traceback(child)]
    # The signal may come between two files: the second that is being written may then be in one and not in the other.
    if abs(len(kept) - len(told)) > 1 or any(one != two for one, two in zip(kept, told, strict=False)):
        troubles.append(f"{len(kept)} lines in the journal, {len(told)} in the JSON lines: {kept} {told}")
    if abs(spoken - captions) > 1:
        troubles.append(f"{spoken} cues for {captions} captions")
    return Stopped(kind, end, "; ".join(filter(None, troubles)))


def _stop_early(starter: Starter, folder: Path, number: signal.Signals, after: float) -> Stopped:
    served, journal = Served(starter, folder / "early"), folder / "early" / "journal.db"
    child = served.begin()
    wait_for(lambda: child.out.with_suffix(".err").exists(), "the process")  # it is about to take signals
    time.sleep(after)
    end = child.end(number)
    bad = trouble_of(journal) if journal.exists() and journal.stat().st_size else ""
    return Stopped("early", end, bad or _traceback(child))


def _traceback(child: Child) -> str:
    return child.errors[-400:] if "Traceback" in child.errors else ""


R13 = drill_of("R13", kill_watch, "kill -9 of `watch` in mid-write, 200 times")
R13b = drill_of("R13", kill_serve, "kill -9 of `serve` in mid-stream, 50 times")
R16 = drill_of("R16", listeners(1000))
R16b = drill_of("R16", listeners(200), "slow SSE reader, 200 SSE clients on one stream, reconnect with Last-Event-ID")
R19 = drill_of("R19", stop)
DRILLS: tuple[Drill, ...] = (R13, R13b, R16, R16b, R19)
