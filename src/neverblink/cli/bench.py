"""`neverblink bench`: the benchmarks, which print one JSON line a run."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure a model against a truth that is known.", no_args_is_help=True)


@app.command(
    "quality", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def quality(context: typer.Context) -> None:
    """Event F1, stated scores and silence on games that training never saw (see its own --help)."""
    from neverblink.bench import quality as bench

    raise typer.Exit(bench.main(context.args))


@app.command(
    "compare", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def compare(context: typer.Context) -> None:
    """Every policy, position mode and window on the same stream: a table and plots (see its own --help)."""
    from neverblink.bench import compare as bench

    raise typer.Exit(bench.main(context.args))


@app.command(
    "latency", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def latency(context: typer.Context) -> None:
    """What a second of video costs with every policy, with the machine's floor beside it (see its own --help)."""
    from neverblink.bench import latency as bench

    raise typer.Exit(bench.main(context.args))


@app.command(
    "economy", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def economy(context: typer.Context) -> None:
    """Gates, encoder caches and compressors at equal visual tokens: a table and a plot (see its own --help)."""
    from neverblink.bench import economy as bench

    raise typer.Exit(bench.main(context.args))
