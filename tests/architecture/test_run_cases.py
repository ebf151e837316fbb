"""`make cases` runs the scripts of a folder and tells which of them fail."""

from pathlib import Path

import pytest
import run_cases


def case(folder: Path, name: str, script: str, content: str) -> None:
    (folder / name).mkdir()
    (folder / name / script).write_text(content)


def test_it_runs_each_script_and_tells_which_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case(tmp_path, "01-good", "case.sh", "command -v python >/dev/null && exit 0\n")
    case(tmp_path, "02-bad", "case.py", "print('the reason')\nraise SystemExit(3)\n")
    case(tmp_path, "03-nothing", "notes.txt", "")
    assert run_cases.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if " s  " in line] == ["ok", "FAILED", "FAILED"]
    assert "    the reason" in lines
    assert lines[-1] == "1 of 3 cases are right"
    assert run_cases.main([str(tmp_path), "01"]) == 0


@pytest.mark.parametrize("arguments", [[], ["nowhere"]])
def test_without_a_case_it_says_what_it_needs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cases.main(arguments) == 2
    assert "make cases CASES=FOLDER" in capsys.readouterr().out
