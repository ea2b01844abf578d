"""Where compiled programs are kept; that they are found again is in ``test_memory``."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lth_jax.commands import execution


@pytest.fixture(autouse=True)
def settings():
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    execution.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "lth_jax" / "xla")
    assert (tmp_path / "lth_jax" / "xla").is_dir()


@pytest.mark.parametrize("named", ["", "not/absolute"])
def test_without_xdg_it_is_in_the_home(monkeypatch, tmp_path, named):
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path))
    execution.use_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".cache" / "lth_jax" / "xla")


def test_what_the_user_has_chosen_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    execution.use_cache()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    execution.use_cache()
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "lth_jax").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    execution.use_cache()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_program_half_written_by_another_process_is_compiled_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    execution.use_cache()
    compilation_cache.reset_cache()
    three = lambda: float(jax.jit(lambda x: jnp.sin(x) * 3 + 5)(jnp.float32(0)))  # noqa: E731
    assert three() == 5
    kept = [path for path in (tmp_path / "lth_jax" / "xla").iterdir() if path.name.endswith("-cache")]
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-9])
    jax.clear_caches()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        execution.use_cache()
        assert three() == 5
    compilation_cache.reset_cache()
