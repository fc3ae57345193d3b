"""Parameters of estimators, declared once as the fields of a class and inherited with their texts,
as those of fitted attributes are.

scikit-learn reads parameters from an explicit ``__init__`` that only assigns them: that is what a
keyword-only dataclass has. A subclass declares what it adds, or other defaults, and documents them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Any, dataclass_transform

__all__ = ["checked", "estimator"]

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*) : ", re.MULTILINE)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
def estimator(cls: Any) -> Any:
    """Class decorator: the annotated fields of ``cls`` and of its bases are its parameters.

    ``__init__`` takes each by its name, and the docstring lists all of them, and all fitted
    attributes, with the texts of the bases where the class has none of its own.
    """
    cls = dataclass(kw_only=True, eq=False, repr=False)(cls)
    summary, *parts = _SECTION.split(inspect.cleandoc(cls.__doc__))
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
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
    shown = [f"{title}\n{'-' * len(title)}\n{body}" for title, body in sections.items() if body]
    cls.__doc__ = "\n\n".join(part.rstrip() for part in (summary, *shown)) + "\n"
    return cls


def checked(default: Any, check: Callable[..., None], **options: Any) -> Any:
    """A parameter whose values are looked at by ``check(owner, name, value, **options)``; classes
    below that give it another default keep the check.
    """
    return field(default=default, metadata={"check": partial(check, **options)})


def _entries(section: str) -> dict[str, str]:
    """Name and text of what a section describes; several names may share a text."""
    starts = [*(match.start() for match in _ENTRY.finditer(section)), len(section)]
    found = {}
    for start, end in pairwise(starts):
        names, _, rest = section[start:end].rstrip().partition(" : ")
        found.update({name: f"{name} : {rest}" for name in names.split(", ")})
    return found
