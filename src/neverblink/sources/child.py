"""The decode child: one process per source, started by decoded.py, with nothing in it that is worth stealing.

It reads one JSON request from stdin, opens the source under the allow-lists of rules.py, and writes messages (wire.py)
to what was its stdout: `hello`, `info`, then `frame`, `gap` and `alive`, and one last `end`, `damaged`, `refused` or
`failed`. It imports the standard library, numpy and av, never torch: a test looks.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from neverblink.sources.rules import (
    MAX_CODED_PIXELS,
    MAX_DATA_BYTES,
    MAX_DECODED_PIXELS,
    MAX_PICTURES,
    MAX_PICTURES_A_SECOND,
    MAX_STREAMS,
    RULES,
    VIDEO_CODECS,
)
from neverblink.sources.sampling import MediaClock, Sampler
from neverblink.sources.sandbox import allow_cpu, die_with_parent, enclose, watch_stdin
from neverblink.sources.wire import MessageType, write_message

LONGEST_STEP_LIVE = 2.0  # seconds between two frames of a live source; more is a gap, and nothing is shown for it
LONGEST_STEP_FILE = 60.0  # a still screen recording is no gap
ALIVE_EVERY = 0.5  # seconds between signs of life while there is no frame to send
RUBBISH_AFTER = 3  # broken packets in a row: what a wrong decoder makes of the next one, now and then, is no picture
CHANGED_AFTER = 12  # broken packets of a live source in a row: it is opened anew, as what it is now
NO_PICTURE = 20.0  # seconds of a live source's data in which nothing can be decoded; key frames come more often
HLS_PATIENCE = 4.0  # times the read timeout: the next segment of a live playlist may be one segment away
NO_CLOCK = ("mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo")  # their time stamps are only a guess at the rate
EXACT_DURATION = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")  # the header says how long the video is; others estimate
DEFAULT_FPS = 25.0
NOT_A_VIDEO = (  # what a peer that answers well, but with something else, makes FFmpeg say
    av.error.InvalidDataError,
    av.error.ArgumentError,
    av.error.DemuxerNotFoundError,
    av.error.DecoderNotFoundError,
    av.error.ProtocolNotFoundError,
)


class RefusalError(Exception):
    """Not allowed, or not a video: nothing was decoded."""


class FailureError(Exception):
    """The source went away or never answered; a live source may come back."""


class Decoder:
    """Opens one source, then sends its sampled frames."""

    def __init__(self, fd: int, request: dict[str, Any]):
        self.fd = fd
        self.request = request
        self.rules = RULES[request["rules"]]
        self.fps: float = request["fps"]
        self.live = False
        self.can_seek = True
        self.decoded_frames = 0
        self.broken_packets = self._broken_in_a_row = 0
        self._last_word = self._last_picture = time.monotonic()
        self._time = 0.0  # media time of the newest decoded frame
        self._until = 0.0  # media time until which the last frame is shown
        self._tail_broken = False  # the newest packet could not be decoded, or was cut short
        self._shown: tuple[Any, np.ndarray] | None = None  # the decoded frame that was sent last, its pixels

    def run(self) -> None:
        with self._open() as container:
            stream = self._pick_stream(container)
            self._announce(container, stream)
            self._send_frames(container, stream)
            self._check_complete(container, stream)

    def say(self, kind: MessageType, pixels: np.ndarray | None = None, **note: Any) -> None:
        write_message(self.fd, kind, note, pixels)
        self._last_word = time.monotonic()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        try:
            return self._try_to_open()
        except RefusalError:
            if self.request["kind"] != "file":
                raise
        # A fragmented MP4 that was cut inside an index box cannot be opened, because FFmpeg reads all of them first;
        # as a file without seeking it is read from the front, up to the damage.
        self.can_seek = False
        return self._try_to_open(seekable="0")

    def _try_to_open(self, **more_options: str) -> Any:
        read_timeout = self.request["read_timeout"] * (HLS_PATIENCE if self._is_playlist else 1)
        options = {
            "protocol_whitelist": ",".join(self.rules.protocols),
            "format_whitelist": ",".join(self.rules.formats),
            "codec_whitelist": ",".join(sorted(VIDEO_CODECS)),
            "max_streams": str(MAX_STREAMS),
            "max_pixels": MAX_CODED_PIXELS,
            **dict(self.rules.options),
            **more_options,
        }
        began = time.monotonic()
        wanted = self.request["open_timeout"]
        # A busy machine's slow start of this process counts too, but a source gets a fair part of the time.
        open_timeout = max(wanted - (began - self.request["begun"]), 0.4 * wanted)
        try:
            return av.open(
                self.request["url"],
                format=self.rules.format,
                options=options,
                metadata_errors="replace",
                timeout=(open_timeout, read_timeout),
            )
        except av.error.FFmpegError as error:
            # A time-out in the middle of a handshake looks like invalid data.
            if isinstance(error, av.error.ExitError) or time.monotonic() - began > 0.95 * open_timeout:
                raise FailureError(f"no answer within {wanted:g} s") from error
            if self.request["kind"] == "file" or isinstance(error, NOT_A_VIDEO):
                raise RefusalError(f"not a video of a kind that is opened here ({words(error)})") from error
            raise FailureError(words(error)) from error

    @property
    def _is_playlist(self) -> bool:
        return ".m3u8" in self.request["url"].lower()

    def _pick_stream(self, container: Any) -> Any:
        pictures = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & pictures]
        if not streams:
            held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise RefusalError(f"no video in it (it holds {held})")
        stream = streams[0]
        for other in container.streams:
            if other is not stream:
                other.discard = av.stream.Discard.all
        codec = stream.codec_context
        if codec is None or codec.name not in VIDEO_CODECS:
            name = codec.name if codec is not None else "unknown"
            raise RefusalError(f"codec {name} is not allowed; known: {', '.join(sorted(VIDEO_CODECS))}")
        if codec.width * codec.height > MAX_DECODED_PIXELS:
            raise RefusalError(
                f"{codec.width}x{codec.height} is too large: at most {MAX_DECODED_PIXELS / 1e6:.1f} megapixels"
                " (4k) are decoded; scale the video down first"
            )
        if stream.frames > MAX_PICTURES:
            raise RefusalError(f"{stream.frames} pictures are too many: one file may announce {MAX_PICTURES}")
        # The size is checked again inside FFmpeg, before it allocates: a stream may change its size at any time.
        codec.options = {"max_pixels": MAX_CODED_PIXELS, "threads": "2"}
        return stream

    def _announce(self, container: Any, stream: Any) -> None:
        duration = float(stream.duration * stream.time_base) if stream.duration else None
        if duration is None and container.duration:
            duration = container.duration / av.time_base
        # On the network only what has an end counts as a recording: a length in bytes, or a closed playlist.
        endless = duration is None and (container.format.name == "hls" or container.size <= 0)
        self.live = self.request["kind"] == "camera" or (
            self.request["kind"] == "network" and (container.format.name == "rtsp" or endless)
        )
        self.is_paced = self.live and container.format.name == "hls"  # segments come in bursts
        width, height = scaled_size(stream, stream.codec_context, self.request["max_pixels"])
        patience = self.request["read_timeout"] * (HLS_PATIENCE if self._is_playlist else 1)
        self.say(
            "info",
            live=self.live,
            width=width,
            height=height,
            codec=stream.codec_context.name,
            duration=None if self.live else duration,
            patience=patience,
        )

    # -- decoding -----------------------------------------------------------------------------------------------------

    def _send_frames(self, container: Any, stream: Any) -> None:
        start: float = self.request["start"]
        self.guess_time = container.format.name in NO_CLOCK
        coded = stream.codec_context.framerate if self.guess_time else None  # the demuxer would say 25, whatever it is
        self.nominal = 1.0 / float(coded or stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        self.longest_step = max(3 * self.nominal, LONGEST_STEP_LIVE if self.live else LONGEST_STEP_FILE)
        self.clock = MediaClock(live=self.live, longest_step=self.longest_step)
        # A live source may be opened many times on one time line: only the parent knows when that ends.
        sampler = Sampler(self.fps, start=start, end=None if self.live else self.request["end"])
        frames = self._decode(container, stream)
        if start > 0 and self.can_seek and not self.live and not self.guess_time:
            frames = self._seek(container, stream, start, frames)
        began = time.monotonic()
        held: Any = None
        pace = (0, 0.0)  # pictures and media time at the last check
        for frame in frames:
            if self.decoded_frames - pace[0] > 2 * MAX_PICTURES_A_SECOND:
                if self._time - pace[1] < 2:
                    raise RefusalError(f"more than {MAX_PICTURES_A_SECOND} pictures a second")
                pace = (self.decoded_frames, self._time)
            stamp = self.clock.stamp(self._raw_time(frame), nominal=self.nominal, wall=time.monotonic())
            shown_until = stamp.time
            if stamp.jump is not None:
                self.say("gap", at=stamp.time, seconds=stamp.jump)
                shown_until = min(self._time + self.nominal, stamp.time)
            if held is not None:
                for tick in sampler.before(shown_until):
                    self._send(held, tick, stream)
            sampler.skip_to(stamp.time)
            self._time = stamp.time
            for tick in sampler.at(stamp.time):
                self._send(frame, tick, stream)
            if sampler.is_over:
                return
            held = frame
            if self.is_paced:
                began = self._pace(began, stamp.time)
        if held is not None:
            lasting = float(held.duration * held.time_base) if held.duration and held.time_base else self.nominal
            self._until = self._time + lasting
            for tick in sampler.before(min(self._until, self._time + self.longest_step)):
                self._send(held, tick, stream)
        if not self.decoded_frames:
            most = f"{MAX_DECODED_PIXELS / 1e6:.1f} megapixels"
            raise RefusalError(f"not one frame of it can be decoded: it is damaged, or larger than {most} (4k)")

    def _raw_time(self, frame: Any) -> float | None:
        """Seconds on the source's own clock, None where it has none."""
        if self.guess_time:
            return time.monotonic() if self.live else None
        stamp = frame.pts if frame.pts is not None else frame.dts
        return float(stamp * frame.time_base) if stamp is not None and frame.time_base else None

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded frames; a broken packet is counted and left out, a broken container ends the source."""
        packets = container.demux(stream)
        good_until: int | None = None  # the last place in the file where a whole picture began
        while True:
            try:
                packet = next(packets, None)
            except (av.error.ExitError, av.error.TimeoutError) as error:
                raise FailureError(f"nothing arrived for {self.request['read_timeout']:g} s") from error
            except IndexError as error:  # PyAV, where a damaged header numbers its streams wrongly
                raise RefusalError("its list of streams is broken") from error
            except av.error.FFmpegError as error:
                if self.request["kind"] == "file":
                    self._tail_broken = True
                    packet = None
                else:
                    raise FailureError(words(error)) from error
            if packet is None:
                break
            if packet.size:
                self._tail_broken = packet.is_corrupt
            try:
                decoded = packet.decode()
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError:
                self.broken_packets += 1
                self._broken_in_a_row += 1
                self._tail_broken = True
                decoded = []
                if self._broken_in_a_row == CHANGED_AFTER:
                    if self.live:
                        raise FailureError("the source has changed into something else") from None
                    if container.format.name == "mpegts" and good_until:
                        yield from self._decode(*self._open_from(good_until))
                        return
            for frame in decoded:
                if time.monotonic() - self._last_picture > ALIVE_EVERY:
                    allow_cpu()
                self._last_picture = time.monotonic()
                if not frame.is_corrupt:
                    self._broken_in_a_row, good_until = 0, packet.pos
                elif self._broken_in_a_row >= RUBBISH_AFTER:
                    continue
                self.decoded_frames += 1
                self._tail_broken = self._tail_broken or frame.is_corrupt
                yield frame
            if self.live and time.monotonic() - self._last_picture > NO_PICTURE:
                raise FailureError(f"{NO_PICTURE:g} s of data without one picture")
            if time.monotonic() - self._last_word > ALIVE_EVERY:
                self.say("alive")

    def _open_from(self, byte: int) -> tuple[Any, Any]:
        """The rest of a transport stream, as what it is from there on: recordings are cut together from others."""
        self._rest = self._try_to_open(skip_initial_bytes=str(byte))
        self.broken_packets -= CHANGED_AFTER
        self._broken_in_a_row = 0
        return self._rest, self._pick_stream(self._rest)

    def _seek(self, container: Any, stream: Any, start: float, frames: Iterator[Any]) -> Iterator[Any]:
        """Frames from the last key frame before `start`; media time still counts from the first frame of the file."""
        first = next(frames, None)
        if first is None:
            return
        zero = self._raw_time(first)
        if zero is None:
            yield first
            yield from frames
            return
        self.clock.start_at(zero)
        # Some containers land behind the key frame that is needed; then look for it ever further back.
        for margin in (0.0, 10.0, start):
            try:
                container.seek(int((zero + max(start - margin, 0.0)) / stream.time_base), stream=stream)
            except av.error.FFmpegError:
                container.seek(0)
                margin = start
            frames = self._decode(container, stream)
            first = next(frames, None)
            raw = self._raw_time(first) if first is not None else None
            if margin == start or (raw is not None and raw - zero <= start):
                break
        if first is not None:
            yield first
        yield from frames

    def _pace(self, began: float, media_time: float) -> float:
        """Wait until this moment of a bursty live source is due; returns the wall time of media time 0."""
        ahead = began + media_time - time.monotonic()
        if ahead < -LONGEST_STEP_LIVE:
            return time.monotonic() - media_time  # it stalled for a while: no rush afterwards
        while ahead > 0:
            time.sleep(min(ahead, ALIVE_EVERY))
            if ahead > ALIVE_EVERY:
                self.say("alive")
            ahead = began + media_time - time.monotonic()
        return began

    def _send(self, frame: Any, tick: float, stream: Any) -> None:
        if self._shown is None or self._shown[0] is not frame:
            self._shown = (frame, to_rgb(frame, *scaled_size(stream, frame, self.request["max_pixels"])))
        pixels = self._shown[1]
        self.say("frame", pixels, t=tick, w=pixels.shape[1], h=pixels.shape[0])

    def _check_complete(self, container: Any, stream: Any) -> None:
        """Tell how it ended: at its end, or cut short."""
        note: dict[str, Any] = {"at": self._time, "broken": self.broken_packets}
        ends_early = self.request["end"] is not None and self._time >= self.request["end"] - 1 / self.fps - self.nominal
        if self.live or ends_early:
            self.say("end", **note)
            return
        missing = 0.0
        if container.format.name in EXACT_DURATION and stream.duration:
            missing = float(stream.duration * stream.time_base) - self._until
        if self._time < self.request["start"]:  # the start lies behind the end: nothing was asked for
            missing = 0.0
        sizes = (188, 192, 204)  # bytes of a transport stream packet, in its three forms
        odd_size = container.format.name == "mpegts" and all(container.size % size for size in sizes)
        if self._tail_broken or odd_size or missing > max(1.0, 4 * self.nominal):
            self.say("damaged", **note, text=f"ends too soon or is broken after {self._time:.2f} s")
        else:
            self.say("end", **note)


def scaled_size(stream: Any, picture: Any, max_pixels: int) -> tuple[int, int]:
    """(width, height) at which a picture is sent, before rotation: square pixels, at most max_pixels of them."""
    width, height = float(picture.width), float(picture.height)
    aspect = float(stream.sample_aspect_ratio or 1)
    if 0.1 < aspect < 10:
        width *= aspect
    shrink = min(1.0, math.sqrt(max_pixels / max(width * height, 1)))
    return max(1, int(width * shrink + 1e-6)), max(1, int(height * shrink + 1e-6))


def to_rgb(frame: Any, width: int, height: int) -> np.ndarray:
    """[H, W, 3] uint8, upright: the rotation that a phone writes beside its video is applied."""
    pixels = frame.reformat(width, height, format="rgb24", interpolation="AREA", threads=1).to_ndarray()
    turns = round(frame.rotation / 90) % 4  # quarter turns, counter-clockwise
    return np.rot90(pixels, turns) if turns else pixels


def words(error: Exception) -> str:
    """What FFmpeg says, without the number and the address."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def main() -> None:
    fd = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # a library that prints must not end up in the middle of a message
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return
        line += byte
    request = json.loads(line)
    if request["proxy"]:
        os.environ["http_proxy"] = request["proxy"]  # FFmpeg reads it for every connection, those of playlists too
    die_with_parent(request["parent"])
    walls = enclose(
        max_data_bytes=MAX_DATA_BYTES,
        file=request["url"].removeprefix("file:") if request["kind"] == "file" else None,
        device=request["url"] if request["kind"] == "camera" and sys.platform == "linux" else None,
        port=request["door"],
    )
    watch_stdin()
    decoder = Decoder(fd, request)
    decoder.say("hello", modules=len(sys.modules), torch="torch" in sys.modules, walls=walls)
    with contextlib.suppress(BrokenPipeError):  # the parent closed: nobody is left to tell
        try:
            decoder.run()
        except RefusalError as refusal:
            decoder.say("refused", text=str(refusal))
        except FailureError as failure:
            decoder.say("failed", text=str(failure))
        except (MemoryError, av.error.MemoryError):
            decoder.say("refused", text=f"needs more than the decoder's {MAX_DATA_BYTES >> 20} MiB of memory")
        except BrokenPipeError:
            raise
        except Exception as error:  # last words; the parent turns them into an error
            decoder.say("failed", text=f"the decoder failed: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
