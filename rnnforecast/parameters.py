"""Parameters of estimators, declared once as the fields of a class and inherited with their texts,
as those of fitted attributes are.

scikit-learn reads parameters from an explicit ``__init__`` that only assigns them: that is what a
keyword-only dataclass has. A subclass declares what it adds, or other defaults, and documents them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, dataclass_transform

from rnnforecast.exceptions import DataError

__all__ = ["as_text", "check_unchanged", "checked", "documented", "estimator", "refitted"]

Function = TypeVar("Function", bound=Callable[..., Any])

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*) : ", re.MULTILINE)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
def estimator(cls: Any) -> Any:
    """Class decorator: the annotated fields of ``cls`` and of its bases are its parameters.

    ``__init__`` takes each by its name, and the docstring lists all of them, and all fitted
    attributes, with the texts of the bases where the class has none of its own.
    """
    cls = dataclass(kw_only=True, eq=False, repr=False)(cls)
    summary, sections = _sections(cls.__doc__)
    parameters: dict[str, str] = {}
    attributes: dict[str, str] = {}
    checks: dict[str, Any] = {}
    for base in reversed(cls.__mro__[1:]):
        for known, more in zip((parameters, attributes), vars(base).get("_texts", ())):
            known.update(more)
        checks.update(vars(base).get("_checks", {}))
    own = _entries(sections.pop("Attributes", ""))
    parameters = {**parameters, **_entries(sections.pop("Parameters", ""))}
    cls._texts = parameters, {**own, **attributes, **own}
    checks |= {f.name: f.metadata["check"] for f in fields(cls) if "check" in f.metadata}
    cls._checks = checks
    listed = {
        "Parameters": [parameters[f.name] for f in fields(cls) if f.name in parameters],
        "Attributes": cls._texts[1].values(),
    }
    sections = {**{title: "\n".join(texts) for title, texts in listed.items()}, **sections}
    cls.__doc__ = _joined(summary, sections)
    return cls


def documented(texts: Mapping[str, str]) -> Callable[[Function], Function]:
    """Decorator of a function: its docstring gets the entries of the parameters, and the sections
    "Returns" and "Raises", that it leaves out.
    """

    def complete(function: Function) -> Function:
        summary, sections = _sections(function.__doc__)
        given = {**texts, **_entries(sections.get("Parameters", ""))}
        names = [name for name in inspect.signature(function).parameters if name != "cls"]
        listed = "\n".join(dict.fromkeys(given[name] for name in names))
        shared = {title: texts[title] for title in ("Returns", "Raises")}
        function.__doc__ = _joined(
            summary, {"Parameters": "", **shared, **sections} | {"Parameters": listed}
        )
        return function

    return complete


def checked(default: Any, check: Callable[..., None], **options: Any) -> Any:
    """A parameter whose values are looked at by ``check(owner, name, value, **options)``; classes
    below that give it another default keep the check.
    """
    return field(default=default, metadata={"check": partial(check, **options)})


def as_text(owner: Any, names: Iterable[str]) -> dict[str, str]:
    """Values of those parameters that an estimator has; lists, tuples and arrays look alike."""
    text = json.JSONEncoder(default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)).encode
    return {name: text(getattr(owner, name)) for name in names if hasattr(owner, name)}


def check_unchanged(owner: Any, before: dict[str, str]) -> None:
    """Raise DataError where a parameter is not what it was in ``fit``, as of :func:`as_text`."""
    for name, now in as_text(owner, before).items():
        if now != before[name]:
            raise DataError(
                f"{type(owner).__name__}: {name} was {before[name]} in fit, and further training "
                f"cannot change it: call fit anew, or set it back. Got {now}"
            )


def refitted(owner: Any, fitted: Mapping[str, Any]) -> None:
    """Give an estimator new fitted attributes in the place of all that it had."""
    for name in [n for n in vars(owner) if n.endswith("_") and not n.startswith("_")]:
        delattr(owner, name)
    vars(owner).update(fitted)


def _sections(text: str | None) -> tuple[str, dict[str, str]]:
    """What a docstring begins with, and its sections by title."""
    summary, *parts = _SECTION.split(inspect.cleandoc(text or ""))
    return summary, dict(zip(parts[::2], parts[1::2], strict=True))


def _joined(summary: str, sections: Mapping[str, str]) -> str:
    shown = [f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items() if body]
    return "\n\n".join(part.rstrip() for part in (summary, *shown)) + "\n"


def _entries(section: str) -> dict[str, str]:
    """Name and text of what a section describes; several names may share a text."""
    starts = [*(match.start() for match in _ENTRY.finditer(section)), len(section)]
    found = {}
    for start, end in pairwise(starts):
        names, _, rest = section[start:end].rstrip().partition(" : ")
        found.update({name: f"{name} : {rest}" for name in names.split(", ")})
    return found
