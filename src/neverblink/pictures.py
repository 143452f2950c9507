"""Pictures as JPEG and back, for people and for the wire. Bytes from a stranger are checked before they are decoded."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from neverblink.errors import SourceRefused

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("JPEG", "PNG", "WEBP")  # what a stranger may send
MOST_PIXELS = 4096 * 2304  # of a picture that is decoded: as for video, 4k and no more


def to_jpeg(pixels: np.ndarray, *, width: int | None = None, quality: int = 80) -> bytes:
    """[H, W, 3] uint8 as a JPEG, at most `width` wide; smaller pictures stay as they are."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if width is not None and image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def from_bytes(data: bytes, *, formats: tuple[str, ...] = FORMATS, most_side: int = 1280) -> np.ndarray:
    """A JPEG, PNG or WebP as [H, W, 3] uint8 RGB, upright, scaled down to `most_side`.

    Raises:
        SourceRefused: not such a picture, damaged, or too large; says which.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MOST_PIXELS:
                raise SourceRefused(
                    f"the picture is {image.width}x{image.height}, more than {MOST_PIXELS} pixels; scale it down"
                )
            image.draft("RGB", (most_side, most_side))  # a JPEG is then decoded at a smaller size at once
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((most_side, most_side))
            return np.array(upright, dtype=np.uint8)
    except SourceRefused:
        raise
    except Exception as error:  # a damaged picture makes the decoder raise nearly anything
        raise SourceRefused(f"this is no {', '.join(formats)} picture, or it is damaged ({error})") from error
