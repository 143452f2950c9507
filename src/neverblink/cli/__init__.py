"""The command line. Errors become one line here, and only here; nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from neverblink import __version__
from neverblink.cli import bench, data, doctor, drill, journal, models, serve, train, watch
from neverblink.errors import NeverblinkError

app = typer.Typer(
    name="neverblink",
    add_completion=False,
    rich_markup_mode=None,  # rich costs a third of the time that --help may take
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("watch")(watch.watch)
app.command("models")(models.models)
app.command("serve")(serve.serve)
app.command("logs")(journal.logs)
app.command("search")(journal.search)
app.command("export")(journal.export)
app.command("train")(train.train)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("drill")(drill.drill)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neverblink {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Watch video that never ends with a vision-language model: every second, what happens."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give the exit status: 0 done or stopped by the user, 2 refused, 1 a fault of ours."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a stream
    with _stopped_by_signals():
        try:
            result: Any = app(arguments, standalone_mode=False)
            return result if isinstance(result, int) else 0
        except NeverblinkError as error:
            return _fail(str(error), 2, error, arguments)
        except KeyboardInterrupt:
            return 0
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # what typer makes of Ctrl-C
                return 0
            usage = getattr(error, "format_message", None)  # typer's own errors: an unknown option ...
            if usage is not None:
                return _fail(f"{usage()} (see neverblink --help)", 2, error, arguments)
            hint = "" if "--debug" in arguments else "; run with --debug to see where"
            return _fail(f"unexpected {type(error).__name__}: {error}{hint}", 1, error, arguments)


def _fail(message: str, status: int, error: BaseException, arguments: Sequence[str]) -> int:
    from neverblink.outputs.base import plain
    from neverblink.sources.base import redact  # a URL in a message may hold a password

    if "--debug" in arguments:
        import traceback

        print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(f"neverblink: {redact(plain(message))}", file=sys.stderr)
    return status


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C both unwind the stack, which closes every file; an impatient second one ends at once."""
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise KeyboardInterrupt
        # Wrappers often pass a signal on that the terminal has sent us already; that is not impatience.
        if time.monotonic() - first[0] > 1:
            os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may take signals; here somebody else stops us
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            # Once stopped, nothing may turn the status 0 of an orderly end into a death by signal.
            signal.signal(number, signal.SIG_IGN if first else handler)
