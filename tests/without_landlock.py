"""dropmill on a kernel that answers Landlock's first call with the error in LANDLOCK_SAYS."""

from __future__ import annotations

import os

from dropmill.__main__ import main

from .test_sandbox import answer_landlock_with

if __name__ == "__main__":
    answer_landlock_with(int(os.environ["LANDLOCK_SAYS"]))
    main()
