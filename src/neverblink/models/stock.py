"""What adapters of stock transformers models share: feeding the language model, its masks, its angles, its loading."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from neverblink.errors import ConfigError, ModelError
from neverblink.models.base import Greedy, Look, VisionBlock
from neverblink.models.best import BestToken
from neverblink.models.int8 import quantise
from neverblink.models.packed import packed_calls
from neverblink.models.products import quicken
from neverblink.models.varlen import Kernel, fold
from neverblink.types import QWEN, Marks, Part

# Frequencies that do not depend on how long a sequence is: a key that was baked anywhere can be turned anywhere.
STEADY_ROPES = ("default", "mrope", "linear", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder in Hugging Face form and how it is to be loaded: what a family's `load` is given."""

    folder: Path
    device: str
    dtype: torch.dtype  # int8: float32 with the decoder's products in bytes, see models/int8.py
    attn: str
    name: str  # shown to people
    time_grid: str = "stock"
    lora: Path | None = None  # a PEFT adapter, merged into the weights

    def model(self, kind: str) -> Any:
        """The stock model of this class name, in eval mode on its device. Only safetensors are read, no remote code.

        Raises:
            ModelError: its quantisation, the LoRA adapter, or bytes cannot be used here.
        """
        import transformers

        if self.quantisation and self.dtype == torch.int8:
            raise ModelError(f"{self.name} is quantised with {self.quantisation} already; leave dtype int8 out")
        more: dict[str, Any] = {"device_map": {"": self.device}} if self.quantisation else {}
        try:
            with no_bars():
                model = getattr(transformers, kind).from_pretrained(
                    self.folder,
                    dtype=torch.float32 if self.dtype == torch.int8 else self.dtype,
                    attn_implementation=self.attn,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    **more,
                )
        except (ImportError, RuntimeError, ValueError) as error:
            if not self.quantisation:
                raise
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"{self.name} is quantised with {self.quantisation}, which does not run here: {reason}; "
                f"install what it names, or use a checkpoint that is not quantised"
            ) from error
        if not self.quantisation:
            model = model.to(self.device)
        model = self._with_lora(model)
        if self.dtype == torch.int8:
            quantise(model)
        return model.eval()

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        beside = self.folder / "chat_template.json"  # where older processors keep it
        if not tokenizer.chat_template and beside.is_file():
            tokenizer.chat_template = json.loads(beside.read_text())["chat_template"]
        return tokenizer

    @property
    def quantisation(self) -> str | None:
        """Method of a quantised checkpoint, such as "bitsandbytes"; None: it is not quantised."""
        config = json.loads((self.folder / "config.json").read_text())
        found = config.get("quantization_config") or config.get("text_config", {}).get("quantization_config")
        return None if found is None else str(found.get("quant_method", "an unnamed method"))

    def preprocessor(self) -> dict[str, Any]:
        """What the checkpoint says about its pictures; the video processor's words are the last."""
        found: dict[str, Any] = {}
        for file in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
            if (self.folder / file).is_file():
                said = json.loads((self.folder / file).read_text())
                # Newer processors keep all in one file.
                for part in (said, said.get("image_processor", {}), said.get("video_processor", {})):
                    found |= {k: v for k, v in part.items() if v is not None}
        return found

    def _with_lora(self, model: Any) -> Any:
        if self.lora is None:
            return model
        if self.quantisation:
            raise ModelError(
                f"{self.name} is quantised with {self.quantisation}, and a LoRA adapter cannot be merged into that "
                f"without loss; merge it into the checkpoint before it is quantised"
            )
        if not list(self.lora.glob("*.safetensors")):
            raise ModelError(f"{self.lora} holds no .safetensors adapter; other formats can run code and are not read")
        try:
            from peft import PeftModel
        except ImportError as error:
            raise ModelError("--lora needs peft; install it with: pip install 'neverblink[train]'") from error
        try:
            tuned = PeftModel.from_pretrained(model, str(self.lora), local_files_only=True)
        except Exception as error:  # peft raises what its parts raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"the LoRA adapter {self.lora} does not fit {self.name}: {reason}") from error
        return tuned.merge_and_unload(safe_merge=True)


