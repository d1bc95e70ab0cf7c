"""How the documentation is built: ``make docs``, strictly, into ``runs/docs``."""

import pathlib
import sys

import jaxnet

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


def setup(sphinx):
    from docs.figures import draw

    draw(HERE / "figures")


project, author = "jaxnet", "the jaxnet authors"
version = release = jaxnet.__version__
html_show_copyright = False
html_use_index = False  # the search finds names as well
html_title = f"jaxnet {version}"
html_theme = "furo"
html_static_path, html_css_files = ["static"], ["wide.css"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "api_pages"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Attributes", "params_style")]
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# What isn't ours, or private, has no page here to link to.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!jaxnet).*|.*\._.*")]
