"""Chance that depends on the seed, the epoch and the sample, and on nothing else."""

import numpy as np
import pytest

from cnnforge.data import ArraySamples, AugmentedSamples, Draws
from cnnforge.errors import PluginError, UsageError

IMAGES = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1)
SAMPLES = ArraySamples(IMAGES, np.zeros(20, np.int32), [str(number) for number in range(20)])


def add(images, draws):
    return images + draws.integers(
        0,
        100,
    )[:, None, None, None].astype(np.uint8)


def augmented(*augmentations, seed=0, epoch=0):
    return AugmentedSamples(SAMPLES, [("acme/it", it) for it in augmentations], seed, epoch)


def test_a_sample_gets_the_same_whatever_is_read_with_it():
    whole = augmented(add, add).fetch(np.arange(20))
    for part in ([3], [7, 3, 0], [19, 18], list(range(5, 20))):
        np.testing.assert_array_equal(augmented(add, add).fetch(np.array(part)), whole[part])


def test_seed_epoch_sample_and_place_count():
    first = augmented(add).fetch(np.arange(20)) - IMAGES
    assert len(np.unique(first[:, 0, 0, 0])) > 10
    for other in (augmented(add, seed=1), augmented(add, epoch=1)):
        assert ((other.fetch(np.arange(20)) - IMAGES) != first).mean() > 0.9
    second = augmented(lambda images, draws: images, add).fetch(np.arange(20)) - IMAGES
    assert (second != first).mean() > 0.9


def test_it_is_the_samples_otherwise():
    it = augmented(add)
    assert len(it) == 20
    assert it.samples is SAMPLES
    assert it.names is SAMPLES.names
    assert IMAGES[3, 0, 0, 0] == 12


def test_draws_are_uniform_and_independent():
    draws = Draws(2**64 - 1, np.arange(50_000))
    first, second = draws.uniform(), draws.uniform()
    for values in (first, second):
        assert 0 <= values.min() < values.max() < 1
        counts = np.histogram(values, 50, (0, 1))[0]
        assert abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    numbers = Draws(5, np.arange(5_000)).integers(-2, 3)
    assert numbers.dtype == np.int64
    assert np.unique(numbers).tolist() == [-2, -1, 0, 1, 2]
    assert np.ptp(Draws(5, np.arange(9)).uniform(2, 2)) == 0


def refuse(images, draws):
    raise UsageError("as it is")


@pytest.mark.parametrize(
    ("augment", "error", "message"),
    [
        (lambda images, draws: 1 / 0, PluginError, "'acme/it' failed: ZeroDivisionError"),
        (lambda images, draws: None, PluginError, "returned a NoneType, expected uint8 of shape"),
        (lambda images, draws: images[:1], PluginError, r"\(1, 2, 2, 1\), expected uint8 of .*\(3"),
        (lambda images, draws: images / 2, PluginError, "returned float64"),
        (refuse, UsageError, "as it is"),
    ],
    ids=["raises", "none", "fewer", "floats", "message"],
)
def test_an_augmentation_that_fails_is_named(augment, error, message):
    with pytest.raises(error, match=message):
        augmented(augment).fetch(np.arange(3))


class Half:
    """Fails when it chooses partners."""

    def partners(self, draws, count):
        return draws.no_such_method(count)

    def mix(self, images, partners, draws):
        return images // 2 + partners // 2, np.full(len(images), 0.5, np.float32)


class Chosen(Half):
    """As `Half`, but with partners and a result that a test chooses."""

    def __init__(self, partners=None, result=None):
        self.chosen, self.result = partners, result

    def partners(self, draws, count):
        return np.zeros(3, np.int64) if self.chosen is None else self.chosen

    def mix(self, images, partners, draws):
        return super().mix(images, partners, draws) if self.result is None else self.result


class Drawn(Half):
    """Mixes each image with a sample that is drawn; the share of the own image is drawn, too."""

    def partners(self, draws, count):
        return draws.integers(0, count)

    def mix(self, images, partners, draws):
        weights = draws.uniform().astype(np.float32)
        weight = weights[:, None, None, None]
        return (weight * images + (1 - weight) * partners).astype(np.uint8), weights


