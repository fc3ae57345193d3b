"""Execute the example notebooks, short, and check what they find; check what is stored in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = (
    "direction_classification",
    "grid_search",
    "inside_a_network",
    "sentiment_of_texts",
    "stock_forecasting",
    "weather_forecasting",
)
BASELINES = {"last value", "ETS"}

PATHS = r"/(home|root|tmp|usr|work|Users|var)/|site-packages"
ADDRESS = r"\b0x[0-9a-f]{6,}"

# A last cell that hands the tables over: name -> JSON.
HAND_OVER = """
import json
print(json.dumps({{name: globals()[name].to_json(orient="split") for name in {names!r}}}))
"""


def read(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell put out: its streams and the richest form of each display."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append(output.name)
        elif output.output_type == "error":
            found.append("error")
        else:
            best = [k for k in ("image/png", "text/html", "text/plain") if k in output.data]
            found.append(best[0])
    return found


def frame(columns, index, data):
    """A table from its parts; labels of several levels become tuples."""
    labels = [[tuple(k) if isinstance(k, list) else k for k in axis] for axis in (index, columns)]
    return pd.DataFrame(data, index=labels[0], columns=labels[1])


@pytest.fixture
def execute(monkeypatch, tmp_path):
    """Run a notebook's cells anew, in an empty folder, and return it with the named tables."""
    monkeypatch.setenv("RNNFORECAST_QUICK", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # the suite sets MPLBACKEND=Agg, with which no picture would reach the notebook
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")

    def run(name, tables):
        notebook = read(name)
        for cell in code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
        notebook.cells.append(nbformat.v4.new_code_cell(HAND_OVER.format(names=tables)))
        work = tmp_path / "work"
        work.mkdir()
        place = {"metadata": {"path": str(work)}}
        client = nbclient.NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources=place
        )
        client.execute()
        assert list(work.iterdir()) == []  # nothing is written beside the notebook
        said = json.loads(notebook.cells.pop().outputs[0].text)
        found = {key: frame(**json.loads(text)) for key, text in said.items()}
        # every table and picture that is stored came out again
        for new, old in zip(code_cells(notebook), code_cells(read(name)), strict=True):
            assert kinds(new) == kinds(old), new.id
        return found

    return run


# -- what is stored --------------------------------------------------------------------------------


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert 15 <= len(notebook.cells) <= 34
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell_id) for cell_id in ids)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        found = kinds(cell)
        assert not {"error", "stderr"} & set(found), cell.id
        assert ("image/png" in found) == cell.id.endswith("-plot"), cell.id
        if "result" in cell.metadata.get("tags", []):
            assert found, cell.id
        assert set(cell.metadata) <= {"tags"}


@pytest.mark.notebook
@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_say_nothing_of_the_machine(name):
    notebook = read(name)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            output = {**output, "data": {**output.get("data", {}), "image/png": ""}}
            text = json.dumps(output)
            assert not re.search(PATHS, text), cell.id
            assert not re.search(ADDRESS, text), cell.id
            assert "Warning" not in text, cell.id
    source = "\n".join(cell.source for cell in notebook.cells)
    assert "filterwarnings" not in source


# -- what a run finds ------------------------------------------------------------------------------


@pytest.mark.notebook
@pytest.mark.slow
def test_stock_forecasting(execute):
    tables = execute(
        "stock_forecasting",
        ["price_board", "trap", "vol_board", "verdict", "coverage", "next_days"],
    )
    prices = tables["price_board"]
    assert {"DeepLSTM", "ARIMA(1,1,1)", *BASELINES} < set(prices.index)
    # nobody beats the last value by more than chance
    better = (prices["dm_statistic"] < 0) & (prices["dm_pvalue"] < 0.01)
    assert not better.any()
    # the trap: a fine score for the price, none for its change
    assert (tables["trap"]["R² of the price"] > 0.7).all()
    assert (tables["trap"]["R² of the change"].abs() < 0.2).all()

    volatility = tables["vol_board"]
    assert {"HAR", "LHAR", "DeepLSTM", "DeepGRU", *BASELINES} < set(volatility.index)
    assert volatility["MAE"].between(0.2, 1.0).all()
    assert volatility.loc["HAR", "MAE"] < volatility.loc["last value", "MAE"]
    assert set(tables["verdict"]["model"]) == {"DeepLSTM", "DeepGRU"}
    assert set(tables["verdict"]["is"]) <= {"better", "worse"}
    assert set(tables["coverage"].index) == set(volatility.index)
    # the first of January is no trading day in the calendar that was given
    assert tables["next_days"]["as seen"].iloc[0] == "Tue 01 Jan 2019"
    assert tables["next_days"]["freq=trading_day"].iloc[0] == "Wed 02 Jan 2019"


