"""A loaded model and the streams that it watches: what a user of the package holds in hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from neverblink.errors import ModelError, NeverblinkError
from neverblink.kv.relocate import Positions
from neverblink.memory.recall import Notes
from neverblink.models import ABSENT, families
from neverblink.models.base import Adapter, VisionBlock, drive
from neverblink.models.bundled import Card, read_card
from neverblink.models.choices import DTYPES, choose_attention, choose_device, choose_dtype, find
from neverblink.models.stock import Checkpoint
from neverblink.options import StreamOptions, refusal
from neverblink.script import Script, ScriptOptions
from neverblink.stream import Stream
from neverblink.types import Caption, Chunk

if TYPE_CHECKING:
    from neverblink.engine import Engine, Overload, Result
    from neverblink.sources.base import Source


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
        lora: str | os.PathLike[str] | None = None,
    ) -> Model:
        """Load a model.

        Args:
            name: "bundled", a folder in Hugging Face form, or a hub id such as "Qwen/Qwen2.5-VL-7B-Instruct".
            device: "cpu", "cuda", "cuda:1", "mps"; None chooses.
            dtype: "float32", "bfloat16", ..., or on a CPU "int8": the decoder's products in bytes; None chooses.
            attn: "sdpa", "eager" or "flash_attention_2"; None chooses.
            revision: branch, tag or commit of a hub repository.
            time_grid: "stock", or a quirk of the public reference (see `Qwen25VL`).
            lora: folder of a PEFT adapter, which is merged into the weights.

        Raises:
            ModelError: nothing there, not a model, or of an unknown family.
        """
        folder, shown = find(name, revision)
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{folder} holds no readable config.json; name a checkpoint folder or hub id") from error
        family = config.get("model_type", "none") if isinstance(config, dict) else "none"
        if family not in set(families):
            reason = f": {ABSENT[family]}" if family in ABSENT else ""
            raise ModelError(
                f"{shown}: unknown model family {family!r}{reason}; known: {', '.join(families)}; "
                f"docs/adapters.md tells how to write one"
            )
        if not list(folder.glob("*.safetensors")):
            raise ModelError(f"{shown} holds no .safetensors weights; other formats can run code and are not read")
        chosen = [choose_device(device), choose_dtype(dtype, device), choose_attention(attn)]
        card = read_card(folder)
        merged = None if lora is None else Path(lora)
        checkpoint = Checkpoint(
            folder, chosen[0][1], DTYPES[chosen[1][1]], chosen[2][1], card.name or shown, time_grid, merged
        )
        try:
            adapter = families[family].load(checkpoint)
        except NeverblinkError:
            raise
        except Exception as error:  # of whoever reads its files; what stands in them is somebody else's
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise ModelError(f"{shown} cannot be loaded: {type(error).__name__}: {reason}") from error
        model = cls(adapter, card, chosen)
        try:
            model.options(), model.words()
        except (TypeError, NeverblinkError) as error:  # an option that there is not, or a value out of its range
            raise ModelError(f"{shown}: its neverblink.json does not hold: {error}") from error
        return model

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
        writer = self.script(script or self.words())
        return Stream(self.adapter, writer, options or self.options(), processor)

    def script(self, options: ScriptOptions = ScriptOptions()) -> Script:
        """What writes this model's turns."""
        return Script(self.adapter.tokenizer, options, self.adapter.marks)

    def words(self, query: str | None = None) -> ScriptOptions:
        """The checkpoint's own words around the video, with a query of the caller's."""
        return ScriptOptions(**self.card.script if query is None else {**self.card.script, "query": query})

    def _looks_ahead(self, asked: bool | None) -> bool:
        """On a CPU the tower and the decoder would share the same cores."""
        return self.device != "cpu" if asked is None else asked

    def own_policy(self, positions: Positions = "contiguous") -> str:
        """The KV policy that the checkpoint asks for; `streaming` where that does not hold, or it asks for none."""
        return Card().policy if refusal(self.card.policy, positions, self.adapter) else self.card.policy

    def options(
        self,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        speak: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> StreamOptions:
        """The checkpoint's own defaults for a policy, with what the caller gives on top.

        Args:
            policy: None is the checkpoint's own. policy_options: its windows. speak: fields of SpeakOptions. others:
                fields of StreamOptions. None stands for what is not given.
        """
        from dataclasses import fields

        from neverblink.kv.policies import policies

        policy = policy or self.own_policy(others.get("positions") or "contiguous")
        known = {f.name for f in fields(policies[policy])}
        own = {k: v for k, v in self.card.policy_options.items() if k in known}
        spoken = replace(StreamOptions().speak, **{**self.card.speak, **_given(speak or {})})
        options = StreamOptions(self.card.fps, policy=policy, policy_options={**own, **(policy_options or {})})
        return replace(options, speak=spoken, **_given(others))

    def engine(
        self,
        options: Sequence[StreamOptions] = (),
        script: ScriptOptions | None = None,
        *,
        max_streams: int | Literal["auto"] = "auto",
        most_streams: int | None = None,
        pipeline: bool | None = None,
    ) -> Engine:
        """Slots for many streams, see `neverblink.engine`; what is not given is what `stream` and `watch` take.

        Raises:
            BudgetError: the slots do not fit in memory.
        """
        from neverblink.engine import Engine
        from neverblink.engine.memory import MOST

        return Engine(
            self.adapter,
            self.script(script or self.words()),
            options or (self.options(),),
            max_streams=max_streams,
            most_streams=most_streams or MOST,
            pipeline=self._looks_ahead(pipeline),
        )

    def watch_many(
        self,
        sources: Mapping[str, str | os.PathLike[str]],
        *,
        max_streams: int | Literal["auto"] = "auto",
        overload: Overload | None = None,
        on_memory: Callable[[str], None] = lambda text: None,
        fps: float | None = None,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        positions: Positions = "contiguous",
        seconds: float | None = None,
        realtime: bool | Mapping[str, bool] = False,
        start: float = 0.0,
        end: float | None = None,
        seed: int | None = None,
        max_tokens_per_second: int | None = None,
        temperature: float | None = None,
        quiet_from: float | None = None,
        query: str | None = None,
        gate: str = "",
        encoder_cache: str = "",
        compress: str = "",
        loop_tokens: int | None = None,
        kv_dtype: str = "",
        questions: Mapping[float, str] | None = None,
        on_event: Callable[[str, str, str, float], None] = lambda *_: None,
        on_chunk: Callable[[str, Chunk], None] = lambda *_: None,
        pipeline: bool | None = None,
    ) -> Iterator[Result]:
        """Watch several sources at once, their tokens packed into common forwards; each is told as if it were alone.

        Args:
            sources: stream id -> name. The other arguments are those of `watch`, of every source.
            max_streams: slots of memory; "auto" takes as many as fit, but not more than there are sources.
            overload: what becomes of a second that comes before the one before it was begun: "drop-oldest" and "skip"
                lose frames and count them in the next caption, "slow" lets the source wait. None: live sources and
                such in real time drop their oldest, files wait.
            on_memory: is told the arithmetic of the memory.
            realtime: of all, or stream id -> of one.
            seed: of the first stream; the others count on.
            on_event: told (stream id, type, text, media seconds), in the caller's thread.
            on_chunk: given (stream id, chunk) of what the engine takes, in the caller's thread.

        Yields:
            Results: a caption, or the error with which a source ended; the others go on.

        Raises:
            BudgetError: more sources than slots. SourceRefused: nothing was decoded of one.
        """
        from neverblink.engine.watch import Ears, watch_sources
        from neverblink.sources import open_source
        from neverblink.sources.base import SourceOptions
        from neverblink.sources.chunks import check_seconds

        check_seconds(seconds)
        speak = {"seed": seed, "max_tokens_per_second": max_tokens_per_second, "temperature": temperature}
        speak |= {"quiet_from": quiet_from}
        see = {"gate": gate, "encoder_cache": encoder_cache, "compress": compress, "loop_tokens": loop_tokens}
        see |= {"kv_dtype": kv_dtype}
        options = self.options(policy, policy_options, speak, fps=fps, positions=positions, **see)
        words = self.words(query)
        engine = self.engine([options], words, max_streams=max_streams, most_streams=len(sources), pipeline=pipeline)
        on_memory(engine.memory.text())
        ears = {name: Ears() for name in sources}
        with ExitStack() as stack:
            stack.callback(engine.close)
            opened = {}
            for i, (name, source) in enumerate(sources.items()):
                paced = realtime if isinstance(realtime, bool) else realtime.get(name, False)
                wanted = SourceOptions(options.fps, paced, start, end, on_event=ears[name])
                opened[name] = stack.enter_context(open_source(source, wanted))
                live = opened[name].info.live or paced
                engine.add(
                    name,
                    seed=None if seed is None else seed + i,
                    overload=overload or ("drop-oldest" if live else "slow"),
                    most_waiting=1,
                )
            yield from watch_sources(
                engine, opened, ears=ears, seconds=seconds, questions=questions, on_event=on_event, on_chunk=on_chunk
            )

    def watch(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        fps: float | None = None,
        policy: str | None = None,
        policy_options: Mapping[str, Any] | None = None,
        positions: Positions = "contiguous",
        seconds: float | None = None,
        realtime: bool = False,
        start: float = 0.0,
        end: float | None = None,
        seed: int | None = None,
        max_tokens_per_second: int | None = None,
        temperature: float | None = None,
        quiet_from: float | None = None,
        query: str | None = None,
        gate: str = "",
        encoder_cache: str = "",
        compress: str = "",
        loop_tokens: int | None = None,
        kv_dtype: str = "",
        questions: Mapping[float, str] | Callable[[float], str | None] | None = None,
        recall: bool = False,
        on_event: Callable[[str, str, float], None] | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
        pipeline: bool | None = None,
    ) -> Iterator[Caption]:
        """Watch a source, one caption a second.

        Args:
            source: a path, URL, "camera:0", "screen", "arcade:pong", or an opened Source.
            policy: what the KV cache keeps; None is the checkpoint's own (`own_policy`). policy_options: its windows.
            seconds: stop after so many media seconds.
            realtime: pace a file by the clock.
            start, end: part of a file, media seconds.
            gate, encoder_cache, compress: ways to see less, see `StreamOptions`. loop_tokens, kv_dtype: see there too.
            questions: media second -> question, asked with the first chunk that ends at or after it; or a function
                that is given the end of each chunk before the model sees it, and returns a question or None.
            recall: put what was said about it since the beginning in front of each question, as far as it fits.
            on_event: told (type, text, media seconds) of what happens to the source.
            on_chunk: given each chunk before the model reads it, in the caller's thread.
            pipeline: read and encode the next chunk while this one is spoken, in a second thread, which then also
                calls a `questions` function and the listener of an opened Source. The captions are the same. None:
                on a GPU yes, on a CPU no.

        Yields:
            Captions, as soon as each is spoken.

        Raises:
            SourceRefused: nothing was decoded. SourceDamaged: after the last good caption.
        """
        from neverblink.sources import open_source
        from neverblink.sources.ahead import Ahead
        from neverblink.sources.base import SourceOptions
        from neverblink.sources.chunks import asked, check_seconds, chunks

        check_seconds(seconds)
        speak = {"seed": seed, "max_tokens_per_second": max_tokens_per_second, "temperature": temperature}
        speak |= {"quiet_from": quiet_from}
        see = {"gate": gate, "encoder_cache": encoder_cache, "compress": compress, "loop_tokens": loop_tokens}
        see |= {"kv_dtype": kv_dtype}
        options = self.options(policy, policy_options, speak, fps=fps, positions=positions, **see)
        pipeline = self._looks_ahead(pipeline)
        ahead: Ahead[tuple[Chunk, str | None, VisionBlock | None]] | None = None

        def tell(kind: str, text: str, at: float) -> None:
            if ahead is not None:
                ahead.tell(kind, text, at)
            elif on_event is not None:
                on_event(kind, text, at)

        show = on_chunk or (lambda chunk: None)
        if isinstance(source, str | os.PathLike):
            wanted = SourceOptions(fps=options.fps, realtime=realtime, start=start, end=end, on_event=tell)
            source = open_source(source, wanted)
        stream = self.stream(options, self.words(query))

        state = stream.seen

        @torch.inference_mode()
        def see_ahead(chunk: Chunk, question: str | None) -> VisionBlock:
            nonlocal state  # after the chunk before, which may not be spoken yet
            block = drive(self.adapter, stream.eye.see(state, chunk, asked=question is not None))
            state = block.state
            return block

        def second_by_second(source: Source) -> Iterator[tuple[Chunk, str | None, VisionBlock | None]]:
            for chunk, question in asked(chunks(source, options.fps, options.chunk_seconds), seconds, questions):
                yield chunk, question, see_ahead(chunk, question) if pipeline else None

        with source, ExitStack() as stack:
            notes = stack.enter_context(Notes(partial(options.askable, stream.script))) if recall else None

            def step(chunk: Chunk, question: str | None, seen: VisionBlock | None) -> Caption:
                show(chunk)
                if notes is None:
                    return stream.step(chunk, question, seen=seen)
                words = question and notes.about(question)
                caption = replace(stream.step(chunk, words, seen=seen), question=question)
                notes.add(caption)
                return caption

            coming = second_by_second(source)
            if not pipeline:
                for chunk, question, seen in coming:
                    yield step(chunk, question, seen)
                return
            with Ahead(coming, on_note=on_event or (lambda *_: None), free=source.close) as ahead:
                for chunk, question, seen in ahead:
                    yield step(chunk, question, seen)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
