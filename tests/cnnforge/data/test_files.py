import os
import threading

import numpy as np
import pytest
from PIL import Image

from cnnforge.data import files
from cnnforge.data.files import ImageFiles, check_files, in_parallel
from cnnforge.data.images import UnreadableImage
from cnnforge.errors import DataError


@pytest.fixture(params=[1, 4])
def cores(request, monkeypatch):
    monkeypatch.setattr(files, "usable_processors", lambda: request.param)
    return request.param


@pytest.fixture
def paths(tmp_path):
    result = []
    for value in range(10):
        path = tmp_path / f"{value}.png"
        Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
        result.append(str(path))
    return result


def test_fetch_decodes_in_the_asked_order(paths, cores):
    samples = ImageFiles(paths, np.arange(10), (4, 5, 1))
    rows = np.random.default_rng(0).integers(0, 10, 200)
    images = samples.fetch(rows)
    assert images.shape == (200, 4, 5, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[:, 0, 0, 0], rows)
    assert samples.fetch(rows[:0]).shape == (0, 4, 5, 1)
    assert samples.labels.dtype == np.int32
    assert list(samples.names) == paths


def test_images_are_read_only_when_they_are_asked_for(paths):
    samples = ImageFiles(paths, np.arange(10), (4, 5, 3))
    for path in paths[1:]:
        os.remove(path)
    assert (samples.fetch(np.array([0])) == 0).all()


def test_fetch_names_a_file_that_has_vanished(paths, cores):
    samples = ImageFiles(paths, np.arange(10), (4, 5, 1))
    os.remove(paths[3])
    with pytest.raises(DataError, match=r"3\.png: no such file.*changed or moved after"):
        samples.fetch(np.arange(10))


def test_labels_and_paths_go_together():
    with pytest.raises(ValueError, match="1 files and 2 labels"):
        ImageFiles(["x"], np.array([0, 1]), (4, 5, 1))


def test_check_files_tells_good_from_bad_in_order(paths, cores):
    with open(paths[4], "wb"):
        pass
    results = check_files(paths)
    assert [isinstance(result, UnreadableImage) for result in results] == [
        row == 4 for row in range(10)
    ]
    assert results[4].reason == "empty file"
    assert results[5].size == (4, 5)


def test_in_parallel_uses_threads_and_raises_the_first_failure(cores):
    threads = set()
    barrier = threading.Barrier(2, timeout=10)

    def work(item):
        threads.add(threading.get_ident())
        if cores > 1 and item in (0, 99):
            barrier.wait()
        return item * 2

    assert in_parallel(work, range(100)) == [item * 2 for item in range(100)]
    assert len(threads) == 1 if cores == 1 else len(threads) > 1

    def fail(item):
        if item >= 30:
            raise KeyError(item)

    with pytest.raises(KeyError, match="30"):
        in_parallel(fail, range(100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(files, "usable_processors", lambda: 2)
    in_parallel(abs, range(10))
    child = os.fork()
    if child == 0:
        threading.Timer(20, os._exit, (3,)).start()
        os._exit(0 if in_parallel(abs, range(10)) == list(range(10)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
