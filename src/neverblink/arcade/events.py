"""What can happen in an arcade game, as values. Times are media seconds: emulator frame / 60."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Kind = str  # what a sport calls its events: "serve", "hit", "point", ...
Side = str  # a player's name in that sport: "left", "white", ...; "" for nobody
Score = tuple[int, int]  # in the order of the sport's sides


class Claim(NamedTuple):
    """An event without its time: what a line of commentary can say."""

    kind: Kind
    side: Side = ""  # who hit, scored or won; where a serve flies to; "" for a new game
    score: Score | None = None  # once it happened; None for serves and hits


@dataclass(frozen=True, slots=True)
class GameEvent:
    """A claim and when it came true."""

    time: float  # media seconds
    claim: Claim

    @property
    def kind(self) -> Kind:
        return self.claim.kind

    @property
    def side(self) -> Side:
        return self.claim.side

    @property
    def score(self) -> Score | None:
        return self.claim.score
