"""docs/plugins.md: its compressor is installed as a stranger would install it, and runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from neverblink import SpeakOptions, StreamOptions
from neverblink.economy import compressors, make
from neverblink.testing import check_compressor_contract
from tests.engine import crowd

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


def test_the_documented_compressor_is_found_and_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module and metadata laid down as an installer does; found through its entry point and run in a stream."""
    code, project = (
        re.search(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.DOTALL).group(1)  # type: ignore[union-attr]
        for kind in ("python", "toml")
    )
    about = tomllib.loads(project)["project"]
    assert len(code.splitlines()) <= 32
    (tmp_path / "surprise.py").write_text(code)
    info = tmp_path / f"neverblink_surprise-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    [(group, entries)] = about["entry-points"].items()
    lines = [f"{name} = {target}" for name, target in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    assert "surprise" not in set(compressors)
    monkeypatch.syspath_prepend(tmp_path)
    assert "surprise" in set(compressors)
    check_compressor_contract(lambda: make(compressors, "surprise:keep=0.25"))
    speak = SpeakOptions(max_tokens_per_second=2)
    told = []
    for compress in ("", "surprise:keep=0.5"):
        stream = crowd.model().stream(StreamOptions(fps=4.0, compress=compress, speak=speak))
        told.append([stream.step(crowd.chunk_of(0, second, 4)).vision_tokens for second in range(2)])
    assert all(0 < few <= many / 2 for few, many in zip(told[1], told[0], strict=True))
