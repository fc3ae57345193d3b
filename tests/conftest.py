"""What tests ask of the machine: they try it and skip with the reason, and never go by a name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

torch.set_warn_always(True)  # else only the first test that brings a warning about would fail


@pytest.fixture
def needs_bf16() -> Callable[[str], None]:
    """Skip unless torch's own ``"rnn"``, ``"lstm"`` or ``"gru"`` runs in bfloat16 here.

    On a processor with AVX2 and without AVX-512, oneDNN refuses the LSTM.
    """

    def ask(cell: str) -> None:
        layer = getattr(nn, cell.upper())(3, 4)
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                layer(torch.zeros(5, 2, 3))[0].sum().backward()
        except RuntimeError as error:
            reason = str(error).split(". ")[0]
            pytest.skip(f"torch has no bfloat16 {cell} on this processor: {reason}")

    return ask
