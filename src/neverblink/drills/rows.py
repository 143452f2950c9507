"""The rows of the table of faults: what is done, what others do, the figure to reach.

Peers' figures are cited where known; "M" marks what was measured on PyAV 18.1 (bundled FFmpeg 8.1.2).
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row before anything is measured. `reason` stands where no drill is held, and says why."""

    fault: str
    peers: str
    beat: str
    reason: str = ""


# There is no R10 and no S5: the list they come from never had them.
ROWS: dict[str, Row] = {
    "R1": Row(
        "the source's process is killed",
        "Frigate: up to 20 s, then a retry",
        "detected <= 3 s, first retry <= 1 s, captions back <= 2 s after the source returns (p95 of 50 kills); our "
        "process never restarts",
    ),
    "R2": Row(
        "a camera accepts TCP and sends nothing",
        "PyAV blocks > 30 s (M)",
        "error event <= 6 s; other streams lose nothing",
    ),
    "R3": Row("a stall in mid-stream", "blocks > 25 s (M)", "detected <= 5 s"),
    "R4": Row(
        "the source is off for 24 h (fake clock)",
        "live-vlm-webui gives up after about 30 s",
        "retries for ever, back-off capped at 30 s with jitter, <= 1 log line a minute, RSS flat",
    ),
    "R5": Row(
        "PTS jump by +-1 h, wrap, are missing; B-frames, VFR, 240 fps",
        "the reference assumes a clean file",
        "media time stays monotonic; a gap event; 0 crashes in 10,000 generated cases",
    ),
    "R6": Row(
        "codec, resolution or rotation changes in mid-stream",
        "positions silently wrong in the reference",
        "goes on, <= 1 chunk lost, positions right",
    ),
    "R7": Row(
        "overload: the source is 4 times faster than the model for 10 min",
        "Roboflow: 0.5 s staleness, drops reported",
        "newest frame used is <= 1.5 s old (p99); in = used + dropped, exactly; files are never dropped",
    ),
    "R8": Row(
        "1 of 8 or of 32 streams is slow or dead", "one stalls the batch", "healthy streams' p95 changes <= 10 %"
    ),
    "R9": Row(
        "100,000 chunks (28 h of media) on the tiny model",
        "an open duplex peer dies after about 9 min",
        "KV tokens <= budget at every step; RSS slope <= 1 MB per 10,000 chunks after warm-up; latency of the last "
        "1,000 over the first 1,000 <= +2 %",
    ),
    "R11": Row(
        "eviction correctness, chunks 1 to 1000",
        "stale-RoPE bugs in open PRs",
        "logits against one masked full pass over what was held: float32 max difference <= 1e-4, same argmax",
    ),
    "R12": Row(
        "degeneration over an hour",
        "LiveCC loops past 32k tokens",
        "rate of repeated 4-grams flat; a loop detector resets with an event",
    ),
    "R13": Row(
        "kill -9 in mid-write, 200 times",
        "state lost",
        "0 corrupt databases or VTT files; <= 1 s of captions lost; the session resumes <= 10 s later with its memory",
    ),
    "R14": Row("disk full, read-only directory, clock jump", "-", "inference goes on, one error event, recovers"),
    "R15": Row(
        "out of memory, NaN logits, worker segfault",
        "fail-stop, minutes",
        "only that session fails; worker back <= 10 s (tiny model); /health/ready tells the truth within 1 s",
    ),
    "R16": Row(
        "slow SSE reader, 1,000 SSE clients, reconnect with Last-Event-ID",
        "unbounded queues",
        "<= 1 MB per client, the slow one is cut, 0 lost and 0 duplicate seq after reconnect",
    ),
    "R17": Row(
        "200 open/close cycles per source type",
        "descriptor and track leaks",
        "descriptors, threads and children back to the baseline",
    ),
    "R18": Row(
        "a question during a chunk",
        "the reference cannot",
        "first token <= 500 ms on a GPU; captions resume with the next chunk",
    ),
    "R19": Row("SIGTERM / Ctrl-C", "-", "drained <= 5 s, files closed and valid, exit 0"),
    "S1": Row(
        "`file:`, `concat:`, `subfile:`, `data:`, `tty` by extension, nested m3u8 / ffconcat / DASH / SDP, UDP, gopher",
        "-",
        "100 % refused before decode; one allow-list for CLI files and for URLs",
    ),
    "S2": Row(
        "127/8, ::1, fc00::, 169.254.169.254, ::ffff:, decimal and octal hosts, `\\`, `@`, IDN, redirects, DNS "
        "rebinding, from the server's API",
        "-",
        "one parser; resolve once, pin the IP, check each hop; LAN cameras only by an explicit option",
    ),
    "S3": Row(
        "16k frames, 1e6 frames, 10,000 streams, giant SPS, 65k JPEG/PNG, gzip body, endless chunked body, slowloris",
        "106 KB MP4 takes 3.2 GB in PyAV (M)",
        "decoder child <= 512 MB RSS, <= 8.3 MP a frame, CPU and wall caps; refused <= 2 s; server RSS +<= 50 MB",
    ),
    "S4": Row(
        "corrupted corpus and bit flips, >= 20,000 inputs", "-", "parent crashes 0; a child crash is an error event"
    ),
    "S6": Row(
        "every route without a key, with a wrong one; key in query or log",
        "-",
        "deny by default, a test walks the router; constant-time compare",
    ),
    "S7": Row(
        "foreign Host / Origin on HTTP and WebSocket, CORS, form-POST CSRF",
        "-",
        "loopback by default; foreign Origin or Host 403; 0.0.0.0 without a key refuses to start",
    ),
    "S8": Row(
        "`../`, absolute, symlink, NUL, `%2e` in ids, uploads, exports",
        "-",
        "ids are generated; 0 escapes in a fuzz run",
    ),
    "S9": Row("a token of stream A asks for stream B", "-", "404; every object route tested"),
    "S10": Row(
        "pickle `.bin/.pt`, hostile config.json, remote code",
        "transformers < 5.3: CVE-2026-4372",
        "safetensors only, remote code off unless asked for, transformers >= 5.3",
    ),
    "S11": Row(
        'text in the video ("ignore your rules"), HTML / ANSI / VTT markup in captions',
        "-",
        "escaped everywhere it is shown; alerts are debounced",
    ),
    "S12": Row("credentials in a URL", "-", "0 hits when grepping logs, events, database, metrics and errors"),
}
