"""Parameters of estimators, declared once as the fields of a class and inherited with their texts.

scikit-learn reads parameters from an explicit ``__init__`` that only assigns them: that is what a
keyword-only dataclass has. A subclass declares what it adds, or other defaults, and documents them.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, dataclass_transform

__all__ = ["estimator"]

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*) : ", re.MULTILINE)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(field,))
def estimator(cls: Any) -> Any:
    """Class decorator: the annotated fields of ``cls`` and of its bases are its parameters.

    ``__init__`` takes each by its name, and the docstring lists all of them, with the texts of the
    bases where the class has none of its own.
    """
    text = inspect.cleandoc(cls.__doc__ or "")
    cls = dataclass(kw_only=True, eq=False, repr=False)(cls)
    names = [each.name for each in fields(cls)]
    entries: dict[str, str] = {}
    for base in reversed(cls.__mro__[1:]):
        entries.update(getattr(base, "_parameter_texts", {}))
    entries.update(_entries(text, names))
    cls._parameter_texts = entries
    cls.__doc__ = _with_parameters(text, [entries[name] for name in names if name in entries])
    return cls


def _sections(text: str) -> list[tuple[str, str]]:
    """(title, body) of the parts of a numpydoc docstring; the summary has the title ''."""
    parts = _SECTION.split(text)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def _entries(text: str, names: list[str]) -> dict[str, str]:
    """Texts of the parameters that a docstring describes; several may share one."""
    body = dict(_sections(text)).get("Parameters", "")
    starts = [*(match.start() for match in _ENTRY.finditer(body)), len(body)]
    found = {}
    for start, end in pairwise(starts):
        entry = body[start:end].rstrip()
        own, _, rest = entry.partition(" : ")
        for name in own.split(", "):
            if name in names:
                found[name] = f"{name} : {rest}"
    return found


def _with_parameters(text: str, entries: list[str]) -> str:
    (_, summary), *rest = _sections(text)
    others = [
        f"{title}\n{'-' * len(title)}\n{body}" for title, body in rest if title != "Parameters"
    ]
    listed = "Parameters\n----------\n" + "\n".join(entries)
    return "\n\n".join(part.rstrip() for part in (summary, listed, *others)) + "\n"