class Sums:
    """Functions of targets that keep which samples are in an image, and with what share."""

    def targets(self, samples, indices):
        return {"share": np.eye(len(samples), dtype=np.float32)[indices]}

    def transformed(self, targets, transforms):
        return {"share": targets["share"] * transforms[:, 0, 0, None]}

    def mixed(self, targets, partners, weights):
        weights = weights[:, None]
        return {"share": weights * targets["share"] + (1 - weights) * partners["share"]}


def test_a_partner_has_had_the_augmentations_before_it():
    """And its own random numbers."""
    before = augmented(add).fetch(np.arange(20)).astype(float)
    images, targets = augmented(add, Drawn()).read(np.arange(20), Sums())
    share = targets["share"]
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    assert ((share > 0).sum(axis=1) == 2).sum() > 10
    expected = np.einsum("np,phwc->nhwc", share, before)
    np.testing.assert_allclose(images, expected, atol=1)


def test_mixing_twice_is_mixing_four_images():
    images, targets = augmented(Drawn(), Drawn()).read(np.arange(20), Sums())
    share = targets["share"]
    assert ((share > 0).sum(axis=1) == 4).any()
    np.testing.assert_allclose(share.sum(axis=1), 1, rtol=1e-6)
    expected = np.einsum("np,phwc->nhwc", share, IMAGES.astype(float))
    np.testing.assert_allclose(images, expected, atol=3)
    part = np.array([7, 3])
    few, few_targets = augmented(Drawn(), Drawn()).read(part, Sums())
    np.testing.assert_array_equal(few, images[part])
    np.testing.assert_array_equal(few_targets["share"], share[part])
    np.testing.assert_array_equal(augmented(Drawn(), Drawn()).fetch(part), few)


def test_targets_are_moved_before_they_are_mixed_and_after():
    def double(images, draws):
        return images, np.tile(np.float32([[2, 0, 0], [0, 2, 0]]), (len(images), 1, 1))

    both = augmented(double, double, Drawn(), double).read(np.arange(20), Sums())[1]["share"]
    none = augmented(lambda images, draws: images, lambda images, draws: images, Drawn())
    np.testing.assert_allclose(both, 8 * none.read(np.arange(20), Sums())[1]["share"])


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (Chosen(np.zeros(2, np.int64)), r"int64 of shape \(2,\), expected int64 of shape \(3,\)"),
        (Chosen(np.zeros(3)), "float64 of shape .*: its plugin must return indices of partners"),
        (Chosen(np.array([0, 20, 1])), r"chose the partners 0\.\.20, expected 0\.\.19"),
        (Chosen(np.array([0, -1, 1])), r"chose the partners -1\.\.1, expected 0\.\.19"),
        (Chosen(result=IMAGES[:3]), r"expected float32 of shape \(3,\): .* shares of the images"),
        (Chosen(result=(IMAGES[:3], np.zeros(3))), "returned float64 of shape"),
        (Chosen(result=(IMAGES[:2], np.zeros(3, np.float32))), r"uint8 of shape \(2, 2, 2, 1\)"),
        (Half(), "'acme/it' failed: AttributeError"),
    ],
    ids=["few", "floats", "high", "low", "images", "weights", "fewer", "raises"],
)
def test_a_mixing_that_fails_is_named(augment, message):
    with pytest.raises(PluginError, match=message):
        augmented(augment).fetch(np.arange(3))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_beta_numbers(alpha):
    draws = Draws(3, np.arange(20_000))
    first, second = draws.beta(alpha, alpha), draws.beta(alpha, 2 * alpha)
    for values, a, b in ((first, alpha, alpha), (second, alpha, 2 * alpha)):
        assert values.min() >= 0
        assert values.max() <= 1
        mean = a / (a + b)
        assert abs(values.mean() - mean) < 0.01
        assert values.var() == pytest.approx(mean * (1 - mean) / (a + b + 1), rel=0.05)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    if alpha == 1:
        assert abs(np.histogram(first, 20, (0, 1))[0] - 1000).max() < 150
    # A sample draws the same, whichever other samples there are, and so do later calls.
    one = Draws(3, np.array([77]))
    assert one.beta(alpha, alpha) == first[77]
    assert one.beta(alpha, 2 * alpha) == second[77]
    assert one.uniform() == draws.uniform()[77]


