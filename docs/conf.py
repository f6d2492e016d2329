"""The documentation site: ``python -m sphinx -W --keep-going -b html docs FOLDER``, without a network."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

project = "landscape"
author = "the authors of landscape"
copyright = author
version = release = metadata.version("flatminima")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "site_parts"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
default_role = "literal"  # docstrings write `name`, as the comments do
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # signatures name types of torch, which is another site

smartquotes = False  # two hyphens begin a flag

html_theme = "furo"
html_title = "landscape"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Tutorials are executed: what they print and draw is what this version gives. Each takes seconds.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["COLUMNS"] = "86"  # of what commands print
os.environ["NO_COLOR"] = "1"
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