@pytest.mark.notebook
@pytest.mark.slow
def test_weather_forecasting(execute):
    tables = execute("weather_forecasting", ["leaderboard", "coverage", "missing", "week"])
    board = tables["leaderboard"]
    assert {"DeepGRU", "DeepGRU, quantiles", "DeepLSTM", "ARIMA + calendar", *BASELINES} < set(
        board.index
    )
    assert board["MAE, °F"].between(1, 12).all()
    assert board.loc["seasonal naive", "MAE, °F"] > board.loc["ETS", "MAE, °F"]
    coverage = tables["coverage"]
    assert set(coverage.index) == set(board.index)
    assert (coverage["in 50 %"] < coverage["in 90 %"]).all()
    assert (coverage["width of 90 %, °F"] > 2).all()
    assert (tables["missing"].to_numpy() > 0).any()
    # seven days of three stations, quantiles in order
    week = tables["week"].to_numpy(dtype=float)
    assert week.shape == (7 * 24 * 3, 3)
    assert (week[:, 0] <= week[:, 1]).all() and (week[:, 1] <= week[:, 2]).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_grid_search(execute):
    tables = execute("grid_search", ["grid_table", "halving_table", "panel_table", "final"])
    grid = tables["grid_table"]
    assert len(grid) == 8
    assert set(grid["cell"]) == {"lstm", "gru"}
    assert grid["MAE, °C"].is_monotonic_increasing
    assert grid["MAE, °C"].between(0.5, 10).all()
    rounds = tables["halving_table"]
    assert list(rounds["epochs"]) == [1, 3]
    assert list(rounds["candidates"]) == [6, 2]
    assert (tables["panel_table"]["interval score, °F"] > 0).all()
    final = tables["final"]
    assert {"GridSearchCV", "HalvingGridSearchCV", "untuned pipeline", *BASELINES} < set(
        final.index
    )
    assert final["MAE, °C"].between(0.5, 10).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_inside_a_network(execute):
    tables = execute("inside_a_network", ["board", "depth"])
    board = tables["board"]
    # one epoch decides how far the gradient of these reaches, not whether they learn
    assert (board.loc[["plain", "LSTM"], "verdict"] == "vanishing").all()
    assert (board.loc[["LSTM, forget gates open", "plain, with attention"], "left"] > 1e-3).all()
    depth = tables["depth"]
    assert depth.loc["layer 1", "residual"] > 10 * depth.loc["layer 1", "stacked"]


@pytest.mark.notebook
def test_the_remedies_of_the_stored_notebook():
    cells = {cell.id: cell for cell in read("inside_a_network").cells}
    table = cells["attention"].outputs[0].data["text/plain"]
    errors = dict(re.findall(r"^(\S.*?)  +(0\.\d+) ", table, re.M))
    solved = {name for name, error in errors.items() if float(error) < 0.3}
    assert solved == {"LSTM, open and orthogonal", "plain, with attention"}
    assert "layer 1: vanishing" in cells["plain"].outputs[0].text
    assert "layer 1: exploding" in cells["exploding"].outputs[0].text


