"""Keras exports a model with an op: a warning says that other programs cannot load it."""

import warnings

import keras
from halved_layer import Halved


def exported(model, folder, write=None):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (write or model.export)(str(folder), verbose=False)
    return [it for it in said if "cnnforge" in str(it.message)]


def two_ops():
    return keras.Sequential([keras.Input((4, 3, 2)), Halved(), Halved()])


def test_one_warning_for_each_export(tmp_path):
    model = two_ops()
    for name in ("first", "second"):
        (said,) = exported(model, tmp_path / name)
        text = str(said.message)
        assert text.startswith("the exported model contains the op 'halved' of the layer Halved")
        assert "export cnnforge.conversion.lower(model) instead" in text
        assert "cnnforge.load(RUN)" in text
        assert "\n" not in text
        # It points at the line that exports.
        assert said.filename == __file__


def test_an_archive(tmp_path):
    model = two_ops()
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [keras.InputSpec(shape=(None, 4, 3, 2), dtype="float32")]
    archive.add_endpoint("serve", fn=model.call, input_signature=signature)
    assert len(exported(model, tmp_path / "archive", archive.write_out)) == 1


def test_no_warning_without_an_op_or_without_an_export(tmp_path):
    stock = keras.Sequential([keras.Input((4, 3)), keras.layers.Dense(2)])
    assert exported(stock, tmp_path / "stock") == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_ops().predict(keras.ops.zeros((2, 4, 3, 2)), verbose=0)
