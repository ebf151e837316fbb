"""The site: `make docs` builds it from the Markdown files and the docstrings of this repository.

Sphinx reads the whole repository, so that the links of a Markdown file are the same on a code host
and on the site. Docstrings are in Google style with Markdown backticks, which `_to_rst` translates.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.domains.python import PyObject
from sphinx.util import logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

API = Path(__file__).parent / "api"

project = "cnnforge"
author = "the authors of cnnforge"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/api/*.md",
    "docs/course/*.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "plugins/README.md",
    "plugins/example/README.md",
    "cnnforge/**/README.md",
    "kernels/**/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "**/templates", "**/__pycache__"]

# The table of contents of the site; a folder stands for all pages in it.
CONTENTS = {
    "The course": [
        "docs/course/index",
        "docs/course/convolution",
        "docs/course/stride",
        "docs/course/detectors",
        "docs/course/relu",
        "docs/course/padding",
        "docs/course/pooling",
        "docs/course/flattening",
        "docs/course/full-connection",
        "docs/course/environment",
        "docs/course/detection",
        "docs/course/own-layer",
    ],
    "Use": [
        "docs/tutorial",
        "docs/detection",
        "docs/detection-data",
        "docs/compare-and-sweep",
        "docs/explain",
        "docs/troubleshooting",
        "docs/reliability",
        "docs/soak",
        "docs/test-slow",
        "docs/fuzzing",
        "docs/cluster",
        "docs/distributed",
        "docs/scaling",
        "docs/inference",
        "docs/serve",
        "docs/export",
        "docs/results",
    ],
    "Extend": [
        "docs/plugins",
        "docs/debugging-layers",
        "docs/fast-layers",
        "docs/publishing",
        "plugins/",
        "docs/adding-a-kernel",
        "docs/api/index",
    ],
    "Understand": [
        "docs/architecture",
        "docs/design",
        "docs/cuda",
        "docs/notes",
        "cnnforge/",
        "kernels/",
    ],
    "Take part": ["CONTRIBUTING", "SECURITY", "benchmarks/", "CHANGELOG"],
}

myst_heading_anchors = 3

default_role = "code"
add_module_names = False
python_maximum_signature_line_length = 80
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "special-members": "__call__"}
# Some classes describe their arguments in the constructor.
autoclass_content = "both"
# A data class has its attributes as members; `Attributes:` must not declare them a second time.
napoleon_use_ivar = True

html_theme = "furo"
html_title = "cnnforge"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "

# An annotation `NDArray[np.float32]`, as autodoc prints it.
ARRAY = re.compile(r"~?(?:numpy\.)?ndarray\[.*?, ~?(?:numpy\.)?dtype\[([~\w.]+)\]\]")

_log = logging.getLogger(__name__)


def public_names() -> dict[str, str]:
    """The public names, `cnnforge.data.Dataset`, by the names they have in their own module."""
    names: dict[str, str] = {}
    for page in sorted(API.glob("cnnforge*.md")):
        module = importlib.import_module(page.stem)
        for name in module.__all__:
            public = getattr(module, name)
            # Of an intrinsic of Numba autodoc reads the function.
            public = getattr(public, "_defn", public)
            # Autodoc does not find names that a module imports on demand.
            setattr(module, name, public)
            home = f"{page.stem}.{name}"
            if inspect.isclass(public) or inspect.isroutine(public):
                home = f"{public.__module__}.{public.__qualname__}"
            names.setdefault(home, f"{page.stem}.{name}")
    return names


def _unlink_folders(app: Any, page: str, source: list[str]) -> None:
    """Replace a link to a folder, which only a code host can show, with its text."""
    folder = Path(app.srcdir, page).parent

    def text(link: re.Match[str]) -> str:
        return link[1] if (folder / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", text, source[0])


def _add_contents(app: Any, page: str, source: list[str]) -> None:
    """Add the table of contents to the README, which is the first page."""
    if page != root_doc:
        return
    found = sorted(app.env.found_docs)
    for caption, entries in CONTENTS.items():
        lines = [f":caption: {caption}", ":hidden:", ""]
        for entry in entries:
            is_folder = entry.endswith("/")
            lines += [name for name in found if name.startswith(entry)] if is_folder else [entry]
        source[0] += "\n".join(["", "```{toctree}", *lines, "```", ""])


def _to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Translate the Markdown of a docstring: fenced blocks, code, and special characters."""
    translated: list[str] = []
    in_block = False
    for line in lines:
        fence = re.fullmatch(r"(\s*)```(\w*)", line)
        if fence:
            in_block = not in_block
            if in_block:
                translated += ["", f"{fence[1]}.. code-block:: {fence[2] or 'text'}"]
            translated.append("")
        elif in_block:
            translated.append(f"    {line}".rstrip())
        elif line.lstrip().startswith((">>> ", "... ")):
            translated.append(line)
        else:
            translated.append(_inline(line))
    lines[:] = translated


def _shorten(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    arguments: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write arrays as `NDArray[float32]`, as the source does; omit the compiler's argument."""

    def short(text: str | None) -> str | None:
        return text and re.sub(r"^\(typingctx: [^,)]*(, )?", "(", ARRAY.sub(r"NDArray[\1]", text))

    return short(arguments), short(returns)


def _inline(line: str) -> str:
    """Translate a line: `code` links to the name that it is, other code stays code."""
    # The star of a list item stays; other stars, bars and final underscores are text.
    item = re.match(r"\s*(\* )?", line)
    begin = item.end() if item else 0
    parts = re.split(r"(``[^`]+``|`[^`]+`)", line[begin:])
    for number, part in enumerate(parts):
        code = part.strip("`")
        if number % 2 == 0:
            parts[number] = re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", part)
            continue
        is_name = re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", code)
        parts[number] = f":py:obj:`{code}`" if is_name else f"``{code}``"
        # Markup must end before a space or a mark; an escaped space is invisible.
        if parts[number + 1][:1].isalnum():
            parts[number] += r"\ "
    return line[:begin] + "".join(parts)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples, whose own docstrings say nothing."""
    return True if (inspect.getdoc(obj) or "").startswith("Alias for field number") else None


def _resolve(app: Any, env: Any, node: Any, content: Any) -> nodes.Node | None:
    """Link a class that is named by its own module to its public name."""
    if node.get("refdomain") != "py":
        return None
    target = app.config.api_names.get(node["reftarget"])
    if target is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


def _check_names(app: Any, env: Any) -> None:
    """Warn about each public name without an entry."""
    entries = env.get_domain("py").objects
    for name in app.config.api_names.values():
        if name not in entries:
            _log.warning("the public name %s has no entry in docs/api", name)


def _finish(app: Any, error: Exception | None) -> None:
    """Let the first page be found under the name that servers look for."""
    if error is None and app.builder.name == "html":
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> None:
    """Connect the functions above."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.add_config_value("api_names", public_names(), "env", dict)
    app.connect("source-read", _unlink_folders)
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _to_rst, priority=400)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-skip-member", _skip)
    app.connect("missing-reference", _resolve)
    app.connect("env-check-consistency", _check_names)
    app.connect("build-finished", _finish)
