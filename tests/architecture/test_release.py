"""The version, the citation and the lock file of a release agree."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in text


def test_the_lock_file_has_versions_only():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)


def test_the_lock_file_has_all_dependencies():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower().replace("_", "-")
    needed = [re.split(r"[<>=~!;\[ ]", each)[0] for each in PROJECT["dependencies"]]
    assert [name for name in needed if f"\n{name.lower()}==" not in text] == []
