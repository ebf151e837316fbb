"""Find the user's cache folder, which holds files that cnnforge can make again."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder of measurements and compiled code; the folder may not exist yet."""
    return Path(platformdirs.user_cache_dir("cnnforge", appauthor=False))
