"""The README's Python blocks run, in order, and give what the text says."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    names: dict = {}
    for block in blocks:
        # epochs are cut: what is tested is that the lines work, not how good the forecast is
        exec(re.sub(r"max_epochs=\d+", "max_epochs=1", block), names)  # noqa: S102
    forecast = names["fc"].forecast(quantiles=[0.05, 0.5, 0.95])
    assert len(forecast) == 3 * 24
    assert isinstance(forecast.index, pd.MultiIndex)
    assert (np.diff(forecast.to_numpy(), axis=1) >= 0).all()
    assert set(names["search"].best_params_) == {"cell", "bidirectional"}
    assert set(names["leaderboard"].index) == {"lstm", "arima", "naive"}
    assert not list(tmp_path.iterdir())  # nothing was left on disk
