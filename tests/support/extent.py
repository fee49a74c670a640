"""How much of the large grids runs: the cells that tell most, or all of them with `EXACT=whole`."""

import os

IS_WHOLE = os.environ.get("EXACT") == "whole"
