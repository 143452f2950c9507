"""`neverblink models`: the families that can be watched with, and what each of them supports."""

from __future__ import annotations

import typer


def models() -> None:
    """List the model families: the `model_type` of a checkpoint's config.json, and what each supports.

    Every family has every KV policy, unless a line says which do not hold and why. A checkpoint of another family needs
    an adapter: docs/adapters.md tells how to write one.
    """
    from neverblink.models import ABSENT, families

    wide = max(map(len, (*families, *ABSENT)))
    for name in families:
        adapter = families[name]
        typer.echo(f"{name:<{wide}}  {adapter.about}")
        for policy, why in adapter.refused_policies.items():
            typer.echo(f"{'':<{wide}}  not with --policy {policy}: {why}")
    typer.echo("\nnot here:")
    for name, why in sorted(ABSENT.items()):
        typer.echo(f"{name:<{wide}}  {why}")
