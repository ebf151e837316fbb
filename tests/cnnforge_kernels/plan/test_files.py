"""Plans survive their file, and each wrong file is refused with its reason."""

import json

import numpy as np
import pytest
from plan_steps import Chain, images

from cnnforge_kernels.plan import PlanError, Program, Step, interpret, read, write


@pytest.fixture
def program():
    chain = Chain().affine().convolution(padding=[[1, 0], [2, 1]], activation={"name": "relu6"})
    convolved = chain.last
    chain.add("channels", arrays={"index": np.array([1, 0], np.int64)})
    chain.add("global_average_pool", keepdims=False).dense()
    return chain.program({"maps": convolved, "classes": [chain.last]})


def test_file(program, tmp_path):
    write(tmp_path / "plan.npz", program)
    found = read(tmp_path / "plan.npz")
    assert found.image_shape == (9, 8, 3)
    x = images(program)
    expected, result = interpret(program, x), interpret(found, x)
    assert list(result) == ["maps", "classes"]
    np.testing.assert_array_equal(result["maps"], expected["maps"])
    np.testing.assert_array_equal(result["classes"][0], expected["classes"][0])
    assert [path.name for path in tmp_path.iterdir()] == ["plan.npz"]


def test_shared_weights_are_stored_once(tmp_path):
    chain = Chain().convolution(3, padding=[[1, 1], [1, 1]])
    arrays = chain.steps[-1].arrays
    chain.add("convolution", arrays=arrays)
    write(tmp_path / "plan.npz", chain.program())
    with np.load(tmp_path / "plan.npz") as file:
        assert sorted(file.files) == ["a0", "a1", "program", "sha256"]


def test_an_earlier_file_stays_if_writing_fails(program, tmp_path, monkeypatch):
    path = tmp_path / "plan.npz"
    write(path, program)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="No space left"):
        write(path, program)
    assert path.read_bytes() == before
    assert [it.name for it in tmp_path.iterdir()] == ["plan.npz"]


def test_permissions_are_the_usual(program, tmp_path):
    write(tmp_path / "plan.npz", program)
    (tmp_path / "other").write_text("")
    assert (tmp_path / "plan.npz").stat().st_mode == (tmp_path / "other").stat().st_mode


def changed(path, **entries):
    """Write a file with other entries."""
    with np.load(path) as file:
        content = {name: file[name] for name in file.files}
    np.savez(path, **{**content, **entries})


def header(path, **entries):
    with np.load(path) as file:
        return np.array(json.dumps({**json.loads(str(file["program"])), **entries}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "an empty file": (lambda path: path.write_bytes(b""), "damaged"),
    "a text": (lambda path: path.write_text("hello"), "not an inference plan"),
    "a cut file": (cut, "damaged"),
    "a flipped bit": (flip, "damaged"),
    "another archive": (lambda path: np.savez(path, x=np.ones(3)), "not an inference plan"),
    "one array": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{"), "damaged"),
    "a pickle": (
        lambda path: changed(path, program=np.array([{"a": 1}], object)),
        "damaged|not an inference plan",
    ),
    "another header": (
        lambda path: changed(path, program=np.array('{"name": "other"}')),
        "not an inference plan",
    ),
    "no JSON": (lambda path: changed(path, program=np.array("{")), "not an inference plan"),
    "a newer format": (
        lambda path: changed(path, program=header(path, format=2)),
        "it has format 2, and this version of cnnforge reads 1",
    ),
    "no format": (
        lambda path: changed(path, program=header(path, format="x")),
        "no valid format number: 'x'",
    ),
    "other weights": (lambda path: changed(path, a2=np.ones((2, 2), "f4")), "checksum"),
    "a weight more": (lambda path: changed(path, a99=np.ones(2)), "checksum"),
    "other steps": (lambda path: changed(path, program=header(path, steps=[])), "checksum"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_file(name, program, tmp_path):
    path = tmp_path / "plan.npz"
    write(path, program)
    damage, reason = DAMAGES[name]
    damage(path)
    with pytest.raises(PlanError, match=reason) as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "plan.npz")


def test_steps_that_do_not_fit_are_refused_when_read(program, tmp_path, monkeypatch):
    """A file with a right checksum cannot make a kernel read beyond its arrays."""
    path = tmp_path / "plan.npz"
    wrong = Step("dense", ("image",), "y", {}, {"weights": np.ones((5, 2), "f4")})
    monkeypatch.setattr(Program, "__post_init__", lambda self: None)
    write(path, Program((program.steps[0], wrong), "y"))
    monkeypatch.undo()
    with pytest.raises(PlanError, match="step 'y' of kind dense is not possible"):
        read(path)
