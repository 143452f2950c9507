"""What a recurrent layer keeps of a stream: one state of fixed size, into which every token that was fed has gone.

It cannot evict. Taking back is possible only to a state that was kept, and keeping one costs little: a new state never
overwrites an old one in place.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import LinearAttentionLayer

State = tuple[torch.Tensor, torch.Tensor] | None  # of the convolution and of the recurrence; None: nothing was fed


class Recurrent(LinearAttentionLayer):
    """One recurrent layer of one stream."""

    def update_recurrent_state(self, recurrent_states: torch.Tensor, state_idx: int = 0, **_: Any) -> torch.Tensor:
        """Put the new state in the place of the old one, which stays as it is for whoever has marked it."""
        self.recurrent_states[state_idx] = recurrent_states
        self.is_recurrent_states_initialized[state_idx] = True
        return recurrent_states

    def mark(self) -> State:
        """Where it stands now."""
        if not self.has_previous_state[0]:
            return None
        conv, state = self.conv_states[0], self.recurrent_states[0]
        assert conv is not None and state is not None
        return conv.clone(), state  # stock code writes into the first in place

    def rewind(self, mark: State) -> None:
        """Go back to a mark, or begin anew."""
        self.__init__()  # type: ignore[misc]
        if mark is None:
            return
        conv, state = mark
        self.lazy_initialization(conv_states=conv)
        self.conv_states[0], self.recurrent_states[0] = conv.clone(), state
        self.has_previous_state[0] = self.is_recurrent_states_initialized[0] = True
