"""A stream on disk: the used rows of the arena, the table, and everything else that the next second depends on.

One safetensors file, written beside its place and moved there, so that a crash leaves the old one. Nothing in it is
code; everything in it is checked before it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from neverblink.errors import SnapshotError
from neverblink.kv.table import COLUMNS
from neverblink.types import Kind

VERSION = 2
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
FAR = 1e12  # no second, place or serial of a stream comes near


def state_of(stream: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and plain values of a stream; also what a fork copies."""
    table, arena = stream.table, stream.arena
    tensors = {f"table.{name}": torch.from_numpy(column) for name, column in table.columns().items()}
    for part, layers, rows in arena.parts(table.n, table.anchors, table.cells):
        for layer, tensor in enumerate(layers):
            tensors[f"{part}.{layer}"] = tensor[stream.slot].narrow(-2, 0, rows).cpu().clone()
    for number, state in enumerate(stream.cache.mark()):
        if state is not None:
            tensors[f"conv.{number}"], tensors[f"state.{number}"] = (tensor.cpu().clone() for tensor in state)
    for turn, embeds in stream.embeds.items():
        tensors[f"embeds.{turn}"] = embeds.cpu().clone()
    for name, value in stream.seen.items():
        tensors[f"seen.{'here' if value.device.type == 'cpu' else 'there'}.{name}"] = value.cpu().clone()
    tensors["random"] = stream.sampler.generator.get_state().clone()
    plain = {
        "n": table.n,
        "m": table.m,
        "anchors": table.anchors,
        "next_pos": table.next_pos,
        "next_serial": table.next_serial,
        "turn": stream.turn,
        "end": stream.end,
    }
    return tensors, plain


def identity_of(stream: Any) -> dict[str, Any]:
    """What must be the same for a snapshot to mean the same thing."""
    options = json.loads(json.dumps(asdict(stream.options), sort_keys=True))
    if not options["kv_dtype"]:
        del options["kv_dtype"]  # a snapshot that is older than the option is as good
    return {
        "fingerprint": stream.adapter.fingerprint,
        "dtype": str(stream.adapter.dtype),
        "options": options,
        "script": asdict(stream.script.options),
        "budget": stream.budget,
    }


def save(stream: Any, path: str | Path) -> None:
    """Write a snapshot.

    Raises:
        SnapshotError: the file cannot be written, or a failure has left the stream half moved; an older one at the
            same place still stands.
    """
    if stream.table.torn:
        raise SnapshotError(f"the stream failed while its cache was rearranged; {path} is left as it was")
    path, (tensors, plain) = Path(path), state_of(stream)
    head: dict[str, Any] = {"version": VERSION, "identity": identity_of(stream), "state": plain}
    arrays, head["as_bytes"] = _as_arrays(tensors)
    head["crc32"] = _checksum(tensors, head)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, beside, metadata={"neverblink": json.dumps(head)})
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # a file system that cannot be written cannot be tidied either
            beside.unlink(missing_ok=True)
        raise SnapshotError(f"cannot write the snapshot {path}: {error}") from error


def _as_arrays(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, list[int]]]]:
    """Tensors for numpy, and type and shape of those that it only knows as bytes, such as bfloat16. By way of numpy,
    since safetensors.torch makes a ctypes type of every length that it meets, and Python keeps them all."""
    arrays, types = {}, {}
    for name, value in tensors.items():
        try:
            arrays[name] = value.contiguous().numpy()
        except TypeError:
            types[name] = (str(value.dtype).removeprefix("torch."), list(value.shape))
            arrays[name] = value.reshape(-1).view(torch.uint8).numpy()
    return arrays, types


