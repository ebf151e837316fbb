"""Maps that show why: equal to independent implementations, and checked with random layers."""

import keras
import numpy as np
import pytest

from cnnforge.explaining import why
from cnnforge.explaining.network import describe
from cnnforge.explaining.page import _cam_layers
from cnnforge.explaining.steps import Step, divide
from cnnforge_plugins.models.lenet import build as lenet
from cnnforge_plugins.models.resnet import resnet20

RANDOM = np.random.default_rng(8)
IMAGE = RANDOM.integers(0, 256, (28, 28, 1)).astype(np.float32)
BUILDERS = pytest.mark.parametrize("build", [lenet, resnet20])


def scores_of(model: keras.Model) -> keras.Model:
    """A copy of a model without its last softmax."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.layers[-1].activation = keras.activations.linear
    return copy


def opened(build) -> tuple[keras.Model, list[Step]]:
    model = build((28, 28, 1), 10)
    scores = scores_of(model)
    return scores, divide(model)[:-1]


@BUILDERS
def test_grad_cam_equals_an_independent_implementation(build) -> None:
    tf = pytest.importorskip("tensorflow")
    model, steps = opened(build)
    network = describe(steps)
    chosen = _cam_layers(network)
    names = [network.operations[at].name for at in chosen]
    found = why.grad_cam(steps, IMAGE, [3, 7], [network.operations[at].step for at in chosen])
    for target, cams in zip([3, 7], found, strict=True):
        for name, cam in zip(names, cams, strict=True):
            part = keras.Model(model.inputs[0], [model.get_layer(name).output, model.output])
            with tf.GradientTape() as tape:
                maps, scores = part(IMAGE[None])
                score = scores[:, target]
            weights = tf.reduce_mean(tape.gradient(score, maps), (1, 2))
            want = tf.nn.relu(tf.einsum("nhwc,nc->nhw", maps, weights))[0].numpy()
            assert want.any() or not cam.any()
            np.testing.assert_allclose(cam, want, atol=1e-5 * max(1, want.max()))


@BUILDERS
def test_integrated_gradients_sum_to_the_difference(build) -> None:
    model, steps = opened(build)
    black = np.zeros_like(IMAGE)
    before, after = np.asarray(model(np.stack([black, IMAGE]), training=False))
    for target, (values, gap, count) in zip(
        [0, 5], why.integrated_gradients(steps, IMAGE, [0, 5]), strict=True
    ):
        difference = after[target] - before[target]
        real = abs(values.sum() - difference) / abs(difference)
        assert real == pytest.approx(gap, abs=1e-3)
        assert gap <= why.MAX_GAP or count == why.MAX_STEPS


def test_steps_double_until_the_gap_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = keras.Input((4, 4, 1))
    # The gradient is large in a small part of the way, so 64 steps are too few.
    x = keras.layers.Lambda(lambda it: keras.ops.sigmoid(4 * (it - 100.3)))(inputs)
    steps = divide(keras.Model(inputs, keras.layers.Flatten()(x)))
    image = np.full((4, 4, 1), 255, np.float32)
    ((_, gap, count),) = why.integrated_gradients(steps, image, [0])
    assert count > why.MIN_STEPS
    assert gap <= why.MAX_GAP
    ((_, gap, count),) = why.integrated_gradients(steps, image, [0], most=why.MIN_STEPS)
    assert count == why.MIN_STEPS
    assert gap > why.MAX_GAP


def test_occlusion_equals_a_loop() -> None:
    model, steps = opened(lenet)
    (found,) = why.occlusion(steps, IMAGE, [4])
    whole = np.asarray(model(IMAGE[None], training=False))[0, 4]
    places = np.unique(np.linspace(0, 21, 8).round().astype(int))
    assert found.shape == (8, 8)
    for i, row in enumerate(places):
        covered = IMAGE.copy()
        covered[row : row + 7, 6:13] = IMAGE.mean()
        want = whole - np.asarray(model(covered[None], training=False))[0, 4]
        assert found[i, list(places).index(6)] == pytest.approx(want, abs=1e-4)


def test_random_last_layers_are_restored() -> None:
    model = lenet((28, 28, 1), 10)
    weights = [each.copy() for each in model.get_weights()]
    steps = divide(model)
    assert [each.name for each in why.last_layers(steps)] == ["dense", "probabilities"]
    with why.random_last_layers(steps, 0):
        changed = [
            not np.array_equal(*pair) for pair in zip(weights, model.get_weights(), strict=True)
        ]
        assert changed[:4] == [False] * 4
        assert changed[4]
        assert changed[6]
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_map_that_does_not_depend_on_the_last_layers_means_nothing() -> None:
    inputs = keras.Input((16, 16, 1))
    # Every score is the same multiple of the picture, whatever the layer before has learned.
    x = keras.layers.Conv2D(1, 1, name="conv")(inputs)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(3, name="dense")(x)
    model = keras.Model(inputs, x)
    kernel = RANDOM.normal(size=(256, 3))
    model.get_layer("dense").set_weights([kernel, np.zeros(3)])
    steps = divide(model)
    image = RANDOM.integers(0, 256, (16, 16, 1)).astype(np.float32)
    maps = why.explain(steps, image, [0], [1])
    by_method = {each.method: each for each in maps}
    assert by_method["integrated-gradients"].means_something
    same = why.Map("grad-cam", 0, image[..., 0], image[..., 0], 1.0)
    assert not same.means_something


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_equals_that_of_scipy(levels: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = RANDOM.integers(0, levels, (2, 15, 9)).astype(np.float32)
    want = stats.spearmanr(first.ravel(), second.ravel()).statistic
    assert why.rank_correlation(first, second) == pytest.approx(want, abs=1e-12)
    assert why.rank_correlation(first, np.zeros_like(first)) == 0
