"""A worker is refused if its options or data are not those of the first worker."""

from pathlib import Path

import pytest

from cnnforge.data import Dataset
from cnnforge.errors import UsageError
from cnnforge.runs import RunDirectory
from cnnforge.training.run_metadata import check_data, check_option


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "model", "toy")


def test_a_worker_with_another_option_is_not_said_to_resume(run: RunDirectory) -> None:
    check_option(run, "seed", 0, 0, joins=True)
    with pytest.raises(UsageError) as caught:
        check_option(run, "seed", 0, 4, joins=True)
    message = "the first worker has seed = 0, not 4: start all workers with the same options"
    assert str(caught.value) == message
    with pytest.raises(UsageError, match="a resumed run keeps its configuration"):
        check_option(run, "seed", 0, 4)


def test_a_worker_with_other_data_is_not_said_to_resume(
    run: RunDirectory, dataset: Dataset
) -> None:
    check_data(run, dataset, dataset.fingerprint, joins=True)
    with pytest.raises(UsageError) as caught:
        check_data(run, dataset, "another", joins=True)
    message = f"the data {dataset.name} are not those of the first worker; start all workers"
    assert str(caught.value) == f"{message} with the same data"
    with pytest.raises(UsageError, match="a resumed run needs the same data"):
        check_data(run, dataset, "another", joins=False)
