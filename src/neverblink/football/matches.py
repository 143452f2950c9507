"""One recorded match: `match_NNNN.npz`, the engine's state every 0.1 s, and `match_NNNN.mp4`, its pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neverblink.errors import ConfigError, SourceError, SourceRefused
from neverblink.types import Frame

HEIGHT, WIDTH = 180, 320  # pixels of a picture
FPS = 2  # pictures a second that every recording has

# name -> shape behind the steps
_PER_STEP: dict[str, tuple[int, ...]] = {
    "ball": (3,),
    "ball_owned_team": (),
    "left_team": (11, 2),
    "right_team": (11, 2),
    "score": (2,),
    "game_mode": (),
    "cards": (4,),
}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The state of a match, step by step; the engine leaves out the time in which the ball is dead."""

    step_seconds: float
    video_fps: int
    stride: int  # steps from one picture of the video to the next
    ball: np.ndarray  # [steps, 3] float32: x -1 (yellow's goal) to 1, y -0.42 (far line, top) to 0.42 (bottom), height
    owner: np.ndarray  # [steps] int: 0 yellow, 1 blue, -1 nobody
    players: np.ndarray  # [steps, 2, 11, 2] float32: x, y of yellow's and blue's; 0 is the keeper
    score: np.ndarray  # [steps, 2] int
    mode: np.ndarray  # [steps] int: 0 play, else a restart
    cards: np.ndarray  # [steps, 4] int: yellow cards of yellow, of blue, players sent off of yellow, of blue

    @property
    def steps(self) -> int:
        return len(self.owner)

    @property
    def seconds(self) -> int:
        """Whole seconds of pictures; the picture that closes the last one is left out."""
        return int((self.steps - 1) * self.step_seconds + 1e-6)


def read_record(path: str | Path) -> Record:
    """The `.npz` of a match; a file that lacks something or contradicts itself is a SourceError that says what."""
    path = Path(path)
    try:
        with np.load(path) as file:  # never with pickles
            found: dict[str, Any] = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise SourceRefused(f"{path}: no such file; a match is match_NNNN.mp4 with match_NNNN.npz beside it") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot be read as the state of a match ({error}); record it again") from error
    missing = sorted({*_PER_STEP, "step_seconds", "video_fps", "stride"} - set(found))
    if missing:
        raise SourceError(f"{path}: lacks {', '.join(missing)}; record it again")
    steps = len(np.atleast_1d(found["ball"]))
    for name, shape in _PER_STEP.items():
        if found[name].shape != (steps, *shape):
            raise SourceError(f"{path}: {name} has shape {found[name].shape}, {steps} steps need {(steps, *shape)}")
    step_seconds, fps, stride = float(found["step_seconds"]), int(found["video_fps"]), int(found["stride"])
    if not (step_seconds > 0 and fps > 0 and abs(stride * step_seconds * fps - 1) < 1e-6):
        raise SourceError(f"{path}: a picture every {stride} steps of {step_seconds} s is not {fps} a second")
    if (steps - 1) * step_seconds < 1 - 1e-6:
        raise SourceError(f"{path}: holds {steps} steps, less than a second; record it again")
    return Record(
        step_seconds,
        fps,
        stride,
        found["ball"].astype(np.float32),
        found["ball_owned_team"].astype(int),
        np.stack([found["left_team"], found["right_team"]], axis=1).astype(np.float32),
        found["score"].astype(int),
        found["game_mode"].astype(int),
        found["cards"].astype(int),
    )


class Match:
    """The two files of a match.

    Args:
        path: either file, or both without their ending.
    """

    def __init__(self, path: str | Path):
        self.video = Path(path).with_suffix(".mp4")
        self.record = read_record(Path(path).with_suffix(".npz"))

    @property
    def seconds(self) -> int:
        return self.record.seconds

    def frames(self, fps: int = FPS, start: int = 0) -> Iterator[Frame]:
        """Pictures [180, 320, 3] uint8 RGB at k / fps media seconds, decoded one by one, as many as the state needs.

        Args:
            start: media second of the first one. What is before it is not decoded but from the last key frame on.

        Raises:
            ConfigError: the recording has no picture at some of these times.
            SourceError: the video cannot be decoded, or ends early.
        """
        import av

        if not 0 < fps <= self.record.video_fps or self.record.video_fps % fps:
            raise ConfigError(
                f"{self.video}: recorded at {self.record.video_fps} pictures a second, {fps} cannot be taken from that;"
                f" use a divisor, such as {FPS}"
            )
        wanted, every = self.seconds * fps, self.record.video_fps // fps
        taken = start * fps
        try:
            with av.open(str(self.video)) as container:
                for k, picture in self._decoded(container, start):
                    if k % every or k < taken * every:
                        continue
                    if taken >= wanted:
                        return
                    pixels = picture.to_ndarray(format="rgb24")
                    if pixels.shape != (HEIGHT, WIDTH, 3):
                        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
                        raise SourceError(f"{self.video}: pictures are {size}, a match has {WIDTH}x{HEIGHT}")
                    yield Frame(taken / fps, pixels)
                    taken += 1
        except FileNotFoundError as error:
            raise SourceRefused(f"{self.video}: no such file, but its .npz is there; put both in one folder") from error
        except (av.error.FFmpegError, IndexError) as error:  # IndexError: no video stream inside
            raise SourceError(f"{self.video}: cannot be decoded ({error}); record it again") from error
        if taken < wanted:
            raise SourceError(f"{self.video}: ends after {taken} pictures, its state has {wanted}; record it again")

    def _decoded(self, container: Any, start: int) -> Iterator[tuple[int, Any]]:
        """(number in the video, picture), from the key frame on that is needed for a media second.

        A picture's time tells its number only where the video is as fast as its state says; else all are counted.
        """
        stream = container.streams.video[0]
        if start == 0 or stream.average_rate != self.record.video_fps:
            yield from enumerate(container.decode(stream))
            return
        origin = stream.start_time or 0
        container.seek(origin + round(start / stream.time_base), stream=stream)
        for picture in container.decode(stream):
            yield round((picture.pts - origin) * stream.time_base * self.record.video_fps), picture


def find_matches(place: str | Path | list[Path]) -> list[Path]:
    """The `match_*.npz` of a folder in the order of their names, or the given files; never an empty list."""
    if isinstance(place, list):
        paths = [path.with_suffix(".npz") for path in place]
    elif Path(place).is_dir():
        paths = sorted(Path(place).glob("match_*.npz"))
    else:
        paths = [Path(place).with_suffix(".npz")]
    if not paths:
        raise ConfigError(f"{place}: no match_*.npz in it; a match is match_NNNN.mp4 with match_NNNN.npz beside it")
    return paths


def is_held_out(path: Path) -> bool:
    """Is this match kept for the benchmark? Every sixth is, by its number; training leaves them out."""
    digits = "".join(c for c in path.stem if c.isdigit())
    return bool(digits) and int(digits) % 6 == 5
