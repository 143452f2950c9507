"""A loaded model and the streams that it watches: what a user of the package holds in hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neverblink.errors import ConfigError, ModelError
from neverblink.kv.relocate import Positions
from neverblink.models import families
from neverblink.models.base import Adapter
from neverblink.models.bundled import BUNDLED, Card, read_card
from neverblink.options import StreamOptions
from neverblink.script import Script, ScriptOptions
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk

if TYPE_CHECKING:
    from neverblink.sources.base import Source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class Model:
    """A vision-language model that can watch many streams. Make one with `Model.from_pretrained`."""

    def __init__(self, adapter: Adapter, card: Card = Card(), chosen: list[tuple[str, str, str]] | None = None):
        self.adapter, self.card, self._chosen = adapter, card, chosen or []

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] = "bundled",
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        attn: str | None = None,
        revision: str | None = None,
        time_grid: str = "stock",
    ) -> Model:
        """Load a model.

        Args:
            name: "bundled", a folder in Hugging Face form, or a hub id such as "Qwen/Qwen2.5-VL-7B-Instruct".
            device: "cpu", "cuda", "cuda:1", "mps"; None chooses.
            dtype: "float32", "bfloat16", ...; None chooses.
            attn: "sdpa", "eager" or "flash_attention_2"; None chooses.
            revision: branch, tag or commit of a hub repository.
            time_grid: "stock", or a quirk of the public reference (see `Qwen25VL`).

        Raises:
            ModelError: nothing there, not a model, or of an unknown family.
        """
        folder, shown = find(name, revision)
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no readable config.json; name a checkpoint folder or hub id") from error
        family = config.get("model_type", "none")
        if family not in set(families):
            raise ModelError(f"{shown}: unknown model family {family!r}; known: {', '.join(families)}")
        if not list(folder.glob("*.safetensors")):
            raise ModelError(f"{shown} holds no .safetensors weights; other formats can run code and are not read")
        chosen = [choose_device(device), choose_dtype(dtype, device), choose_attention(attn)]
        card = read_card(folder)
        adapter = families[family](
            folder,
            device=chosen[0][1],
            dtype=DTYPES[chosen[1][1]],
            attn=chosen[2][1],
            name=card.name or shown,
            time_grid=time_grid,
        )
        return cls(adapter, card, chosen)

    @property
    def name(self) -> str:
        return self.adapter.name

    @property
    def device(self) -> str:
        """Kind of device that the weights are on: "cpu", "cuda" ..."""
        return self.adapter.device.type

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.adapter.model.parameters())

    @property
    def fps(self) -> float:
        """Frames a second that the model was made for."""
        return self.card.fps

    @property
    def domain(self) -> str | None:
        """What the model knows, when it does not know the world."""
        return self.card.domain

    def describe(self) -> list[tuple[str, str, str]]:
        """(what, chosen, why) for everything that was chosen."""
        return list(self._chosen)

    def stream(
        self, options: StreamOptions | None = None, script: ScriptOptions | None = None, processor: Any | None = None
    ) -> Stream:
        """A new stream with a KV cache of its own. None takes the checkpoint's own defaults.

        Raises:
            BudgetError: the KV cache does not fit in memory.
        """
        writer = Script(self.adapter.tokenizer, script or ScriptOptions(**self.card.script))
        return Stream(self.adapter, writer, options or self.options(), processor)

    def options(self, policy: str = "streaming", policy_options: Mapping[str, Any] | None = None) -> StreamOptions:
        """The checkpoint's own defaults for a policy, with windows of the caller's on top."""
        from dataclasses import fields

        from neverblink.kv.policies import policies

        known = {f.name for f in fields(policies[policy])}
        own = {k: v for k, v in self.card.policy_options.items() if k in known}
        speak = replace(StreamOptions().speak, **self.card.speak)
        return StreamOptions(
            fps=self.card.fps, policy=policy, policy_options={**own, **(policy_options or {})}, speak=speak
        )

    def watch(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        fps: float | None = None,
        policy: str = "streaming",
        policy_options: Mapping[str, Any] | None = None,
        positions: Positions = "contiguous",
        seconds: float | None = None,
        realtime: bool = False,
        start: float = 0.0,
        end: float | None = None,
        seed: int | None = None,
        max_tokens_per_second: int | None = None,
        temperature: float | None = None,
        query: str | None = None,
        questions: Mapping[float, str] | Callable[[float], str | None] | None = None,
        on_event: Callable[[str, str, float], None] | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Iterator[Caption]:
        """Watch a source, one caption a second.

        Args:
            source: a path, URL, "camera:0", "screen", "arcade:pong", or an opened Source.
            seconds: stop after so many media seconds.
            realtime: pace a file by the clock.
            start, end: part of a file, media seconds.
            questions: media second -> question, asked with the first chunk that ends at or after it; or a function
                that is given the end of each chunk before the model sees it, and returns a question or None.
            on_event: told (type, text, media seconds) of what happens to the source.
            on_chunk: given each chunk before the model sees it.

        Yields:
            Captions, as soon as each is spoken.

        Raises:
            SourceRefused: nothing was decoded. SourceDamaged: after the last good caption.
        """
        from neverblink.sources import open_source
        from neverblink.sources.base import SourceOptions
        from neverblink.sources.chunks import chunks

        options = self.options(policy, policy_options)
        given: dict[str, Any] = {
            "max_tokens_per_second": max_tokens_per_second,
            "temperature": temperature,
            "seed": seed,
        }
        speak = replace(options.speak, **{k: v for k, v in given.items() if v is not None})
        options = replace(options, fps=fps or options.fps, positions=positions, speak=speak)
        script = self.card.script if query is None else {**self.card.script, "query": query}
        waiting = [] if callable(questions) else sorted((questions or {}).items())
        if seconds is not None and seconds <= 0:
            raise ConfigError(f"seconds must be above 0, got {seconds}")
        if isinstance(source, str | os.PathLike):
            quiet: Callable[[str, str, float], None] = lambda *_: None  # noqa: E731  a named nothing
            wanted = SourceOptions(fps=options.fps, realtime=realtime, start=start, end=end, on_event=on_event or quiet)
            source = open_source(source, wanted)
        stream = self.stream(options, ScriptOptions(**script))
        with source:
            first = None
            for chunk in chunks(source, options.fps, options.chunk_seconds):
                first = chunk.start if first is None else first
                if on_chunk is not None:
                    on_chunk(chunk)
                question = questions(chunk.end) if callable(questions) else None
                if waiting and waiting[0][0] <= chunk.end:
                    question = waiting.pop(0)[1]
                yield stream.step(chunk, question)
                if seconds is not None and chunk.end - first >= seconds - 1e-6:
                    break


def find(name: str | os.PathLike[str], revision: str | None = None) -> tuple[Path, str]:
    """The local folder of a model and the name to show; downloads from the hub when it is a hub id.

    Raises:
        ModelError: nothing there; says what was tried.
    """
    shown = os.fspath(name)
    if shown == "bundled":
        if not (BUNDLED / "config.json").is_file():
            raise ModelError(
                f"this installation has no bundled model ({BUNDLED}); name one with --model PATH_OR_HUB_ID"
            )
        return BUNDLED, "neverblink-arcade"
    if Path(shown).is_dir():
        return Path(shown), Path(shown).resolve().name
    if shown.startswith((".", "/", "~")) or shown.count("/") != 1:
        raise ModelError(f"no model at {shown!r}; give a folder that exists, a hub id like OWNER/NAME, or 'bundled'")
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(shown, revision=revision, allow_patterns=patterns)), shown
    except Exception as error:  # the hub client raises its own and its HTTP library's errors; all end here as one line
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot fetch {shown!r} from the hub ({reason}); name a local folder instead") from error


def choose_device(asked: str | None) -> tuple[str, str, str]:
    """("device", choice, reason)."""
    if asked is not None:
        kind = asked.split(":")[0]
        if kind == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device {asked!r} was asked for and torch {torch.__version__} finds no CUDA; use cpu")
        return "device", asked, "asked for"
    if torch.cuda.is_available():
        return "device", "cuda", f"found {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "device", "mps", "found Apple's GPU"
    return "device", "cpu", "no CUDA or MPS device found"


def choose_dtype(asked: str | torch.dtype | None, device: str | None = None) -> tuple[str, str, str]:
    """("dtype", choice, reason)."""
    if asked is not None:
        wanted = str(asked).removeprefix("torch.")
        if wanted not in DTYPES:
            raise ConfigError(f"no dtype {wanted!r}; known: {', '.join(DTYPES)}")
        return "dtype", wanted, "asked for"
    if choose_device(device)[1] == "cpu":
        return "dtype", "float32", "on a CPU bfloat16 decodes slower than float32"
    return "dtype", "bfloat16", "half the memory traffic of float32 on a GPU"


def choose_attention(asked: str | None) -> tuple[str, str, str]:
    """("attention", choice, reason)."""
    known = ("sdpa", "eager", "flash_attention_2")
    if asked is not None and asked not in known:
        raise ConfigError(f"no attention {asked!r}; known: {', '.join(known)}")
    if asked is not None:
        return "attention", asked, "asked for"
    return "attention", "sdpa", "torch's own fused attention, on every device"
