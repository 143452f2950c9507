"""`neverblink serve`: the server and its live page."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neverblink.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from neverblink.outputs.base import Output
    from neverblink.server.options import ServeOptions
    from neverblink.server.spec import Spec

KEY = "NEVERBLINK_API_KEY"
FILES = 65536  # that may be open at once, where the system allows it
SPEC = "NAME[:OPTION=VALUE,...]"


def _option(help: str, metavar: str | None = None, envvar: str | None = None) -> Any:
    return typer.Option(help=help, show_default=False, metavar=metavar, envvar=envvar)


def serve(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...", help="Streams to start with, named as in neverblink watch.", show_default=False
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Model: bundled, a folder, or a hub id.", metavar="MODEL")] = "bundled",
    host: Annotated[str | None, _option("Address to listen at. [default: 127.0.0.1, this machine only]")] = None,
    port: Annotated[int | None, _option("Port; 0 takes a free one. [default: 8765]")] = None,
    api_key: Annotated[
        str | None, _option("Key that every request needs; must be set to be reached from elsewhere.", "KEY", KEY)
    ] = None,
    data: Annotated[str | None, _option("Folder of journal, snapshots and uploads.", "FOLDER")] = None,
    max_streams: Annotated[
        int | None, _option("Streams at once; memory for them is taken at the start. [default: 8]")
    ] = None,
    allow_host: Annotated[
        list[str] | None, _option("Name under which browsers reach this server; may be repeated.", "NAME")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, _option("Other site whose pages may call this server; may be repeated.", "URL")
    ] = None,
    allow_private_urls: Annotated[
        bool,
        typer.Option(
            "--allow-private-urls", help="Let clients name addresses inside this network, such as its cameras."
        ),
    ] = False,
    keep_days: Annotated[float | None, _option("Days that the journal goes back. [default: 30]")] = None,
    keep_mb: Annotated[float | None, _option("Size of the journal, in MB. [default: 2048]")] = None,
    max_upload_mb: Annotated[float | None, _option("Largest file that may be uploaded, in MB. [default: 2048]")] = None,
    policy: Annotated[str | None, _option("What stays in the KV cache; else the model's own choice.", "NAME")] = None,
    device: Annotated[str | None, _option("cpu, cuda, cuda:1 ...; else the best one found.")] = None,
    dtype: Annotated[
        str | None, _option("float32, bfloat16, float16, or int8 on a CPU; else what suits the device.")
    ] = None,
    lora: Annotated[str | None, _option("Folder of a PEFT LoRA adapter to merge into the model.", "DIR")] = None,
    gate: Annotated[
        str, _option("Skip frames that bring nothing new, before the encoder: pixel, grt, curvestream ...", SPEC)
    ] = "",
    encoder_cache: Annotated[str, _option("Encode only what has changed of a picture: stc.", SPEC)] = "",
    compress: Annotated[
        str, _option("Tell only some tokens of a picture: stc, differential, evs, decay; joined by +.", SPEC)
    ] = "",
    loop_tokens: Annotated[
        int | None,
        _option("Forget the commentary once so many tokens of it only repeat themselves; 0 never. [default: 160]"),
    ] = None,
    kv_dtype: Annotated[str, _option("Hold keys and values of vision in bytes, all else exactly.", "int8|fp8")] = "",
    threads: Annotated[int | None, _option("CPU threads of the model.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the live page in a browser.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Serve a live page, an API and a searchable journal for many streams.

    Only this machine can reach it unless --host says otherwise, and then a key is needed. What it keeps lies in one
    folder; after a stop, or a crash, the streams go on where they were.
    """
    server = parts()
    given = {
        name: value
        for name, value in context.params.items()
        if name in server.ServeOptions.__dataclass_fields__ and value is not None
    }
    lists = {"allow_hosts": tuple(allow_host or ()), "allow_origins": tuple(allow_origin or ())}
    options = server.ServeOptions(**given, **lists)
    options.check()
    begin = [server.Spec(source=name) for name in sources or []]
    for spec in begin:
        _check(spec)

    def load() -> tuple[Any, Any]:
        from neverblink.cli.options import WatchOptions
        from neverblink.cli.watch import load_model

        loaded = load_model(WatchOptions(model=model, device=device, dtype=dtype, lora=lora, threads=threads))
        spared: dict[str, Any] = {"gate": gate, "encoder_cache": encoder_cache, "compress": compress}
        spared["kv_dtype"] = kv_dtype
        if loop_tokens is not None:
            spared["loop_tokens"] = loop_tokens
        return loaded, replace(loaded.options(policy), **spared)

    try:
        run(options, begin, load, open_page=open_page)
    except KeyboardInterrupt:
        return  # the way to end a server; uvicorn passes the signal on once everything is closed


def run(
    options: ServeOptions,
    begin: Sequence[Spec],
    load: Callable[[], tuple[Any, Any]],
    *,
    open_page: bool = False,
    any_port: bool = False,
    outputs: Sequence[Output] = (),
    on_over: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal comes. What can be refused at once is refused before the model is loaded.

    Args:
        load: gives the model and the options of its streams.
        any_port: take a free port when the wanted one is taken.
        outputs: where the events of the streams that are begun go too. on_over: called when one of those is over.
    """
    server = parts()
    _open_many_files()
    listening = _listen(options, or_any=any_port)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    address = f"http://{shown}:{port}/"
    model, stream_options = load()

    async def on_ready(hub: Any) -> None:
        hub.on_over = lambda session: on_over() if on_over is not None else None
        if outputs:
            for spec in begin:
                await hub.create(spec, outputs)
        print(f"{model.name} on {model.device}: live page at {address}", file=sys.stderr, flush=True)
        if options.api_key:
            print("a key is needed; the page asks for it", file=sys.stderr, flush=True)
        if open_page:
            import webbrowser

            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, address)

    app = server.make_app(model, options, stream_options, begin=() if outputs else begin, on_ready=on_ready)
    server.Serving(server.config_of(app)).run(sockets=[listening])


def _open_many_files() -> None:
    """A listener is a file; the usual limit of 1,024 would refuse the thousandth, and the journal's next one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(options: ServeOptions, *, or_any: bool = False) -> socket.socket:
    """The port, taken before the model is loaded."""
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
    except OSError as error:
        if or_any:
            return _listen(replace(options, port=0))
        raise ConfigError(
            f"cannot listen at {options.host} port {options.port}: {error}; take another --port"
        ) from error
    return listening


def _check(spec: Spec) -> None:
    """A wrong name ends here, and not after the model has loaded."""
    from neverblink.sources import SourceOptions, open_source

    if spec.source == "push":
        return
    with open_source(spec.source, SourceOptions()):
        pass


def parts() -> Any:
    """The server's parts, or one line that says what to install."""
    from types import SimpleNamespace

    try:
        import fastapi  # noqa: F401  looked for before our own modules, whose failure would be a fault of ours
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(str(error.name), "server", "the server") from error
    from neverblink.server.app import make_app
    from neverblink.server.options import ServeOptions
    from neverblink.server.run import Serving, config_of
    from neverblink.server.spec import Spec

    found = {"make_app": make_app, "ServeOptions": ServeOptions, "Spec": Spec}
    return SimpleNamespace(**found, Serving=Serving, config_of=config_of)
