"""Specs: what may be declared, and what loading one says."""

import collections
import dataclasses

import pytest

from cnnforge.errors import PluginError
from cnnforge.plugin import DatasetSpec, EngineSpec, LayerSpec, ModelSpec, Work

SPEC_TYPES = [LayerSpec, DatasetSpec, ModelSpec]


@pytest.mark.parametrize("spec_type", SPEC_TYPES)
def test_load_imports_the_target(spec_type):
    spec = spec_type(name="x", target="collections:OrderedDict", summary="a dictionary")
    assert spec.load() is collections.OrderedDict


def test_target_may_be_an_attribute_of_an_attribute():
    spec = ModelSpec(name="x", target="collections:OrderedDict.fromkeys", summary="")
    assert spec.load()("a") == {"a": None}


@pytest.mark.parametrize("name", ["", "Conv2D", "2d", "conv-2d", "conv 2d", "_x", "a/b", "é", 3])
@pytest.mark.parametrize("spec_type", SPEC_TYPES)
def test_bad_names(spec_type, name):
    with pytest.raises(ValueError, match="use lower_snake_case"):
        spec_type(name=name, target="a:b", summary="")


@pytest.mark.parametrize(
    "target", ["", "a", "a.b", ":b", "a:", "a:b:c", "a b:c", ".a:b", "a.:b", "a/b:c", None, dict]
)
def test_bad_targets(target):
    with pytest.raises(ValueError, match="target of model 'x' must look like"):
        ModelSpec(name="x", target=target, summary="")


@pytest.mark.parametrize("summary", ["two\nlines", None])
def test_bad_summaries(summary):
    with pytest.raises(ValueError, match="must be one line of text"):
        ModelSpec(name="x", target="a:b", summary=summary)


def test_bad_reference():
    with pytest.raises(ValueError, match="reference of layer 'x' must look like"):
        LayerSpec(name="x", target="a:b", summary="", reference="keras.layers.Conv2D")


def test_layer_is_checked_like_any_spec():
    with pytest.raises(ValueError, match="target of layer 'x'"):
        LayerSpec(name="x", target="a", summary="", reference="a:b")


def test_reference():
    spec = LayerSpec(name="x", target="a:b", summary="", reference="collections:Counter")
    assert spec.load_reference() is collections.Counter
    assert LayerSpec(name="x", target="a:b", summary="").load_reference() is None


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("no_such_module:Thing", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("collections:NoSuchThing", "AttributeError: .*NoSuchThing"),
    ],
)
def test_load_names_plugin_spec_and_target(target, cause):
    spec = dataclasses.replace(ModelSpec(name="tiny", target=target, summary=""), plugin="acme")
    with pytest.raises(
        PluginError, match=f"'acme': the target '{target}' of model 'tiny'.*{cause}"
    ):
        spec.load()


def test_target_that_exits_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "acme_exits.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=r"SystemExit: 0 \(.*acme_exits.py:1\)"):
        ModelSpec(name="tiny", target="acme_exits:build", summary="").load()


def test_target_that_is_interrupted_is_not(tmp_path, monkeypatch):
    (tmp_path / "acme_interrupts.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        ModelSpec(name="tiny", target="acme_interrupts:build", summary="").load()


def test_bad_reference_names_it():
    spec = LayerSpec(name="x", target="a:b", summary="", reference="no_such_module:Layer")
    with pytest.raises(PluginError, match="the reference 'no_such_module:Layer' of layer 'x'"):
        spec.load_reference()


FIELDS = ("reference", "cases", "benchmarks", "work", "torch")


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_layer_is_checked_and_imported(field):
    with pytest.raises(ValueError, match=f"the {field} of layer 'x' must look like"):
        LayerSpec(name="x", target="a:b", summary="", **{field: "math.prod"})
    spec = LayerSpec(name="x", target="math:prod", summary="", **{field: "math:no"})
    with pytest.raises(PluginError, match=f"the {field} 'math:no' of layer 'x' cannot be loaded"):
        spec.load_all()
    LayerSpec(name="x", target="math:prod", summary="").load_all()


def test_benchmarks(tmp_path, monkeypatch):
    """Without benchmarks, the cases that name a shape for their speed."""
    source = "from types import SimpleNamespace as Case\n"
    source += "CASES = [Case(speed_shape=shape) for shape in (None, (2, 3))]"
    (tmp_path / "acme_benchmarks.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    cases = "acme_benchmarks:CASES"
    spec = LayerSpec(name="x", target="math:prod", summary="", cases=cases)
    assert [case.speed_shape for case in spec.load_benchmarks()] == [(2, 3)]
    assert len(dataclasses.replace(spec, benchmarks=cases).load_benchmarks()) == 2
    assert LayerSpec(name="x", target="math:prod", summary="").load_benchmarks() == ()


def test_work_is_added():
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


def test_specs_do_not_change():
    spec = ModelSpec(name="x", target="a:b", summary="")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "y"


def test_qualified_name():
    spec = ModelSpec(name="x", target="a:b", summary="")
    assert spec.qualified_name == "x"
    registered = dataclasses.replace(spec, plugin="acme")
    assert registered.qualified_name == "acme/x"
    assert registered == spec


def test_the_max_default_size_of_a_model():
    spec = ModelSpec(name="x", target="a:b", summary="")
    assert spec.max_default_size == 224
    assert ModelSpec(name="x", target="a:b", summary="", max_default_size=96).max_default_size == 96


@pytest.mark.parametrize("size", [0, -1, 96.0, "96", True, None, (96, 96)])
def test_a_max_default_size_is_a_number_of_pixels(size):
    with pytest.raises(
        ValueError, match=r"max_default_size of model 'x' is .*: it must be a number of pixels"
    ):
        ModelSpec(name="x", target="a:b", summary="", max_default_size=size)


def test_an_engine_names_two_functions():
    spec = EngineSpec(name="x", target="collections:Counter", build="math:sqrt", summary="")
    spec.load_all()
    assert spec.load_build()(4) == 2
    with pytest.raises(ValueError, match="build of engine 'x' must look like"):
        EngineSpec(name="x", target="a:b", build="a.b", summary="")
    broken = EngineSpec(name="x", target="math:sqrt", build="math:nothing", summary="")
    with pytest.raises(
        PluginError, match="the build 'math:nothing' of engine 'x' cannot be loaded"
    ):
        broken.load_all()