@contextmanager
def no_bars() -> Iterator[None]:
    """Within, transformers draws no progress bars of its own."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


class StockAdapter(ABC):
    """The part of an adapter that does not depend on how a family sees: subclasses say how pictures become embeddings.

    Args:
        model: the stock model, in eval mode on its device. tokenizer: its tokenizer. name: shown to people.

    Raises:
        ModelError: its keys cannot be turned, or it lies on several devices.
    """

    family = ""
    kind = ""  # name of the stock class
    about = ""  # one line for people: which checkpoints, and how they see
    marks: Marks = QWEN
    axes = 3  # of a position that the rotary embedding takes; 1: places are counted as in text
    refused_policies: ClassVar[Mapping[str, str]] = {}
    refused_kv_dtype = ""
    recurrent: frozenset[int] = frozenset()
    takes: frozenset[str] = frozenset()  # see `models.base.Sparing`
    large_vocabulary = 16_384  # words; below, the logits are the smaller part of a token, and all are computed

    def __init__(self, model: Any, tokenizer: Any, name: str = ""):
        quicken(model)
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self._lm, self._head = self._parts(model)
        text = self._lm.config
        self._check(text)
        self.layers, self.kv_heads = text.num_hidden_layers, text.num_key_value_heads
        self.head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.ropes: tuple[str, ...] = ("",) * self.layers
        stops = model.generation_config.eos_token_id
        self.stop_ids = frozenset({stops} if isinstance(stops, int) else set(stops or ()))
        self._sdpa = text._attn_implementation == "sdpa"
        self._best: BestToken | None = None
        self.varlen: Kernel | None = None  # one call for the attention of all streams; for CUDA

    @staticmethod
    def _parts(model: Any) -> tuple[Any, Any]:
        """The language model and the head behind it."""
        inner = model.model
        return getattr(inner, "language_model", None) or inner.text_model, model.lm_head

    def _check(self, text: Any) -> None:
        found = self._lm.rotary_emb.rope_type
        for rope in found.values() if isinstance(found, dict) else [found]:
            if rope not in STEADY_ROPES:
                raise ModelError(
                    f"rope type {rope!r} changes its frequencies with the length, so cached keys cannot be turned; "
                    f"use a checkpoint with rope type {', '.join(STEADY_ROPES)}"
                )
        devices = {str(weight.device) for weight in self.model.parameters()}
        if len(devices) > 1:
            raise ModelError(
                f"the model lies on {', '.join(sorted(devices))}; a stream's cache stands on one device; load it on one"
            )
        if "sliding_attention" in (getattr(text, "layer_types", None) or ()) and not self._slides:
            raise ModelError(
                f"the checkpoint's language model ({text.model_type}) has sliding-window layers, which the "
                f"{self.family} adapter does not know; use one with full attention"
            )

    _slides = False  # whether the adapter gives sliding layers a mask of their own

    @property
    def device(self) -> torch.device:
        device: torch.device = self._lm.embed_tokens.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._lm.embed_tokens.weight.dtype
        return dtype

    @property
    def fingerprint(self) -> str:
        """Hash of the config and of a sample of every weight: cheap, and different after any training step."""
        digest = hashlib.sha256(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.named_parameters()):
            flat = weight.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
            digest.update(name.encode() + sample.tobytes())
        return digest.hexdigest()

    def encode(self, frames: Sequence[np.ndarray], fps: float) -> VisionBlock:
        return self.encode_packed([Look(frames, fps)])[0]

    @abstractmethod
    def encode_packed(self, looks: Sequence[Look]) -> list[VisionBlock]:
        """See `models.base.Adapter`."""

    @abstractmethod
    def max_vision_tokens(self, frames: int) -> int:
        """See `models.base.Adapter`."""

    def max_parts(self, frames: int) -> tuple[Part, ...]:
        return (Part(self.max_vision_tokens(frames)),)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = self._lm.embed_tokens(ids.to(self.device))
        return embeds

    def forward(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        mask = self._masks(embeds.shape[0], positions, cache)
        return self._call(embeds, positions, cache, mask)

    def forward_packed(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        # No mask is built for an attention that transformers does not know; each segment brings its own.
        with packed_calls(self._lm.config):
            folded = fold(cache, self._lm.config.num_attention_heads, self.varlen)
            return self._call(embeds, positions, cache, None, packed=cache, folded=folded)

    def _call(self, embeds: torch.Tensor, positions: torch.Tensor, cache: Any, mask: Any, **more: Any) -> torch.Tensor:
        places = positions.to(self.device)
        out = self._lm(
            inputs_embeds=embeds[None],
            position_ids=places[:, None] if self.axes == 3 else places[:1],
            past_key_values=cache,
            attention_mask=mask,
            use_cache=True,
            **more,
        )
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def _masks(self, new: int, positions: torch.Tensor, cache: Any) -> Any:
        """What the language model's `attention_mask` is to be for [new] tokens behind a cache."""
        return self._mask(new, cache.get_seq_length())

    def _mask(self, new: int, past: int) -> torch.Tensor | None:
        """Causal mask [1, 1, new, past + new] for a chunk behind a cache; one token sees everything."""
        if new == 1:
            return None
        return self._as_mask(torch.ones(new, past + new, dtype=torch.bool, device=self.device).tril(past))

    def _as_mask(self, see: torch.Tensor) -> torch.Tensor:
        """Bool [new, rows] to what the attention implementation takes."""
        see = see[None, None]
        if self._sdpa:
            return see
        return torch.zeros_like(see, dtype=self.dtype).masked_fill(~see, torch.finfo(self.dtype).min)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._head(hidden)
        return out if out.dtype == torch.float64 else out.float()

    def best(self, hidden: torch.Tensor, greedy: Greedy) -> int | None:
        """See `models.base.Adapter`; worth its while for a large vocabulary in float32 on a CPU."""
        weight = self._head.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32 or len(weight) < self.large_vocabulary:
            return None
        if self._head.bias is not None:
            return None
        if self._best is None:
            self._best = BestToken(weight)
        return self._best.pick(hidden, greedy.penalty, None if greedy.penalty == 1 else greedy.held())

    def rotation(self, old: torch.Tensor, new: torch.Tensor, rope: str = "") -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = self._angles(torch.cat([old, new]), rope)  # one call: a module's Python is the dearer part
        (cos0, cos1), (sin0, sin1) = ((x[: len(old)], x[len(old) :]) for x in (cos, sin))
        return cos1 * cos0 + sin1 * sin0, sin1 * cos0 - cos1 * sin0

    def _angles(self, positions: torch.Tensor, rope: str) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [n, turned] float64 of positions [n, 3], as the model itself rounds them to float32."""
        embedding, named = self._lm.rotary_emb, (rope,) if rope else ()
        places = positions.T.float().to(self.device)
        places = places[:, None] if self.axes == 3 else places[:1]
        cos, sin = embedding(torch.zeros(1, device=self.device), places, *named)
        # A scaled rope (yarn) bakes its factor into every key once; turning must not apply it again.
        factor = getattr(embedding, f"{rope}_attention_scaling" if rope else "attention_scaling")
        return cos[0].double() / factor, sin[0].double() / factor


def stock_time_only(checkpoint: Checkpoint) -> None:
    """Refuse a time grid that only Qwen2.5-VL knows."""
    if checkpoint.time_grid != "stock":
        raise ConfigError(f"time grid {checkpoint.time_grid!r} belongs to qwen2_5_vl; {checkpoint.name} takes 'stock'")
