"""A command line from a frozen dataclass: every field is a flag, and a key of a TOML file."""

import argparse
import dataclasses
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lth_jax.errors import InputError, fail, require
from lth_jax.runs.config import check_printable, flag


def parse_seeds(text: str) -> tuple[int, ...]:
    """``42-52`` or ``42,43,50`` or both, as the seeds in that order.

    Raises:
      InputError: not whole numbers, a range that runs backwards, or a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if len(part) > 40 or not (first.isdecimal() and (last.isdecimal() or part.strip() == first)):
            raise InputError(f"--seeds {text}: expected whole numbers as 42-52 or 42,43,50")
        low, high = int(first), int(last or first)
        if high < low:
            raise InputError(f"--seeds {text}: the range {part.strip()} runs backwards; write {high}-{low}")
        if len(seeds) + high - low >= 100_000 or high >= 2**31:
            raise InputError(f"--seeds {text}: at most 100,000 seeds, each below 2147483648")
        seeds.extend(range(low, high + 1))
    if len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text}: a seed is named twice")
    return tuple(seeds)


def converter(kind: Any, name: str) -> Any:
    """A function from a flag's text to the field's type; its errors are one clear line."""
    origin, entries = typing.get_origin(kind), typing.get_args(kind)

    def convert(text: str) -> Any:
        if name == "seeds":
            return parse_seeds(text)
        if kind is bool:
            if text not in ("true", "false"):
                raise InputError(f"{flag(name)} {text}: expected true or false")
            return text == "true"
        if origin is tuple:
            inner = converter(entries[0], name)
            parts = [part.strip() for part in text.split(",")] if text.strip() else []
            require(all(parts), f"{flag(name)} {text}: an entry is empty")
            return tuple(map(inner, parts))
        try:
            return kind(text)
        except ValueError:
            raise InputError(f"{flag(name)} {text[:80]}: expected {kind.__name__}") from None

    return convert


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, which names a flag once, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        fail(re.sub(r"^argument (--[\w-]+): (?=\1 )", "", message))


def add_flags(
    parser: argparse._ActionsContainer, config: type, skip: Sequence[str] = (), defaults: bool = False
) -> None:
    """A flag for every field of a dataclass, its default left to whoever builds the configuration.

    Args:
      parser: gets the flags.
      config: the dataclass.
      skip: fields that are no flags here.
      defaults: show the dataclass's own defaults in the help.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        choices = field.metadata.get("choices")
        text = field.metadata.get("help", "") + (f" ({', '.join(choices)})" if choices else "")
        if defaults and field.default not in ("", ()):
            text += f" [{_as_text(field.default)}]"
        alone: dict[str, Any] = {"nargs": "?", "const": True} if hints[field.name] is bool else {}
        if field.metadata.get("repeated"):
            alone = {"action": _Extend}
        parser.add_argument(
            flag(field.name),
            **alone,
            help=text.replace("%", "%%"),
            default=argparse.SUPPRESS,
            type=_guarded(converter(hints[field.name], field.name)),
            metavar=field.name.upper(),
        )


class _Extend(argparse.Action):
    """A flag that may be given several times: its entries are those of all of them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


def _guarded(convert: Any) -> Any:
    """argparse replaces a ValueError's text by its own; ArgumentTypeError keeps ours."""

    def guarded(text: str) -> Any:
        try:
            return convert(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return guarded


def from_toml(path: Path, *configs: type) -> dict[str, Any]:
    """Fields of some dataclasses from a TOML file, each value read as its flag's text would be.

    Args:
      path: a flat table of fields, named as in ``config.json`` or with hyphens; a tuple's entries as a list,
        or as a table of ``name = value``.
      *configs: the dataclasses.

    Raises:
      InputError: the file cannot be read, has a key that is no field, or a value that its flag would refuse.
    """
    hints = {name: kind for config in configs for name, kind in typing.get_type_hints(config).items()}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path}: is no TOML: {str(error)[:200]}") from None
    given = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise InputError(f"--config {path}: unknown key {key!r}; expected some of {', '.join(hints)}")
        require(name not in given, f"--config {path}: {key} is named twice")
        try:
            text = _as_text(value)
            check_printable([text])
            given[name] = converter(hints[name], name)(text)
        except InputError as error:
            raise InputError(f"--config {path}: {error}") from None
        except ValueError as error:  # a number of too many digits to be written
            raise InputError(f"--config {path}: {key}: {str(error)[:200]}") from None
    return given


def _as_text(value: Any) -> str:
    """A value as its flag is given it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={_as_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ",".join(_as_text(entry) for entry in value)
    return str(value)
