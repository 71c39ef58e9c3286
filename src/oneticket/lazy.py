"""`Context`: what a plug-in may look at, each of its fields computed when first asked for, and once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar, cast, overload

from oneticket.errors import InputError, unknown

T = TypeVar("T")


class Given(Generic[T]):
    """A field of a :class:`Context` that is computed when first asked for, once.

    The context is made with a function for the field, or without one. Whoever looks at the context reads an attribute.

    Parameters
    ----------
    thing : str
        What the field holds, in the words of the error that is raised when it was not given.
    seen_as : Callable, optional
        Makes of what the function gives what is looked at, such as a view that cannot be written to.
    """

    def __init__(self, thing: str, *, seen_as: Callable[[Any], T] | None = None) -> None:
        self._thing, self._seen_as = thing, seen_as

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._source = name, f"_{name}"

    @overload
    def __get__(self, context: None, owner: type) -> None: ...
    @overload
    def __get__(self, context: Context, owner: type) -> T: ...
    def __get__(self, context: Context | None, owner: type) -> T | None:
        if context is None:
            return None  # what a dataclass takes as the default of the field: not given
        known = vars(context)
        if self._name not in known:
            source = known[self._source]
            if source is None:
                raise InputError(
                    f"the {context.looker} looks at {self._thing}: not given",
                    expected=f"{type(context).__name__}({self._name}=…)",
                )
            known[self._name] = source() if self._seen_as is None else self._seen_as(source())
        return cast("T", known[self._name])

    def __set__(self, context: Context, source: Callable[[], T] | None) -> None:
        vars(context)[self._source] = source


@dataclass(frozen=True, eq=False, repr=False)
class Context:
    """What a plug-in may look at: values, and fields that are computed when first asked for.

    A subclass is a frozen dataclass. It declares each field as ``name: Given[Kind] = Given("what it is")`` and takes a
    function of no arguments for it, or None; ``looker`` says who looks at it. Fields are attributes, whatever they
    cost. One that nobody asks for is not computed. What is looked at is everybody's: copy it before changing it.

    Raises
    ------
    InputError
        When a field that was not given is asked for.

    Examples
    --------
    >>> @dataclass(frozen=True, eq=False, repr=False)
    ... class Kitchen(Context):
    ...     looker = "cook"
    ...     bread: Given[str] = Given("the bread")
    ...     soup: Given[str] = Given("the soup")
    >>> Kitchen(bread=lambda: "rye").bread
    'rye'
    >>> Kitchen(bread=lambda: "rye").soup
    Traceback (most recent call last):
    oneticket.errors.InputError: the cook looks at the soup: not given; expected Kitchen(soup=…)
    """

    looker: ClassVar[str] = "plug-in"

    def __getattr__(self, name: str) -> Any:
        # Only for names that are not there. An AttributeError, so that `hasattr` and copying work.
        raise AttributeError(str(unknown("field", name, self._fields(), where=type(self).__name__)))

    def _fields(self) -> list[str]:
        return [field.name for field in fields(self) if field.init]

    def has(self, field: str) -> bool:
        """Whether ``field`` was given, without computing it; InputError for a field that there is not."""
        if f"_{field}" not in vars(self):
            raise unknown("field", field, self._fields(), where=type(self).__name__)
        return vars(self).get(f"_{field}") is not None
