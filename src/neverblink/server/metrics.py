"""/metrics in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable

from neverblink.server.hub import Histogram, Hub, memory_bytes

Labels = dict[str, str]


def text(hub: Hub, refused: int) -> str:
    """Everything that is counted."""
    sessions = list(hub.sessions.values())
    of = [({"stream": s.id}, s) for s in sessions]
    states = sorted({s.state for s in sessions})
    lines = [
        *metric("up", "gauge", "1 while the engine runs.", [({}, float(hub.worker.alive))]),
        *metric("uptime_seconds", "gauge", "Since the start.", [({}, time.time() - hub.began)]),
        *metric("memory_bytes", "gauge", "Resident memory of the process.", [({}, memory_bytes())]),
        *metric(
            "streams",
            "gauge",
            "Streams by state.",
            [({"state": x}, sum(s.state == x for s in sessions)) for x in states],
        ),
        *metric("streams_max", "gauge", "Places for streams.", [({}, hub.options.max_streams)]),
        *metric("captions_total", "counter", "Seconds that were commented on.", [(n, s.captions) for n, s in of]),
        *metric("answers_total", "counter", "Questions answered.", [(n, s.answers) for n, s in of]),
        *metric("frames_used_total", "counter", "Frames that the model saw.", [(n, s.frames_used) for n, s in of]),
        *metric(
            "frames_dropped_total", "counter", "Frames lost for want of time.", [(n, s.frames_dropped) for n, s in of]
        ),
        *metric(
            "kv_tokens",
            "gauge",
            "Rows of the KV cache in use.",
            [(n, s.caption.kv_tokens if s.caption else 0) for n, s in of],
        ),
        *metric(
            "media_seconds", "counter", "Media second reached.", [(n, s.caption.end if s.caption else 0) for n, s in of]
        ),
        *histogram("step_seconds", "Wall seconds of one step of a stream.", hub.latencies),
        *histogram("answer_first_token_seconds", "From a question to the first token of its answer.", hub.ttfts),
        *metric("packs_broken_total", "counter", "Packed calls that failed.", [({}, hub.engine.packs_broken)]),
        *metric("packs_broken_last", "gauge", "Why the latest of them did.", reasons(hub.engine.last_broken)),
        *metric("sse_clients", "gauge", "Listeners.", [({}, hub.feed.clients)]),
        *metric("sse_clients_cut_total", "counter", "Listeners that read too slowly.", [({}, hub.feed.cut)]),
        *metric("journal_bytes", "gauge", "Size of the journal.", [({}, hub.journal.nbytes)]),
        *metric("journal_failures_total", "counter", "Events that could not be kept.", [({}, hub.journal_failures)]),
        *metric(
            "webhooks_total",
            "counter",
            "Webhooks by outcome.",
            [({"outcome": "sent"}, hub.hooks.sent), ({"outcome": "failed"}, hub.hooks.failed)],
        ),
        *metric("requests_refused_total", "counter", "Requests with a wrong key, Host or Origin.", [({}, refused)]),
    ]
    return "\n".join(lines) + "\n"


def metric(name: str, kind: str, help: str, values: Iterable[tuple[Labels, float]]) -> list[str]:
    head = [f"# HELP neverblink_{name} {help}", f"# TYPE neverblink_{name} {kind}"]
    return [*head, *(f"neverblink_{name}{labels(of)} {value:g}" for of, value in values)]


def histogram(name: str, help: str, values: Histogram) -> list[str]:
    lines, total = [f"# HELP neverblink_{name} {help}", f"# TYPE neverblink_{name} histogram"], 0
    for bound, count in zip((*values.bounds, "+Inf"), values.counts, strict=True):
        total += count
        lines.append(f'neverblink_{name}_bucket{{le="{bound}"}} {total}')
    return [*lines, f"neverblink_{name}_sum {values.sum:g}", f"neverblink_{name}_count {total}"]


def reasons(error: Exception | None) -> list[tuple[Labels, float]]:
    """The first line of an error as a label; nothing where there was none."""
    if error is None:
        return []
    return [({"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}, 1.0)]


def labels(of: Labels) -> str:
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in of.items()) + "}" if of else ""


def escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
