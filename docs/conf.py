"""How the documentation is built: ``make docs``, strictly, into ``runs/docs``."""

import jaxnet

project, author = "jaxnet", "the jaxnet authors"
version = release = jaxnet.__version__
html_title = f"jaxnet {version}"
html_theme = "furo"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_preserve_defaults = True
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries = False
