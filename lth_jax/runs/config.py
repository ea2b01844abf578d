"""Configuration: a frozen dataclass says what one run is; its checks, its JSON and its digest."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lth_jax.errors import InputError, require

Config = TypeVar("Config")


def option(default: Any, help: str, choices: Sequence[str] | None = None, repeated: bool = False) -> Any:
    """A dataclass field that is also a flag.

    Args:
      default: its value when neither preset nor flag gives one.
      help: one line for ``--help``, with the unit.
      choices: the only values allowed (of each entry, for a tuple).
      repeated: the flag may be given several times, for a tuple whose entries are those of all.
    """
    metadata = {"help": help, "choices": choices, "repeated": repeated}
    return dataclasses.field(default=default, metadata=metadata)


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


def check_batches(
    config: Any, examples: int, batches: Sequence[str] = ("batch_size",), epochs: Sequence[str] = ()
) -> None:
    """Check fields against the number of training examples: batches are no larger, epochs can be counted."""
    for name in batches:
        value = getattr(config, name)
        require(value <= examples, f"{flag(name)} {value}: larger than the {examples} training examples")
    for name in epochs:
        most, value = 2**29 // examples, getattr(config, name)
        require(value <= most, f"{flag(name)} {value}: at most {most:,} of {examples} examples")


def check_printable(texts: Sequence[str]) -> None:
    """Refuse what a file's name, a log or a terminal would trip over."""
    for text in texts:
        require(text.isprintable(), f"{text!r}: holds characters that cannot be printed")


def flag(name: str) -> str:
    """A field's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


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
