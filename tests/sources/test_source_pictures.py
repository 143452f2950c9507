"""A picture as a source: one frame, one second, one caption; upright, and from no file but the one that was named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neverblink.errors import SourceError
from neverblink.sources import SourceOptions, chunks, open_source


def picture() -> np.ndarray:
    """A landscape with a bright corner, so that a turned or mirrored copy is another."""
    pixels = np.full((48, 80, 3), 60, dtype=np.uint8)
    pixels[:16, :24] = (220, 180, 40)
    return pixels


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp"])
def test_a_picture_is_one_second(kind: str, tmp_path: Path) -> None:
    """The pixels that were saved, in one chunk."""
    path = tmp_path / f"still %d.{kind}"  # a pattern to a reader that goes by names
    Image.fromarray(picture()).save(path, quality=95)
    with open_source(str(path), SourceOptions(fps=2.0)) as source:
        seen = list(chunks(source, 2.0))
    assert 1 == len(seen)
    assert {(48, 80, 3)} == {frame.pixels.shape for frame in seen[0].frames}
    assert float(np.abs(seen[0].frames[0].pixels.astype(float) - picture()).mean()) < 6


def test_text_that_is_named_a_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("hunter2\n" * 40)
    with pytest.raises(SourceError) as error, open_source(str(path), SourceOptions(fps=2.0)) as source:
        list(chunks(source, 2.0))
    assert "hunter2" not in str(error.value)
