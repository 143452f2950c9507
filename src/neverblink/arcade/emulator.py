"""One Atari 2600 game as numbers and pictures: a thin wrapper over ale-py's ALEInterface.

ale-py is GPL-2.0-only and optional: it is imported here, inside the constructor, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neverblink.errors import MissingExtra, UnknownName

FRAMES_PER_SECOND = 60
HEIGHT, WIDTH = 210, 160  # pixels of the picture
PICTURE = 1 / 8  # seconds between the pictures that training and benchmarks take
NOOP, FIRE, UP, RIGHT, LEFT, DOWN = range(6)  # joystick actions, as the emulator numbers them


_WAYS = ((0, -1), (1, 0), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))  # in the emulator's order, from 2 up


def stick(dx: int, dy: int, fire: bool = False) -> int:
    """The action of a stick pushed along x (> 0 right) and y (> 0 down), with or without the button."""
    if not dx and not dy:
        return FIRE if fire else NOOP
    return 2 + _WAYS.index(((dx > 0) - (dx < 0), (dy > 0) - (dy < 0))) + (len(_WAYS) if fire else 0)


def frame_at(time: float) -> int:
    """The emulator frame that is on the screen at a media time in seconds."""
    return int(time * FRAMES_PER_SECOND + 1e-9)


class Emulator:
    """A running game: `step` advances one frame (1/60 s); ram and pixels show the frame reached."""

    def __init__(self, game: str, seed: int = 0):
        try:
            import ale_py
            from ale_py import roms
        except ImportError as error:
            raise MissingExtra("ale-py", "arcade", "an arcade game") from error
        if game not in (known := roms.get_all_rom_ids()):
            raise UnknownName(f"no arcade game {game!r}; known: {', '.join(sorted(known))}")
        self.game = game
        # The level is the library's own global, and its banner and "game loaded" lines go to stderr without this.
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale: Any = ale_py.ALEInterface()
        self._ale.setInt("random_seed", seed % 2**31)
        self._ale.setInt("frame_skip", 1)
        self._ale.setFloat("repeat_action_probability", 0.0)  # the same actions give the same game
        rom = roms.get_rom_path(game)
        assert rom is not None
        self._ale.loadROM(rom)
        self.reset()

    def reset(self) -> None:
        self._ale.reset_game()
        self._ram = self._ale.getRAM()  # [128] uint8, refilled in place by every step

    def step(self, action: int) -> int:
        """Advances one frame and returns the game's own reward. A finished game stands still until `reset`."""
        reward: int = self._ale.act(action)
        self._ale.getRAM(self._ram)
        return reward

    def poke(self, address: int, value: int) -> None:
        """Writes one byte of the console's memory, 0 <= address < 128."""
        self._ale.setRAM(address, value)
        self._ale.getRAM(self._ram)

    def save(self) -> object:
        """The whole console, to go back to with `restore`."""
        return self._ale.cloneState()

    def restore(self, snapshot: object) -> None:
        self._ale.restoreState(snapshot)
        self._ale.getRAM(self._ram)

    @property
    def over(self) -> bool:
        return bool(self._ale.game_over())

    @property
    def ram(self) -> np.ndarray:
        """[128] uint8: a view that the next step overwrites."""
        return self._ram

    @property
    def pixels(self) -> np.ndarray:
        """[210, 160, 3] uint8 RGB: a new array at every call."""
        picture: np.ndarray = self._ale.getScreenRGB()
        return picture
