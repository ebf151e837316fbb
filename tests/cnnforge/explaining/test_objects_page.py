"""The page of a detector and a picture, opened in Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import needs_axe, needs_chromium, run_in_page, violations

from cnnforge.errors import RunError, UsageError
from cnnforge.explaining import network_data, objects_page, why
from cnnforge.explaining.building import Explained, Subject
from cnnforge.explaining.objects_page import cells_of, explain_objects, shown_classes
from cnnforge.explaining.steps import all_values, divide, output_steps
from cnnforge.tasks.detection import Detection
from cnnforge.tasks.detection.decoding import decode, decode_with_cells
from cnnforge_plugins.models.detector import detector, detector_m

RANDOM = np.random.default_rng(5)
CLASSES = ['<b>a</b> & "q" \'\u202e' + "n" * 300, "second", "third"]
# Height and width of the network's picture and of the picture as loaded.
SIZE, ORIGINAL = (32, 48), (100, 60)


def trained(model: keras.Model) -> keras.Model:
    """Give the layers of a detector weights with which it finds some objects."""
    random = np.random.default_rng(7)
    for layer in model.layers:
        if layer.name.endswith("_norm"):
            gamma, beta, *others = layer.get_weights()
            layer.set_weights([gamma, random.normal(0, 0.3, beta.shape), *others])
        if layer.name.endswith("_heat"):
            kernel, bias = layer.get_weights()
            layer.set_weights([3 * random.normal(0, 0.3, kernel.shape), bias + 1])
    return model


def explained(model: keras.Model, classes: list[str] = CLASSES, **options: Any) -> Explained:
    height, width, channels = model.input_shape[1:]
    task = Detection(classes, (height, width), confidence=0.5, **options)
    image = RANDOM.integers(0, 256, (height, width, channels), np.uint8)
    loaded = RANDOM.integers(0, 256, (*ORIGINAL, 3), np.uint8)
    subject = Subject(image, loaded, 'a<b>&".png', "toy", "toy-001")
    return explain_objects(divide(model, several=True), subject, task)


def written(folder: Path, made: Explained) -> Path:
    path = folder / "page.html"
    path.write_text(made.text, encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(why, "MAX_STEPS", why.MIN_STEPS)
        yield


@pytest.fixture(scope="module")
def made() -> Explained:
    keras.utils.set_random_seed(3)
    # Half precision would make values of the page differ from those of Keras.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_data, "MAX_EXACT", 1_000_000)
        return explained(trained(detector_m((*SIZE, 3), 3)))


@pytest.fixture(scope="module")
def page(made: Explained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert made.alive
    return written(tmp_path_factory.mktemp("detector"), made)


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_accessibility(page: Path, width: int, dark: bool) -> None:
    assert violations(page, width=width, dark=dark) == []


@needs_chromium
def test_the_page_computes_the_maps_and_the_boxes(page: Path, made: Explained) -> None:
    script = """
    const { difference, same, boxes, scores } = it("check").dataset;
    const found = current.boxes.map(({ label, score, box }) => [label, score, ...inOriginal(box)]);
    return { text: it("check").textContent, answer: it("answer").textContent, found, same,
      numbers: [difference, boxes, scores].map(Number),
      rows: [...it("candidates").tBodies[0].rows].map(({ cells }) => cells[7].textContent) };
    """
    value = run_in_page(page, script)
    assert value["same"] == "true"
    assert max(value["numbers"]) < 1e-4
    assert "This page computes the network itself" in value["text"]
    assert "it finds the same objects as Python" in value["text"]
    objects = made.found["objects"]
    assert len(objects) == len(value["found"]) > 1
    assert f"{len(objects)} objects" in value["answer"]
    for found, each in zip(value["found"], objects, strict=True):
        assert CLASSES[found[0]] == each["class"]
        np.testing.assert_allclose(found[1:], [each["confidence"], *each["box"]], atol=1e-3)
    stays = sum(text == "stays" for text in value["rows"])
    assert stays == min(len(objects), 40)


def random_maps(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    made = []
    for height, width in ((8, 12), (4, 6), (2, 3)):
        values = random.normal(0, 1, (1, height, width, 7)).astype(np.float32)
        # Steps of 0.5 give equal neighbours.
        values[..., :3] = np.round(2 * values[..., :3]) - 2
        values[..., 3:] += 0.5
        made.append(values)
    return made


@needs_chromium
def test_boxes_are_those_of_python(page: Path) -> None:
    """Ties, borders, several maps, and a limit of the number of boxes."""
    cases, wanted = [], []
    for seed in range(12):
        confidence, overlap = [(0.1, 0.5), (0.02, 0.3), (0.5, 1.0)][seed % 3]
        maps = random_maps(seed)
        (found,) = decode(maps, SIZE, confidence=confidence, overlap=overlap, max_detections=100)
        wanted.append(found)
        cases.append([[each[0].ravel().tolist() for each in maps], confidence, overlap])
    script = f"""
    const cases = {json.dumps(cases)};
    return cases.map(([values, confidence, overlap]) => {{
      const maps = mapsOf(false);
      maps.forEach((map, k) => {{ map.data = Float32Array.from(values[k]); }});
      return decode(maps, confidence, overlap).first
        .map(({{ label, score, box }}) => [label, score, ...box]);
    }});
    """
    for found, want in zip(run_in_page(page, script), wanted, strict=True):
        rows = np.array(found).reshape(-1, 6)
        np.testing.assert_array_equal(rows[:, 0], want.labels)
        np.testing.assert_allclose(rows[:, 1], want.scores, atol=1e-6)
        np.testing.assert_allclose(rows[:, 2:], want.boxes, atol=1e-4)


@needs_chromium
def test_sliders_act_at_once(page: Path) -> None:
    script = """
    const set = (id, value) => {
      it(id).value = value;
      it(id).dispatchEvent(new Event("input"));
    };
    const rows = () => [...it("candidates").tBodies[0].rows].map(({ textContent }) => textContent);
    const state_ = () => ({ peaks: current.peaks.length, boxes: current.boxes.length,
      text: it("boxes-text").textContent, rows: rows() });
    const found = [state_()];
    set("confidence", 0.2);
    found.push(state_());
    set("overlap", 0.05);
    found.push(state_());
    const removed = current.peaks.filter(({ remover }) => remover);
    const why = removed.every(({ label, box, remover }) => remover.label === label
      && !remover.remover && overlapOf(box, remover.box) >= 0.05);
    set("confidence", 0.99);
    found.push(state_());
    it("thresholds").click();
    found.push(state_());
    const values = ["confidence", "overlap"].map((id) => it(`${id}-value`).textContent);
    return { found, why, values };
    """
    value = run_in_page(page, script)
    first, low, strict, high, again = value["found"]
    assert low["peaks"] > first["peaks"]
    assert strict["peaks"] == low["peaks"]
    assert strict["boxes"] < low["boxes"]
    assert value["why"]
    assert any("removed: overlaps box " in row for row in strict["rows"])
    assert "confidence of at least 20\u00a0%" in strict["text"]
    assert "an overlap of at least 5\u00a0%" in strict["text"]
    assert high["boxes"] < first["boxes"]
    assert again == first
    assert value["values"] == ["50\u00a0%", "50\u00a0%"]


@needs_chromium
def test_the_heat_and_the_distances_by_keys(page: Path) -> None:
    script = """
    const texts = [it("heat-sentence").textContent], top = current.peaks[0];
    it("heat-map").focus();
    for (const name of ["ArrowDown", "ArrowRight", "Enter"]) {
      key(it("heat-map"), name);
      texts.push(it("heat-sentence").textContent);
    }
    choose("heat-level", 1);
    choose("heat-class", 2);
    const { row, column } = heat.spot, map = current.maps[1];
    const y = Math.min(row, 3), x = Math.min(column, 5), from = (y * 6 + x) * 7;
    const lines = [...it("distances").rows].slice(1);
    const cells = lines.map(({ cells }) => Number(cells[2].textContent));
    const want = [0, 1, 2, 3].map((k) => 8 * Math.exp(map.data[from + 3 + k]));
    const heat_ = sigmoid(map.data[from + 2]), sentence = it("heat-sentence").textContent;
    choose("peak", 0);
    const { spot } = heat, peak = [heat.label, heat.level, spot.row, spot.column];
    peak.push(it("heat-sentence").textContent);
    top.place = [top.label, top.level, top.row, top.column];
    return { texts, top: top.place, cells, want, heat_, sentence, peak,
      thumbs: [...it("heats").children].map((each) => each.getAttribute("aria-label").slice(0, 13)),
      live: it("heat-sentence").getAttribute("aria-live") };
    """
    value = run_in_page(page, script)
    assert value["texts"][0].endswith("so it is a peak.")
    assert value["texts"][3].endswith(" Fixed.")
    assert len(set(value["texts"])) == 4
    np.testing.assert_allclose(value["cells"], value["want"], atol=0.051)
    shown = value["sentence"].partition(": ")[2].partition("\u00a0%")[0]
    assert float(shown) == pytest.approx(100 * value["heat_"], abs=0.051)
    assert value["peak"][:4] == value["top"]
    assert "so it is a peak" in value["peak"][4]
    assert value["thumbs"][1:] == ["Heat of secon", "Heat of third"]
    assert value["live"] == "polite"


@needs_chromium
def test_drawing_changes_the_boxes_and_names_stay_texts(page: Path) -> None:
    script = """
    const before = current.boxes.map(({ score }) => score);
    it("clear").click();
    await recomputed();
    const empty = current.boxes.map(({ score }) => score), live = it("live").textContent;
    it("original").click();
    await recomputed();
    const { scrollWidth } = document.documentElement;
    return { before, empty, live, back: current.boxes.map(({ score }) => score),
      bold: document.querySelectorAll("b").length, wide: scrollWidth > innerWidth,
      title: document.querySelector("h1").textContent, name: it("heat-class").options[0].text,
      methods: [...it("method").options].map(({ text }) => text),
      targets: it("target").options.length };
    """
    value = run_in_page(page, script, width=360)
    assert value["before"] == value["back"] != value["empty"]
    assert value["live"].startswith("Found now: ")
    assert value["bold"] == 0
    assert not value["wide"]
    assert value["title"] == 'How toy sees a<b>&".png'
    assert value["name"].startswith('<b>a</b> & "q" \'nnn')
    assert "..." in value["name"]
    assert value["methods"] == ["Occlusion", "Integrated gradients"]
    assert value["targets"] == 3


@needs_chromium
def test_a_page_that_does_not_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the maps of Keras, of the classes with the highest heat."""
    monkeypatch.setattr(network_data, "MAX_WEIGHTS", 1000)
    monkeypatch.setattr(network_data, "_MAX_PICTURE", 32)
    monkeypatch.setattr(objects_page, "_MAX_SHOWN", 2 * 126 * 6)
    keras.utils.set_random_seed(3)
    made = explained(trained(detector_m((*SIZE, 3), 3)))
    assert not made.alive
    assert any(each.startswith("The heat of 1 of 3 classes") for each in made.left_out)
    script = """
    const first = objects.python.scores[0], { boxes } = current;
    return { own: boxes[0]?.score, first, shown: objects.classes,
      options: it("heat-class").options.length,
      check: it("check").textContent, pen: it("pen").closest("[hidden]") !== null,
      picture: [it("picture").width, it("picture").height], seen: it("seen-caption").textContent };
    """
    value = run_in_page(written(tmp_path, made), script)
    assert value["own"] == pytest.approx(value["first"], abs=2e-3)
    assert len(value["shown"]) == value["options"] == 2
    assert "The page does not compute this network" in value["check"]
    assert value["pen"]
    assert value["picture"] == [320, 210]
    assert "of the picture" in value["seen"]


