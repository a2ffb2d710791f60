"""Errors that a user can put right, and the range check that raises most of them.

Commands print a `UserError` as a short message. Any other exception is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any


class UserError(ValueError):
    """An argument, a file or a setting that the user can put right; the message says how."""


class UserTypeError(UserError, TypeError):
    """An argument of the wrong type."""


class DeviceError(UserError, RuntimeError):
    """The device that was asked for is not there."""


class DivergenceError(UserError, FloatingPointError):
    """A loss that is no longer finite."""


class VersionError(UserError):
    """A file that another version of convae wrote, and that this one cannot read."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package that is not installed."""


def check_range(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    over: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    integer: bool = False,
) -> None:
    """Refuse a value that is not a finite number within the given bounds.

    Parameters
    ----------
    name : str
        The argument's name, which begins the message.
    value : object
        What was given.
    at_least, over : float, optional
        Lower bound, inclusive or exclusive.
    at_most, below : float, optional
        Upper bound, inclusive or exclusive.
    integer : bool
        Whether it has to be an integer.

    Raises
    ------
    UserTypeError
        If it is not a number, or not an integer where one is needed.
    UserError
        If it is NaN, infinite or out of bounds.
    """
    bounds = {"at least": at_least, "over": over, "at most": at_most, "below": below}
    wanted = "an integer" if integer else "a number"
    limits = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
    if limits:
        wanted += f"{' of' if limits[0].startswith('at') else ''} {' and '.join(limits)}"
    if isinstance(value, bool) or not isinstance(value, Integral if integer else Real):
        raise UserTypeError(f"{name}: {value!r} is not {wanted}")
    number: Any = value if isinstance(value, Integral) else float(value)
    inside = (
        number >= (-inf if at_least is None else at_least)
        and number > (-inf if over is None else over)
        and number <= (inf if at_most is None else at_most)
        and number < (inf if below is None else below)
    )
    is_finite = isinstance(value, Integral) or isfinite(number)
    if not (is_finite and inside):  # every comparison with NaN is false
        raise UserError(f"{name}: {value!r} is out of range; expected {wanted}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is not one of the given names.

    Parameters
    ----------
    name : str
        The argument's name, which begins the message.
    value : object
        What was given.
    choices : iterable of str
        The names.

    Raises
    ------
    UserError
        If it is none of them; the message lists all.
    """
    names = list(choices)
    if not isinstance(value, str) or value not in names:
        raise UserError(f"{name}: {value!r} is unknown; expected one of {', '.join(names)}")


def require_keys(name: str, values: Any, keys: Collection[str]) -> None:
    """Refuse all but a mapping with exactly the given keys.

    Parameters
    ----------
    name : str
        What it is, which begins the message.
    values : object
        What was given.
    keys : collection of str
        The keys.

    Raises
    ------
    UserError
        If it is not a mapping, or keys are missing or unknown.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: {values!r} is not a mapping")
    if missing := set(keys) - values.keys():
        raise UserError(f"{name}: {', '.join(sorted(missing))} missing")
    if unknown := values.keys() - set(keys):
        raise UserError(f"{name}: {', '.join(map(str, unknown))} unknown")


def counted(count: int, noun: str) -> str:
    """Put a number before a noun, in the singular or the plural.

    Parameters
    ----------
    count : int
        How many.
    noun : str
        In the singular; its plural ends in s.

    Returns
    -------
    str
        Such as "1 image" and "1,200 images".
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Put a prefix before the messages of user errors raised in a ``with`` block.

    Parameters
    ----------
    prefix : str
        Where the argument stands, such as ``"layers.0."``.

    Raises
    ------
    UserError
        The same error with the longer message.
    """
    try:
        yield
    except UserError as error:
        raise type(error)(f"{prefix}{error}") from None
