"""Names: short, qualified, ambiguous, unknown."""

import pytest

from cnnforge.errors import AmbiguousNameError, PluginError, UnknownNameError
from cnnforge.plugin import LayerSpec, ModelSpec
from cnnforge.plugin_host.registry import Registry


def model(name: str) -> ModelSpec:
    return ModelSpec(name=name, target="module:build", summary=f"the model {name}")


@pytest.fixture
def registry() -> Registry[ModelSpec]:
    registry = Registry(ModelSpec)
    registry.add("one", [model("lenet"), model("alexnet")])
    registry.add("two", [model("lenet"), model("resnet20")])
    return registry


def test_unique_short_name(registry):
    assert registry["alexnet"].qualified_name == "one/alexnet"


def test_qualified_name(registry):
    assert registry["two/lenet"].plugin == "two"
    assert registry["one/lenet"].plugin == "one"


def test_ambiguous_name_lists_all_owners(registry):
    with pytest.raises(AmbiguousNameError, match=r"'lenet' .* write one/lenet or two/lenet"):
        registry["lenet"]


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("alexnt", "alexnet"), ("resnet18", "resnet20"), ("leet", "one/lenet"), ("two/lnet", "two/")],
)
def test_unknown_name_suggests_one_that_works(registry, name, suggested):
    with pytest.raises(UnknownNameError, match=f"did you mean '{suggested}") as caught:
        registry[name]
    assert name in str(caught.value)


def test_unknown_name_without_a_likeness_lists_what_there_is(registry):
    with pytest.raises(UnknownNameError, match="there are: alexnet, one/lenet, resnet20, two/"):
        registry["qqqq"]


@pytest.mark.parametrize("name", ["", "/", "one/", "/alexnet2", "one/resnet20", "three/lenet"])
def test_names_of_nothing(registry, name):
    assert name not in registry
    with pytest.raises(UnknownNameError):
        registry[name]


def test_contains_is_whether_one_is_found(registry):
    assert "alexnet" in registry
    assert "one/lenet" in registry
    assert "lenet" not in registry
    assert 3 not in registry


def test_listing(registry):
    assert list(registry) == ["one/alexnet", "one/lenet", "two/lenet", "two/resnet20"]
    assert registry.names() == ["alexnet", "one/lenet", "resnet20", "two/lenet"]
    assert [spec.qualified_name for spec in registry.values()] == list(registry)
    assert len(registry) == 4


def test_every_listed_name_finds_its_spec(registry):
    assert {registry[name].qualified_name for name in registry.names()} == set(registry)


def test_discard(registry):
    registry.discard("two")
    registry.discard("never there")
    assert registry["lenet"].plugin == "one"
    assert len(registry) == 2


def test_name_declared_twice_adds_nothing(registry):
    with pytest.raises(PluginError, match="plugin 'three' declares the model 'vgg' twice"):
        registry.add("three", [model("new"), model("vgg"), model("vgg")])
    assert "new" not in registry


def test_other_kinds_are_refused(registry):
    layer = LayerSpec(name="conv2d", target="module:Layer", summary="")
    with pytest.raises(PluginError, match="is a LayerSpec: return ModelSpec objects"):
        registry.add("three", [layer])


def test_plugin_added_twice_is_refused(registry):
    with pytest.raises(PluginError, match="plugin named 'one' were added before"):
        registry.add("one", [model("new")])
    assert registry["alexnet"].plugin == "one"


def test_problems_of_other_plugins_are_told():
    registry = Registry(ModelSpec, lambda: {"acme": "failed to load: boom", "b": "is disabled"})
    with pytest.raises(UnknownNameError, match=r"'acme' failed to load: boom\) \(plugin 'b' is"):
        registry["lenet"]


def test_problem_of_the_plugin_that_was_asked_for_is_told_alone():
    registry = Registry(ModelSpec, lambda: {"acme": "failed to load: boom", "b": "is disabled"})
    with pytest.raises(UnknownNameError, match=r"^[^()]*\(plugin 'acme' failed to load: boom\)$"):
        registry["acme/lenet"]


def test_a_class_names_its_layer():
    registry = Registry(LayerSpec)
    for plugin in ("one", "two"):
        target = f"{plugin}.layer:Blur"
        registry.add(plugin, [LayerSpec(name="blur", target=target, summary="")])
    registry.add("three", [LayerSpec(name="sharp", target="three.layer:Sharp2D", summary="")])
    assert "Sharp2D" in registry
    assert registry["Sharp2D"].name == "sharp"
    assert registry["one/Blur"].plugin == "one"
    with pytest.raises(AmbiguousNameError, match=r"'Blur' .* write one/blur or two/blur"):
        registry["Blur"]
    for name in ("Sharp", "one/Sharp2D", "sharp2d"):
        assert name not in registry