def test_the_size_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is the worst case."""
    noise = RANDOM.normal(size=(64, 64)).astype(np.float32)
    maps = [why.Map("occlusion", 0, noise, noise, 0.5) for _ in range(6)]
    monkeypatch.setattr(why, "explain", lambda *arguments, **options: maps)
    task = Detection([str(digit) for digit in range(10)], (128, 128))
    loaded = RANDOM.integers(0, 256, (900, 900, 3), np.uint8)
    for channels, build in ((1, detector), (3, detector_m)):
        image = RANDOM.integers(0, 256, (128, 128, channels), np.uint8)
        steps = divide(build(image.shape, 10), several=True)
        made = explain_objects(steps, Subject(image, loaded, "x", "y", "z"), task)
        assert made.alive
        assert len(made.text.encode()) < 3_000_000


def test_cells_and_classes() -> None:
    maps = random_maps(3)
    # Many logits are equal: a cell with the same confidence may be another object.
    for each in maps:
        each[..., :3] = each[..., :3].round()
    ((found, at),) = decode_with_cells(maps, SIZE, confidence=0.3, overlap=0.5, max_detections=100)
    assert len(set(found.scores)) < len(found.scores)
    cells = cells_of(found, at)
    assert len(cells) == len(found.boxes) > 3
    for cell, box, label in zip(cells, found.boxes, found.labels, strict=True):
        assert cell.label == label
        sides = np.exp(maps[cell.level][0, cell.row, cell.column, 3:]) * [-1, -1, 1, 1]
        middle = np.array([cell.column, cell.row] * 2) + 0.5
        own = ((middle + sides) * 4 * 2**cell.level).clip(0, [48, 32, 48, 32])
        np.testing.assert_allclose(own, box, atol=1e-3)
    outputs = [np.zeros((2, 2, 7), np.float32)]
    outputs[0][0, 1, 1] = 5
    outputs[0][1, 1, 2] = 3
    assert shown_classes(outputs, 4 * 6) == [1, 2]
    assert shown_classes(outputs, 0) == [1]
    assert shown_classes(outputs, 1000) == [0, 1, 2]


def test_the_outputs_are_in_the_order_of_the_network() -> None:
    model = detector_m((*SIZE, 3), 3)
    image = RANDOM.integers(0, 256, (*SIZE, 3)).astype(np.float32)
    want = [np.asarray(each)[0] for each in model(image[None], training=False)]
    steps = divide(model, several=True)
    values = all_values(steps, image)
    for at, each in zip(output_steps(steps), want, strict=True):
        np.testing.assert_allclose(values[at], each, atol=1e-5)
    names = {it.name for it in why.last_layers(steps)}
    assert all(name.endswith(("_heat", "_sides")) for name in names)


def test_wrong_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = detector((32, 48, 1), 2)
    with pytest.raises(RunError, match=r"expected maps with 7 channels; model.keras and detection"):
        explained(model)
    monkeypatch.setattr(objects_page, "MAX_CELLS", 95)
    with pytest.raises(UsageError, match="have 96 cells, and a page holds 95: choose a run with"):
        explained(model, ["one", "two"])


def test_boxes_in_the_picture_as_loaded(made: Explained) -> None:
    for each in made.found["objects"]:
        x1, y1, x2, y2 = each["box"]
        assert 0 <= x1 < x2 <= ORIGINAL[1]
        assert 0 <= y1 < y2 <= ORIGINAL[0]
