"""The user's folder for files that can be made again."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder, which need not exist; the kernels put their compiled code there too."""
    return Path(platformdirs.user_cache_dir("cnnforge", appauthor=False))
