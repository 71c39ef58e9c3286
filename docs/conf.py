"""How the documentation is built: MyST pages, the furo theme, nothing fetched from a network."""

from __future__ import annotations

import inspect
from typing import Any

import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from oneticket.cli import group
from oneticket.version import __version__

project = "oneticket"
author = "the oneticket authors"
copyright = "the oneticket authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"oneticket {__version__}"
html_static_path = ["_static"]
html_css_files = ["house.css"]


class CommandHelp(SphinxDirective):
    """``{command-help} ticket show``: what ``oneticket ticket show --help`` prints."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The help as a literal block."""
        command: click.Command = group
        context = click.Context(group, info_name="oneticket", terminal_width=84, **group.context_settings)
        for word in self.arguments[0].split():
            assert isinstance(command, click.Group)
            command = command.commands[word]
            context = click.Context(command, info_name=word, parent=context)
        if command.callback is not None:
            self.env.note_dependency(inspect.getsourcefile(inspect.unwrap(command.callback)) or "")
        text = command.get_help(context)
        return [nodes.literal_block(text, text, language="text")]


def readable(_app: Sphinx, _kind: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    """Let ``|W|`` in a docstring stand for a magnitude, which reStructuredText reads as a substitution."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _bars_kept(line) for line in lines]


def _bars_kept(line: str) -> str:
    """``line`` with bars outside literals escaped."""
    return "``".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(line.split("``")))


def setup(app: Sphinx) -> None:
    """Register the directive and the reading of docstrings."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", readable)
