"""Commands in messages can be copied into a shell."""

from cnnforge.utils.commands import from_its_weights, resume_command


def test_a_command_continues_a_run() -> None:
    assert resume_command("runs/a") == "'cnnforge train --resume runs/a'"
    assert resume_command("runs/a", "--cache") == "'cnnforge train --resume runs/a --cache'"


def test_a_clause_names_the_weights() -> None:
    expected = "for a new run from its weights use --init-from runs/a"
    assert from_its_weights("runs/a") == expected


def test_a_path_with_a_blank_is_one_argument() -> None:
    assert "--init-from 'my run'" in from_its_weights("my run")
    assert "--resume 'my run' --cache" in resume_command("my run", "--cache")
