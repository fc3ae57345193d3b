"""The house: imports go down only, nothing heavy is loaded early, nothing global is touched."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rnnforecast

PACKAGE = Path(rnnforecast.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import its own unit and the units of lower floors.
FLOORS = [
    {"exceptions"},
    {"_validation", "parameters"},
    {"data", "nn", "datasets"},
    {"metrics", "transformers"},
    {"outputs"},
    {"training"},
    {"forecasters", "sequences"},
    {"baselines"},  # on the base class of forecasters
    {"auto", "plotting"},  # tries both
    {"model_selection", "inspection", "persistence", "export", "_versions"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {unit: floor for floor, units in enumerate(FLOORS) for unit in units}

# Imported inside the function that needs them, or not at all.
LATE = {"statsmodels", "matplotlib", "statsforecast", "polars", "pyarrow", "typer", "tqdm"}
NEVER = {"lightning", "pytorch_lightning", "ray", "optuna", "numba", "dask"}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def unit_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree, at_import_time=False):
    """(module, names) of every import; with ``at_import_time`` those that run on import."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if at_import_time and isinstance(
                child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            ):
                continue
            if (
                at_import_time
                and isinstance(child, ast.If)
                and "TYPE_CHECKING" in ast.dump(child.test)
            ):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, []
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports are absolute"
                yield child.module, [alias.name for alias in child.names]
            yield from walk(child)

    return list(walk(tree))


@pytest.fixture(scope="module", params=MODULES, ids=name_of)
def module(request):
    return request.param, ast.parse(request.param.read_text(encoding="utf-8"))


def test_imports_go_down_only(module):
    path, tree = module
    unit = unit_of(path)
    if unit == "__init__":
        return
    assert unit in FLOOR_OF, f"{unit} has no floor: give it one in FLOORS"
    for imported, names in imports(tree):
        if imported.split(".")[0] != "rnnforecast":
            continue
        parts = imported.split(".")
        if len(parts) == 1:  # public names, loaded on use: only from the top floor
            assert unit == "cli", f"{name_of(path)} imports {names} from the package"
            continue
        other = parts[1]
        assert other == unit or FLOOR_OF[other] < FLOOR_OF[unit], (
            f"{name_of(path)} (floor {FLOOR_OF[unit]}) imports {imported} (floor {FLOOR_OF[other]})"
        )


def test_no_package_imports_the_private_modules_of_another(module):
    path, tree = module
    for imported, names in imports(tree):
        parts = imported.split(".")
        if parts[0] != "rnnforecast" or parts[1:2] in (["_validation"], ["_versions"], []):
            continue
        private = [name for name in [*parts[1:], *names] if name.startswith("_")]
        assert not private or parts[1] == unit_of(path), f"{name_of(path)} imports {private}"


def test_data_and_metrics_know_no_network_and_networks_know_no_frame(module):
    path, tree = module
    forbidden = {
        "data": ("torch.nn",),
        "metrics": ("torch.nn",),
        "nn": ("pandas", "polars", "narwhals", "sklearn"),
    }.get(unit_of(path), ())
    for imported, names in imports(tree):
        for full in (imported, *(f"{imported}.{name}" for name in names)):
            for package in forbidden:
                assert not f"{full}.".startswith(f"{package}."), f"{name_of(path)} imports {full}"


def test_heavy_packages_are_imported_late_or_not_at_all(module):
    path, tree = module
    for imported, _ in imports(tree, at_import_time=True):
        assert imported.split(".")[0] not in LATE, f"{name_of(path)} imports {imported} on import"
    for imported, _ in imports(tree):
        assert imported.split(".")[0] not in NEVER, f"{name_of(path)} imports {imported}"


def test_what_is_imported_is_declared(module):
    path, tree = module
    project = PACKAGE.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("no pyproject.toml beside the package")
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    groups = [declared["dependencies"], *declared["optional-dependencies"].values()]
    wanted = [entry for group in groups for entry in group]
    names = {re.split(r"[<>=!~\[; ]", entry)[0].lower() for entry in wanted}
    names = {{"scikit-learn": "sklearn"}.get(name, name) for name in names}
    for imported, _ in imports(tree):
        top = imported.split(".")[0]
        assert top in names | {"rnnforecast"} | set(sys.stdlib_module_names), (
            f"{name_of(path)} imports {top}, which pyproject.toml does not name"
        )


# Calls that would act on more than the object they are made for.
GLOBAL = {
    ("torch", "manual_seed"),
    ("torch", "set_num_threads"),
    ("torch", "set_default_dtype"),
    ("torch", "use_deterministic_algorithms"),
    ("torch", "load"),
    ("random", "seed"),
    ("warnings", "filterwarnings"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("joblib", "load"),
}


def test_nothing_global_is_seeded_set_or_unpickled(module):
    path, tree = module
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        where = f"{name_of(path)}:{node.lineno}"
        if isinstance(function, ast.Name):
            assert function.id not in {"print", "eval", "exec"}, where
        if isinstance(function, ast.Attribute):
            owner = function.value
            owner = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
            if (owner, function.attr) == ("torch", "set_num_threads"):
                # a context manager that restores them, and the only one
                assert path.name == "threads.py", where
                continue
            assert (owner, function.attr) not in GLOBAL, where


def test_modules_are_short(module):
    path, _ = module
    n = len(path.read_text(encoding="utf-8").splitlines())
    assert n <= 450, f"{name_of(path)} has {n} lines: split it"


def run(code):
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(shown.stdout)


def test_importing_the_package_loads_next_to_nothing():
    loaded = run("import json, sys, rnnforecast; print(json.dumps(sorted(sys.modules)))")
    tops = {name.split(".")[0] for name in loaded}
    heavy = {"torch", "pandas", "sklearn", "scipy", "numpy", "click", "safetensors"}
    assert not tops & (LATE | NEVER | heavy)


def test_a_forecaster_costs_no_more_than_torch_pandas_and_sklearn():
    loaded = run(
        "import json, sys, torch, pandas, sklearn.base, sklearn.utils.validation\n"
        "before = set(sys.modules)\n"
        "from rnnforecast import DeepLSTMForecaster, NaiveForecaster, SlidingWindows, compare\n"
        "from rnnforecast import PanelTimeSeriesSplit, metrics, datasets\n"
        "DeepLSTMForecaster()\n"
        "from rnnforecast.nn import library as _library\n"
        "assert _library._loaded is None\n"  # the compiled kernels come with their first use
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    tops = {name.split(".")[0] for name in loaded}
    assert not tops & (LATE | NEVER)
    # no further parts of torch (its compiler alone takes seconds), nor what they bring
    assert not [name for name in loaded if name.startswith(("torch.", "sympy", "mpmath"))]
    assert "rnnforecast" in tops


def test_every_public_name_is_there_and_listed():
    for name in rnnforecast.__all__:
        assert getattr(rnnforecast, name) is not None
    assert set(dir(rnnforecast)) == set(rnnforecast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rnnforecast.nothing  # noqa: B018
    for name in ("AutoARIMAForecaster", "DeepLSTMForecaster"):
        value = getattr(rnnforecast, name)
        assert value.__name__ == name
