"""How Sphinx makes the site, see ``docs.site``."""

project = "lth_jax"
author = "The lth_jax developers"
root_doc = "docs/index"
exclude_patterns = ["README.md"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
viewcode_follow_imported_members = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say shapes; jaxtyping's types are longer than what they say
autodoc_default_options = {"members": True, "undoc-members": True, "ignore-module-all": True}

html_theme = "furo"
html_title = "lth_jax"
html_copy_source = False
html_show_copyright = False


def drop_aliases(app, what, name, obj, options, lines):
    """Take away what Python says of a NamedTuple's fields: ``Alias for field number 0``."""
    lines[:] = [line for line in lines if not line.startswith("Alias for field number ")]


def setup(app):
    app.connect("autodoc-process-docstring", drop_aliases)