@pytest.mark.notebook
def test_direction_classification(execute):
    tables = execute("direction_classification", ["board", "control", "leak"])
    models = ["base rate", "logistic regression", "vanilla RNN", "LSTM", "GRU"]
    for name in ("board", "control"):
        assert list(tables[name].index) == models
        assert tables[name]["accuracy"].between(0.4, 0.75).all()
        assert tables[name].loc["base rate", "ahead of base"] == 0
    # directions are nobody's, ranges are the regression's too
    direction, (ahead, error) = tables["board"], ["ahead of base", "± (s.e.) "]
    assert (direction[ahead] <= 3 * direction[error]).all()
    assert tables["control"].loc["logistic regression", ahead] > 0.05
    assert list(tables["leak"].index) == ["shuffled", "walking forward"]


@pytest.mark.notebook
@pytest.mark.slow
def test_sentiment_of_texts(execute):
    tables = execute("sentiment_of_texts", ["board", "twins", "share"])
    models = {"counts of words", "counts of 1 to 3 words", "vanilla RNN", "LSTM", "GRU"}
    assert models < set(tables["board"].index)
    assert tables["board"].drop(columns="± (s.e.) of all").stack().between(0.3, 1).all()
    # the same words: who counts them is wrong on one of each pair
    assert (tables["twins"].loc["counts of words"] == 0).all()
    assert tables["twins"].stack().between(0, 1).all()
    np.testing.assert_allclose(tables["share"].sum(), 1.0)


@pytest.mark.notebook
def test_the_stored_answers_are_those_of_the_text():
    cells = {cell.id: cell for cell in read("direction_classification").cells}
    numbers = {
        name: [
            [float(x) for x in re.findall(r"-?\d\.\d+", line)]
            for line in cells[name].outputs[0].data["text/plain"].splitlines()
            if re.match(r"[a-zA-Z].*\d\.\d", line)
        ]
        for name in ("board", "control", "leak")
    }
    assert "Nobody beats" in cells["board-text"].source
    assert all(-2 * row[3] < row[2] < 0 for row in numbers["board"][1:5])
    assert "more than ten standard errors" in cells["control-text"].source
    assert all(row[2] > 10 * row[3] for row in numbers["control"][1:5])
    (shuffled, always), (walked, always_then) = numbers["leak"]
    assert shuffled - always > 0.2 and walked < always_then

    cells = {cell.id: cell for cell in read("sentiment_of_texts").cells}
    assert "generated" in cells["title"].source
    board = cells["board"].outputs[0].data["text/plain"]
    found = {name: float(all_) for name, all_ in re.findall(r"^(\S.*?) {2,}(\d\.\d+)", board, re.M)}
    assert "96 percent, against 83" in cells["end"].source
    assert found["LSTM"] == pytest.approx(0.96, abs=0.005) == found["GRU"]
    assert found["counts of 1 to 3 words"] == pytest.approx(0.83, abs=0.005)
    assert found["counts of words"] == pytest.approx(0.57, abs=0.005)
    twins = cells["twins"].outputs[1].data["text/plain"]
    assert "right on every pair" in cells["twins-text"].source
    for name in ("LSTM", "GRU", "GRU with attention"):
        assert re.search(rf"^{name} +1.000 +1.00 +1.00$", twins, re.M)


@pytest.mark.notebook
def test_kfold_is_refused_in_the_stored_notebook():
    (cell,) = [cell for cell in read("grid_search").cells if cell.id == "kfold"]
    assert "use TimeSeriesSplit" in cell.outputs[0].text


@pytest.mark.notebook
def test_the_stored_verdict_is_that_of_the_text():
    cells = {cell.id: cell for cell in read("stock_forecasting").cells}
    assert "the networks do not beat HAR" in cells["verdict"].source
    table = cells["verdict-numbers"].outputs[0].data["text/plain"]
    clearly = re.findall(r"(last value|L?HAR|ETS|ARIMA\S*) +better .* (True|False)", table)
    assert len(clearly) == 12
    assert "only that over ARIMA(1,1,1) passes a test" in cells["verdict"].source
    assert {other for other, yes in clearly if yes == "True"} == {"last value", "ARIMA(1,1,1)"}
