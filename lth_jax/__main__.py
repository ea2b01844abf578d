"""``python -m lth_jax COMMAND …``: the command ``lth-jax``, where its script is not on the path."""

from lth_jax.commands import main

if __name__ == "__main__":
    main()
