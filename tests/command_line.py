"""The command, called in a folder: what it prints, and the one line with which it refuses."""

import pytest

from experiments import cli
from lth_jax import commands


def calling(place, monkeypatch, capsys):
    """Call it with a command line: what was printed."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("LTH_DATA_DIR", raising=False)

    def command(*arguments):
        commands.main(arguments)
        return capsys.readouterr().out

    return command


def refusing(place, monkeypatch, capsys):
    """Call it with a command line that is wrong: its one line, once it is sure that nothing was written."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("LTH_DATA_DIR", raising=False)

    def command(*arguments):
        tree = lambda: sorted((str(p), p.stat().st_mtime_ns) for p in place.rglob("*") if "__" not in str(p))  # noqa: E731
        before = tree()
        with pytest.raises(SystemExit) as stop:
            commands.main(arguments)
        (line,) = capsys.readouterr().err.splitlines()
        assert (stop.value.code, line[:7], tree()) == (2, "error: ", before)
        return line

    return command


def experiment_refuses(name, arguments, folder, capsys):
    """An experiment's one line for arguments that are wrong, once it is sure that it has made no folder."""
    with pytest.raises(SystemExit) as stop:
        cli.main(cli.find(name), [*arguments, "--out", str(folder)])
    (line,) = capsys.readouterr().err.splitlines()
    assert (stop.value.code, folder.exists()) == (2, False)
    return line
