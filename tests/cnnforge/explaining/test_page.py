"""The page of a network and a picture, opened in Chromium."""

from pathlib import Path

import keras
import numpy as np
import pytest
from browser import needs_axe, needs_chromium, run_in_page, violations

from cnnforge.explaining import network_data
from cnnforge.explaining.building import Explained, Subject
from cnnforge.explaining.page import Similar, explain_classes
from cnnforge.explaining.steps import divide
from cnnforge.explaining.sure import Neighbor
from cnnforge_plugins.models.lenet import build as lenet
from cnnforge_plugins.models.resnet import resnet20

RANDOM = np.random.default_rng(9)
ODD = "a<b>&\"'</script>\u202e\u2066" + "n" * 300
layers = keras.layers


def picture(shape: tuple[int, int, int]) -> np.ndarray:
    """A bright bar on black, with some noise."""
    pixels = RANDOM.integers(0, 20, shape, np.uint8)
    pixels[shape[0] // 4 : -shape[0] // 4, shape[1] // 2 - 2 : shape[1] // 2 + 2] += 200
    return pixels


def explained(
    model: keras.Model, name: str = "picture.png", classes: list[str] | None = None
) -> Explained:
    shape = model.input_shape[1:]
    count = model.output_shape[-1]
    image = picture(shape)
    neighbors = [Neighbor(3, 1.0, image, True), Neighbor(5, 0.5, image // 2, False)]
    classes = classes or [f"class {number}" for number in range(count)]
    similar = Similar(neighbors, [classes[0], classes[1]], 30, 40)
    subject = Subject(image, picture((300, 200, 3)), name, "toy", "toy-001")
    return explain_classes(divide(model), subject, classes, similar)


def written(folder: Path, made: Explained) -> Path:
    path = folder / "page.html"
    path.write_text(made.text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lenet_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(1)
    made = explained(lenet((28, 28, 1), 10))
    assert made.alive
    assert len(made.text) < 1_500_000
    return written(tmp_path_factory.mktemp("lenet"), made)


@pytest.fixture(scope="module")
def resnet_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = explained(resnet20((32, 32, 3), 4))
    assert made.alive
    assert len(made.text) < 3_000_000
    return written(tmp_path_factory.mktemp("resnet"), made)


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("kind", ["lenet", "resnet"])
def test_accessibility(kind: str, width: int, dark: bool, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(f"{kind}_page")
    assert violations(page, width=width, dark=dark) == []


@needs_chromium
@pytest.mark.parametrize("kind", ["lenet", "resnet"])
def test_the_page_computes_the_network(kind: str, request: pytest.FixtureRequest) -> None:
    script = "return [it('check').textContent, it('check').dataset.difference];"
    text, difference = run_in_page(request.getfixturevalue(f"{kind}_page"), script)
    assert "This page computes the network itself" in text
    assert float(difference) < 1e-5


@needs_chromium
def test_a_pixel_of_the_map_by_keys(lenet_page: Path) -> None:
    script = """
    const found = [it("sentence").textContent];
    it("map").focus();
    for (const name of ["ArrowUp", "ArrowRight", "Enter"]) {
      key(it("map"), name);
      found.push(it("sentence").textContent);
    }
    const { pixels, values } = state, { kernel, bias } = operations[state.conv].weights;
    const expected = values[state.conv][(13 * 28 + 15) * 8];
    return { found, expected, window: it("window").rows.length,
      live: it("sentence").getAttribute("aria-live") };
    """
    value = run_in_page(lenet_page, script)
    places = [each.partition(":")[0] for each in value["found"]]
    assert places == [
        "5x5 window at row 15, column 15",
        "5x5 window at row 14, column 15",
        "5x5 window at row 14, column 16",
        "5x5 window at row 14, column 16",
    ]
    assert value["found"][3].endswith(" Fixed.")
    assert value["window"] == 5
    assert value["live"] == "polite"
    shown = value["found"][2].rpartition("= ")[2].partition(";")[0].replace("\u2212", "-")
    assert float(shown) == pytest.approx(value["expected"], abs=6e-4)


@needs_chromium
def test_drawing_by_keys_changes_the_answer_and_is_undone(lenet_page: Path) -> None:
    script = """
    const answer = () => [...state.values.at(-1)], before = answer(), live = it("live").textContent;
    it("picture").focus();
    for (let i = 0; i < 6; i++) { key(it("picture"), "ArrowLeft"); key(it("picture"), " "); }
    await recomputed();
    const drawn = answer(), ink = state.pixels.reduce((count, value) => count + (value === 255), 0);
    choose("pen", "erase");
    key(it("picture"), " ");
    await recomputed();
    const erased = state.pixels.reduce((count, value) => count + (value === 255), 0);
    choose("right", 3);
    await recomputed();
    const moved = answer();
    choose("angle", 40);
    await recomputed();
    const turned = answer();
    it("original").click();
    await recomputed();
    const back = answer();
    it("clear").click();
    await recomputed();
    return { before, drawn, ink, erased, moved, turned, back, empty: new Set(state.pixels).size,
      live, now: it("live").textContent };
    """
    value = run_in_page(lenet_page, script)
    assert value["ink"] > 6
    assert value["erased"] < value["ink"]
    assert value["back"] == value["before"]
    answers = [value[name] for name in ("before", "drawn", "moved", "turned")]
    assert len({tuple(each) for each in answers}) == 4
    assert value["empty"] == 1
    assert value["live"].startswith("Answer now: ")
    assert value["now"] != value["live"]


@needs_chromium
def test_a_changed_detector(lenet_page: Path) -> None:
    script = """
    choose("conv", operations.findIndex(({ name, kind }) => name === "conv2" && kind === "conv"));
    choose("filter", 2);
    const conv = operations[state.conv], map = () => plane(state.conv, 2).data.slice(),
      before = map();
    const answer = () => [...state.values.at(-1)], first = answer();
    choose("known", "edge");
    await recomputed();
    const edges = map(), input = state.values[conv.inputs[0]], weights = matrixOf(conv, 2,
      5).flat();
    // The mean over the channels of the Laplacian, at row 6, column 7, plus the bias.
    const at = (row, column) => { let sum = 0; for (let c = 0; c < 8;
      c++) sum += input[(row * 14 + column) * 8 + c]; return sum / 8; };
    const want = at(5, 7) + at(7, 7) + at(6, 6) + at(6, 8) - 4 * at(6,
      7) + conv.weights.bias.data[2];
    const changed = answer();
    it("learned").click();
    await recomputed();
    const back = map(), number = it("matrix").querySelector("input");
    number.value = "3.5";
    number.dispatchEvent(new Event("input"));
    await recomputed();
    return { weights, want, found: edges[6 * 14 + 7], first, changed, same: before.every((each,
      i) => each === back[i]), own: matrixOf(conv, 2, 0)[0][0],
      channels: it("channels").rows.length,
        pressed: document.querySelectorAll("#maps [aria-pressed=true]").length };
    """
    value = run_in_page(lenet_page, script)
    assert value["weights"] == [each / 8 for each in (0, 1, 0, 1, -4, 1, 0, 1, 0)]
    assert value["found"] == pytest.approx(value["want"], abs=1e-5)
    assert value["first"] != value["changed"]
    assert value["same"]
    assert value["own"] == 3.5
    # A heading, eight channels and the bias.
    assert value["channels"] == 10
    assert value["pressed"] == 1


@needs_chromium
def test_pooling_flattening_and_full_connection(lenet_page: Path) -> None:
    script = """
    it("pooled").focus();
    key(it("pooled"), "ArrowDown");
    const at = state.pool, sentence = it("pool-sentence").textContent, { row,
      column } = state.poolSpot;
    const source = plane(operations[at].inputs[0], 0), window_ = [[0, 0], [0, 1], [1, 0], [1, 1]]
      .map(([i, j]) => source.data[(2 * row + i) * source.width + 2 * column + j]);
    const scores = [...state.values[DATA.scores]];
    return { row, column, sentence, high: Math.max(...window_), flat: it("flat-text").textContent,
      full: it("full-text").textContent,
      terms: it("heaviest").rows.length, scores, runner: it("runner").textContent };
    """
    value = run_in_page(lenet_page, script)
    assert (value["row"], value["column"]) == (8, 7)
    assert value["sentence"].startswith("Row 9, column 8, window of 2x2: ")
    largest = value["sentence"].partition("the largest is ")[2].partition(",")[0]
    assert float(largest) == pytest.approx(value["high"], abs=6e-3)
    assert "16 maps of 7x7 values become one row of 784 numbers" in value["flat"]
    assert value["terms"] == 11
    score = value["full"].rpartition("= ")[2].partition(",")[0].replace("\u2212", "-")
    assert float(score) == pytest.approx(max(value["scores"]), abs=6e-4)
    assert "has the score" in value["runner"]


@needs_chromium
def test_why_and_how_sure(lenet_page: Path) -> None:
    script = """
    const found = [];
    for (const { value } of [...it("target").options]) {
      choose("target", value);
      for (const { value: method, text } of [...it("method").options]) {
        choose("method", method);
        found.push([text, it("verdict").textContent]);
      }
    }
    return { found, sure: it("sure").textContent,
      neighbors: [...it("neighbors").children].map(({ textContent }) => textContent) };
    """
    value = run_in_page(lenet_page, script)
    methods = ["Grad-CAM: conv2", "Grad-CAM: conv1", "Occlusion", "Integrated gradients"]
    assert [method for method, _ in value["found"]] == methods * 3
    for method, verdict in value["found"]:
        correlation = float(
            verdict.partition("layers is ")[2].partition(",")[0].replace("\u2212", "-")
        )
        assert ("This map means nothing" in verdict) == (correlation >= 0.3)
        assert ("with a gap of" in verdict) == (method == "Integrated gradients")
    assert "of 30 of 40 training pictures" in value["sure"]
    against = "0 of 2" in value["sure"]
    assert ("That speaks against the answer" in value["sure"]) == against
    assert "The picture itself is a training picture" in value["sure"]
    first = "class 0; similarity 1; the same picture"
    assert value["neighbors"] == [first, "class 1; similarity 0.5"]


@needs_chromium
def test_odd_names_stay_texts(tmp_path: Path) -> None:
    inputs = keras.Input((12, 12, 1))
    x = layers.Flatten()(layers.Conv2D(2, 3, name="c<o>n\"v&'")(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    made = explained(model, name=ODD, classes=[ODD, ODD[:-1], "c"])
    assert not set("\u202e\u2066") & set(made.text)
    page = written(tmp_path, made)
    script = """
    const { scrollWidth } = document.documentElement;
    return { title: document.querySelector("h1").textContent, wide: scrollWidth > innerWidth,
      bold: document.querySelectorAll("b").length,
      classes: [...it("target").options].map(({ text }) => text),
        conv: it("conv").options[0].text };
    """
    value = run_in_page(page, script, width=360)
    assert value["title"].startswith("How toy sees a<b>&\"'</script>nnn")
    assert not value["wide"]
    assert value["bold"] == 0
    assert any(each.startswith("a<b>&\"'</script>nnn") for each in value["classes"])
    assert max(map(len, value["classes"])) <= 60
    assert value["conv"] == "c<o>n\"v&', 3x3"


@needs_chromium
def test_a_network_without_a_convolution(tmp_path: Path) -> None:
    inputs = keras.Input((10, 10, 3))
    x = layers.Dense(4, activation="relu")(layers.Flatten()(inputs))
    made = explained(keras.Model(inputs, layers.Dense(3, activation="softmax")(x)))
    assert any("the network has no convolution" in each for each in made.left_out)
    script = """
    const seen = (id) => !it(id).closest("[hidden]");
    return { conv: seen("map"), relu: seen("relu-text"),
      none: [...document.querySelectorAll(".none")].every(({ hidden }) => !hidden),
      full: it("heaviest").rows.length, difference: it("check").dataset.difference,
        methods: [...it("method").options].map(({ text }) => text) };
    """
    value = run_in_page(written(tmp_path, made), script)
    assert not value["conv"]
    assert not value["relu"]
    assert value["none"]
    assert value["full"] == 5
    assert float(value["difference"]) < 1e-5
    assert value["methods"] == ["Occlusion", "Integrated gradients"]


def deep() -> keras.Model:
    """A network of 200 layers."""
    inputs = x = keras.Input((12, 12, 1))
    for _ in range(99):
        x = layers.ReLU()(layers.Conv2D(2, 3, padding="same", bias_initializer="ones")(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("limit", [1_000_000, 100], ids=["computed", "stored"])
def test_a_network_of_200_layers(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_data, "MAX_WEIGHTS", limit)
    monkeypatch.setattr("cnnforge.explaining.why.MAX_STEPS", 64)
    made = explained(deep())
    assert made.alive == (limit > 100)
    script = """
    choose("conv", convs.at(-1));
    return { convs: convs.length, sentence: it("sentence").textContent,
      rest: document.querySelector("section:last-child").textContent };
    """
    value = run_in_page(written(tmp_path, made), script)
    if made.alive:
        assert value["convs"] == 99
        assert "3x3 window at row 7, column 7" in value["sentence"]
    else:
        assert value["convs"] == 8
        assert "Maps of 91 of 99 convolutions" in value["rest"]
        assert value["sentence"].startswith("Row 7, column 7: ")


@needs_chromium
def test_a_page_that_does_not_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds maps of 8 bits, which are close to those of the network."""
    model = lenet((28, 28, 1), 10)
    conv = keras.Model(model.inputs[0], model.get_layer("conv2").output)
    image = picture((28, 28, 1))
    monkeypatch.setattr(network_data, "MAX_WEIGHTS", 1000)
    monkeypatch.setitem(globals(), "picture", lambda shape: image)
    want = np.asarray(conv(image[None].astype(np.float32), training=False))[0]
    made = explained(model)
    assert not made.alive
    assert len(made.text) < 400_000
    script = """
    choose("conv", convs.at(-1));
    const at = chain(state.conv).at(-1), planes = channelsOf(at).map((each) => [...plane(at,
      each).data]);
    return { channels: channelsOf(at), planes, draw: it("pen").closest("[hidden]") !== null,
      check: it("check").textContent,
      inputs: document.querySelectorAll("#matrix input").length, full: it("heaviest").rows.length,
        pools: pools.length };
    """
    value = run_in_page(written(tmp_path, made), script)
    found = np.array(value["planes"]).T.reshape(14, 14, -1)
    real = want[:, :, value["channels"]]
    assert np.abs(found - real).max() <= real.max() / 255
    np.testing.assert_array_equal(found[real == 0], 0)
    assert value["draw"]
    assert "has 204,908 weights, and a page holds 1,000" in value["check"]
    assert value["inputs"] == 0
    assert value["full"] == 11
    assert value["pools"] == 2


@needs_chromium
def test_weights_of_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_data, "MAX_EXACT", 100_000)
    made = explained(lenet((28, 28, 1), 10))
    assert len(made.text) < 900_000
    script = "return [it('check').textContent, Number(it('check').dataset.difference)];"
    text, difference = run_in_page(written(tmp_path, made), script)
    assert "rounded to 16 bits" in text
    assert 0 < difference < 1e-2


def test_an_unknown_layer_is_named() -> None:
    inputs = keras.Input((12, 12, 1))
    x = layers.LayerNormalization(name="norm")(layers.Conv2D(2, 3)(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    made = explained(model)
    assert not made.alive
    assert any("norm (LayerNormalization)" in each for each in made.left_out)