def load(stream: Any, path: str | Path) -> None:
    """Put a fresh stream where the saved one was. The stream is unchanged if anything is wrong.

    Raises:
        SnapshotError: damaged, of another version, or of another model, policy or script; says which and both values.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            head = json.loads((file.metadata() or {}).get("neverblink", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        for name, (dtype, shape) in (head.get("as_bytes", {}) if isinstance(head, dict) else {}).items():
            tensors[name] = tensors[name].view(DTYPES[dtype]).reshape(shape)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise SnapshotError(f"cannot read the snapshot {path}: {error}") from error
    if not isinstance(head, dict) or head.get("version") != VERSION:
        found = head.get("version") if isinstance(head, dict) else None
        raise SnapshotError(f"{path} is no neverblink snapshot of version {VERSION} (found {found})")
    identity = head.get("identity")
    for key, here in identity_of(stream).items():
        there = identity.get(key) if isinstance(identity, dict) else None
        if there != here:
            raise SnapshotError(f"the snapshot's {key} differs: {there!s:.80} there, {here!s:.80} here")
    if head.pop("crc32", None) != _checksum(tensors, head):
        raise SnapshotError(f"{path} is damaged: its checksum does not match its content; use an older snapshot")
    put(stream, tensors, _checked(stream, tensors, head.get("state")))


def put(stream: Any, tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """Write a state into a stream of the same shape."""
    table, arena = stream.table, stream.arena
    table.load({name: tensors[f"table.{name}"].numpy() for name in COLUMNS})
    for name in ("n", "m", "anchors", "next_pos", "next_serial"):
        setattr(table, name, plain[name])
    for part, layers, rows in arena.parts(table.n, table.anchors, table.cells):
        for layer, tensor in enumerate(layers):
            tensor[stream.slot].narrow(-2, 0, rows).copy_(tensors[f"{part}.{layer}"])
    states = [
        (tensors[f"conv.{i}"].to(arena.device), tensors[f"state.{i}"].to(arena.device))
        if f"conv.{i}" in tensors
        else None
        for i in range(len(arena.recurrent))
    ]
    stream.cache.rewind(states)
    stream.embeds = {
        int(name.removeprefix("embeds.")): value.to(arena.device)
        for name, value in tensors.items()
        if name.startswith("embeds.")
    }
    # What a plug-in remembers stands on the CPU or beside the weights, as it had put it.
    stream.seen = {
        name.partition(".")[2].partition(".")[2]: value.to(arena.device if name.startswith("seen.there.") else "cpu")
        for name, value in tensors.items()
        if name.startswith("seen.")
    }
    stream.sampler.generator.set_state(tensors["random"])
    stream.turn, stream.end = plain["turn"], plain["end"]


def _checksum(tensors: dict[str, torch.Tensor], head: dict[str, Any]) -> int:
    crc = zlib.crc32(json.dumps(head, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        crc = zlib.crc32(f"{name}{tuple(value.shape)}{value.dtype}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"", crc)
    return crc


def _checked(stream: Any, tensors: dict[str, torch.Tensor], plain: Any) -> dict[str, Any]:
    """The state's plain values, once every number and shape is known to be in range."""
    table, arena = stream.table, stream.arena

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise SnapshotError(f"the snapshot is damaged: {what}")

    names = ("n", "m", "anchors", "next_pos", "next_serial", "turn", "end")
    demand(isinstance(plain, dict) and all(type(plain.get(k)) in (int, float) for k in names), "its state is missing")
    n, m, anchors = plain["n"], plain["m"], plain["anchors"]
    counts = (n, m, anchors, plain["turn"], plain["next_serial"])
    demand(all(type(x) is int and 0 <= x < 2**31 for x in counts), "its counts are no whole numbers")
    demand(all(abs(plain[k]) < FAR for k in ("next_pos", "end")), "its clock or its place is no number of ours")
    demand(0 <= anchors <= n <= m <= table.max_rows, f"rows {anchors} <= {n} <= {m} <= {table.max_rows} do not hold")
    for name in COLUMNS:
        demand(f"table.{name}" in tensors, f"column {name} is missing")
        column, own = tensors[f"table.{name}"], torch.from_numpy(getattr(table, name))
        demand(column.shape == (m, *own.shape[1:]) and column.dtype == own.dtype, f"column {name} has a wrong shape")
        demand(bool((column.double().abs() < FAR).all()), f"column {name} holds no numbers of ours")
    kinds = tensors["table.kinds"]
    demand(not m or (0 <= int(kinds.min()) and int(kinds.max()) <= max(Kind)), "a row has an unknown kind")
    known = stream.adapter.model.get_input_embeddings().weight.shape[0]
    ids = tensors["table.ids"]
    demand(not m or (0 <= int(ids.min()) and int(ids.max()) < known), f"a row has an id that is none of {known}")
    for turn, cell in {*zip(tensors["table.turns"].tolist(), tensors["table.cells"].tolist(), strict=True)}:
        seen = tensors.get(f"embeds.{turn}")
        demand(cell >= -1 and (seen is None or cell < len(seen)), f"a row has cell {cell} of turn {turn}")
    for part, layers, rows in arena.parts(n, anchors, tensors["table.cells"].numpy()):
        for layer, own in enumerate(layers):
            value = tensors.get(f"{part}.{layer}", torch.empty(0))
            demand(rows <= own.shape[-2], f"{rows} rows of {part} > {own.shape[-2]}")
            demand(value.shape == own[0].narrow(-2, 0, rows).shape, f"{part} of layer {layer} has a wrong shape")
            demand(value.dtype == own.dtype, f"{part} of layer {layer} is {value.dtype}, not {own.dtype}")
    for number in range(len(arena.recurrent)):
        whole = {f"{part}.{number}" in tensors for part in ("conv", "state")}
        demand(whole == {n > 0}, f"the state of recurrent layer {number} is missing")
    for name, value in tensors.items():
        demand(not name.startswith("seen.") or bool(torch.isfinite(value.double()).all()), f"{name} holds no numbers")
    demand("random" in tensors, "the state of its random numbers is missing")
    return plain
