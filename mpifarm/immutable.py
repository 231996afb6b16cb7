"""`immutable`: classes of immutable values that cost little to define and to make.

Rules of this file: it imports nothing of mpifarm.  A frozen dataclass compiles six
methods when it is defined, and sets each field by a call of its own when a value is
made.  Here ``__init__`` alone is compiled, and type checkers keep values immutable.
"""

from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def immutable(found: type[T]) -> type[T]:
    """Return the class with an ``__init__``, ``==``, hash and text of its fields.

    It is a dataclass with slots: `dataclasses.fields` and `replace` take it.
    """
    found.__eq__ = _are_equal  # type: ignore[method-assign, assignment]
    found.__hash__ = _hash_of  # type: ignore[method-assign]
    found.__repr__ = _text_of  # type: ignore[method-assign]
    found.__reduce__ = _parts_of  # type: ignore[method-assign]
    return dataclass(slots=True, eq=False, repr=False)(found)


def _fields_of(self: Any) -> tuple[object, ...]:
    return tuple(getattr(self, each) for each in self.__dataclass_fields__)


def _are_equal(self: object, other: object) -> object:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _fields_of(self) == _fields_of(other)


def _hash_of(self: object) -> int:
    return hash(_fields_of(self))


def _text_of(self: Any) -> str:
    fields = zip(self.__dataclass_fields__, _fields_of(self), strict=True)
    words = ", ".join(f"{name}={field!r}" for name, field in fields)
    return f"{self.__class__.__qualname__}({words})"


def _parts_of(self: object) -> tuple[type, tuple[object, ...]]:
    """Pickle the class and its fields alone: half the bytes of a dictionary."""
    return self.__class__, _fields_of(self)