class Pasting:
    """Each image gets its first column from one partner and its second from another."""

    def __init__(self, **changes):
        self._changes = changes

    def partners(self, draws, count):
        first = draws.integers(0, count)
        return self._changes.get("partners", np.stack([first, (first + 1) % count], axis=1))

    def compose(self, images, partners, draws):
        result = images.copy()
        result[:, :, 0], result[:, :, 1] = partners[:, 0, :, 0], partners[:, 1, :, 1]
        count = len(images)
        transforms = np.tile(np.eye(2, 3, dtype=np.float32), (count, 3, 1, 1))
        regions = np.tile(np.float32([[0, 0, 0, 0], [0, 0, 1, 2], [1, 0, 2, 2]]), (count, 1, 1))
        made = {"images": result, "transforms": transforms, "regions": regions, **self._changes}
        return made.get("result", (made["images"], made["transforms"], made["regions"]))


class Parts:
    """A task whose targets are the numbers of the samples, and the names of what was done."""

    def targets(self, samples, indices):
        return {"number": indices}

    def transformed(self, targets, transforms):
        assert transforms.shape == (len(targets["number"]), 2, 3)
        return {"number": 10 * targets["number"]}

    def composed(self, parts, regions):
        assert regions.shape == (len(parts[0]["number"]), 3, 4)
        return {"number": np.stack([part["number"] for part in parts], axis=1)}


def test_parts_of_an_image_come_with_their_targets():
    samples = augmented(Pasting())
    images, targets = samples.read(np.arange(20), Parts())
    own, first, second = targets["number"].T // 10
    np.testing.assert_array_equal(own, np.arange(20))
    np.testing.assert_array_equal(second, (first + 1) % 20)
    np.testing.assert_array_equal(images[:, :, 0], IMAGES[first][:, :, 0])
    np.testing.assert_array_equal(images[:, :, 1], IMAGES[second][:, :, 1])
    for part in ([3], [7, 3, 0], [19, 18]):
        again, numbers = samples.read(np.array(part), Parts())
        np.testing.assert_array_equal(again, images[part])
        np.testing.assert_array_equal(numbers["number"], targets["number"][part])
    np.testing.assert_array_equal(samples.fetch(np.arange(20)), images)


def test_a_partner_has_had_the_augmentations_before():
    samples = augmented(add, Pasting())
    images, targets = samples.read(np.arange(20), Parts())
    before = augmented(add).fetch(np.arange(20))
    first = targets["number"][:, 1] // 10
    np.testing.assert_array_equal(images[:, :, 0], before[first][:, :, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"partners": np.zeros(20, np.int64)},
            r"int64 of shape \(20,\), expected int64 of shape \(20, K",
        ),
        (
            {"partners": np.zeros((19, 2), np.int64)},
            r"shape \(19, 2\), expected int64 of shape \(20, 2\)",
        ),
        ({"partners": np.full((20, 2), 20)}, r"chose the partners 20\.\.20, expected 0\.\.19"),
        ({"result": None}, "its plugin must return transforms of parts"),
        (
            {"transforms": np.zeros((20, 2, 2, 3), np.float32)},
            r"expected float32 of shape \(20, 3, 2, 3",
        ),
        (
            {"regions": np.zeros((20, 3, 4))},
            r"float64 .*: its plugin must return rectangles of parts",
        ),
        ({"images": IMAGES[:5]}, "as many images of the same shape"),
    ],
)
def test_wrong_compositions_are_reported(changes, message):
    with pytest.raises(PluginError, match=message):
        augmented(Pasting(**changes)).fetch(np.arange(20))
