"""Configuration: a frozen dataclass says what one experiment is, and every field of it is a flag.

``option`` gives a field its default, help and choices; :func:`parse` builds the command line from the
fields; :class:`InputError` is what wrong input raises everywhere, one line that names the offending thing.
"""

import argparse
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Config = TypeVar("Config")


class InputError(ValueError):
    """Wrong input, in one line: what was expected, what came, what to do. The command line exits with 2."""


class StorageError(RuntimeError):
    """A file could not be written: what is on the disk already is whole. The command line exits with 1."""


def storage_error(path: Path, error: BaseException) -> StorageError:
    """What kept a file from being written, in one line, whichever library met it."""
    reason = getattr(error, "strerror", None)
    if reason is None:  # HDF5 and TensorStore quote the system, or say only that they failed
        known = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
        reason = next((text for text in known if text in str(error)), " ".join(str(error).split())[:200])
    return StorageError(f"{path} cannot be written: {reason}; what was saved before it is whole")


def option(default: Any, help: str, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field that is also a flag.

    Args:
      default: its value when neither preset nor flag gives one.
      help: one line for ``--help``, with the unit.
      choices: the only values allowed (of each entry, for a tuple).
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


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
        if high - low >= 100_000 or high >= 2**31:
            raise InputError(f"--seeds {text}: at most 100,000 seeds, each below 2147483648")
        seeds.extend(range(low, high + 1))
    if len(set(seeds)) != len(seeds):
        raise InputError(f"--seeds {text}: a seed is named twice")
    return tuple(seeds)


def require(condition: bool, message: str) -> None:
    """Raise :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def check_choices(config: Any) -> None:
    """Check every field that has choices, and that every number is finite."""
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), field.metadata.get("choices")
        for entry in value if isinstance(value, tuple) else (value,):
            if choices and entry not in choices:
                expected = ", ".join(choices)
                raise InputError(f"{flag(field.name)} {entry}: unknown; expected one of {expected}")
            if isinstance(entry, float) and not math.isfinite(entry):
                raise InputError(f"{flag(field.name)} {entry}: not a finite number")


def check_distinct(config: Any, *names: str) -> None:
    """Check that lists have an entry, and each only once."""
    for name in names:
        values = getattr(config, name)
        require(len(values) > 0, f"{flag(name)}: name at least one")
        text = ",".join(map(str, values))
        require(len(set(values)) == len(values), f"{flag(name)} {text}: one is named twice")


def check_limits(config: Any, limits: Mapping[str, tuple[int | float, int | float]]) -> None:
    """Check that numbers, and all entries of lists of them, lie between their least and their most."""
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        for entry in value if isinstance(value, tuple) else (value,):
            require(least <= entry <= most, f"{flag(name)} {entry}: expected {least:,g} to {most:,g}")


def check_printable(texts: Sequence[str]) -> None:
    """Refuse what a file's name, a log or a terminal would trip over."""
    for text in texts:
        require(text.isprintable(), f"{text!r}: holds characters that cannot be printed")


def flag(name: str) -> str:
    """A field's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def _converter(kind: Any, name: str) -> Any:
    """From a flag's text to the field's type; its errors become one clear line."""
    origin, entries = typing.get_origin(kind), typing.get_args(kind)

    def convert(text: str) -> Any:
        if name == "seeds":
            return parse_seeds(text)
        if kind is bool:
            if text not in ("true", "false"):
                raise InputError(f"{flag(name)} {text}: expected true or false")
            return text == "true"
        if origin is tuple:
            inner = _converter(entries[0], name)
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


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line of error and leave: with exit code 2 for wrong input, 1 for what else went wrong."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def warn(message: str) -> None:
    """Print one line that people should see, and go on."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


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
        alone = {"nargs": "?", "const": True} if hints[field.name] is bool else {}  # --flag is --flag true
        parser.add_argument(
            flag(field.name),
            **alone,
            help=text.replace("%", "%%"),
            default=argparse.SUPPRESS,
            type=_guarded(_converter(hints[field.name], field.name)),
            metavar=field.name.upper(),
        )


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
        content = tomllib.loads(path.read_text(encoding="utf-8"))
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
            given[name] = _converter(hints[name], name)(text)
        except InputError as error:
            raise InputError(f"--config {path}: {error}") from None
    return given


def _as_text(value: Any) -> str:
    """A value as its flag is given it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={entry}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ",".join(_as_text(entry) for entry in value)
    return str(value)


def build(
    config: type[Config], presets: Mapping[str, Mapping[str, Any]], preset: str, given: Mapping[str, Any]
) -> Config:
    """The configuration of a preset with some fields given on the command line.

    Raises:
      InputError: the preset does not exist, or a value is impossible.
    """
    if preset not in presets:
        raise InputError(f"--preset {preset}: unknown; expected one of {', '.join(presets)}")
    return config(**{**presets[preset], **given})


def to_json(config: Any) -> str:
    """A configuration as JSON, its fields in their order."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def differences(config: Any, written: Mapping[str, Any]) -> list[str]:
    """How a configuration differs from one read back from JSON: ``field: theirs, not ours`` for each."""
    ours = json.loads(to_json(config))
    return [
        f"{name}: {written.get(name, 'absent')} there, {ours.get(name, 'absent')} here"
        for name in sorted({*ours, *written})
        if ours.get(name) != written.get(name)
    ]


def digest(config: Any) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:8]
