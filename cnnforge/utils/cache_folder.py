"""The user's folder for files that can be made again."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder, which may not exist yet; it also holds the compiled code of kernels."""
    return Path(platformdirs.user_cache_dir("cnnforge", appauthor=False))
