"""`python -m alignbench.docs [FILE]`: write the reference page into FILE, or print it."""

import sys
from pathlib import Path

from alignbench.docs.reference import reference_page

if len(sys.argv) > 1:
    Path(sys.argv[1]).write_text(reference_page(), encoding="utf-8")
else:
    print(reference_page(), end="")
