// The page of `cnnforge explain` for a classifier: its answer, and how sure it is.

const expected = unpack(DATA.probabilities).data, full = DATA.dense, LAST = operations.length - 1;
const chosen = { dense: full[full.length - 1], neuron: 0 };

const probabilities = () => (DATA.alive ? state.values[LAST] : expected);

function showProbabilities() {
  const values = probabilities(), [first, second] = order(values);
  const text = `${CLASSES[first]} with ${percent(values[first])}; the runner-up is ${CLASSES[second]} with ${percent(values[second])}.`;
  byId("answer").textContent = `The answer for the picture: ${text}`;
  if (DATA.alive) byId("live").textContent = `Answer now: ${text}`;
  const scores = state.values[DATA.scores] ?? unpack(DATA.scoreValues).data;
  const ratio = values[first] / Math.max(values[second], 1e-30);
  byId("runner").textContent = `The softmax turns the scores into probabilities, which sum to 1. ${CLASSES[first]} has the score ${shown(scores[first])}, `
    + `${CLASSES[second]} has ${shown(scores[second])}: a difference of ${shown(scores[first] - scores[second])} makes the answer `
    + `${ratio > 1000 ? "more than 1,000" : shown(ratio, 1)} times as probable as the runner-up.`;
  fillBars(byId("probabilities"), ["class", "score", "probability"], order(values).slice(0, 5)
    .map((at) => [[CLASSES[at], shown(scores[at]), percent(values[at])], values[at]]));
}

function showFlattening() {
  const at = operations.findIndex(({ kind, inputs }) => ["flatten", "global_average", "global_max"].includes(kind) && operations[inputs[0]].shape.length === 3);
  const values = at < 0 ? null : state.values[at] ?? (DATA.flat && unpack(DATA.flat).data);
  byId("flat").parentElement.hidden = !values;
  if (at < 0) byId("flat-text").textContent = "This network does not flatten its maps.";
  else {
    const [height, width, channels] = operations[operations[at].inputs[0]].shape, { kind } = operations[at];
    byId("flat-text").textContent = kind === "flatten"
      ? `${channels} maps of ${height}x${width} values become one row of ${counted(height * width * channels)} numbers: first the pixel in row 1, column 1 of every map, then the next pixel.`
      : `Each of the ${channels} maps becomes one number, the ${kind === "global_max" ? "largest" : "mean"} of its ${height}x${width} values: one row of ${channels} numbers.`;
    byId("flat-text").textContent += " The row is drawn in lines here.";
  }
  if (!values) return;
  // Full lines, if possible.
  const divisor = [...Array(57).keys()].findLast((each) => values.length % each === 0);
  const columns = divisor >= 16 ? divisor : Math.min(values.length, 56), rows = Math.ceil(values.length / columns), data = new Float32Array(rows * columns);
  data.set(values);
  paintValues(byId("flat"), { height: rows, width: columns, data }, 560);
}

function showFull() {
  if (!full.length) return;
  const operation = operations[chosen.dense], count = operation.shape[0], last = chosen.dense === full[full.length - 1];
  const targets = DATA.alive ? [...Array(count).keys()] : Object.keys(DATA.heaviest).map(Number);
  chosen.neuron = targets.includes(chosen.neuron) ? chosen.neuron : targets[0];
  fillSelect(byId("neuron"), targets.map((each) => [each, last && count === CLASSES.length ? CLASSES[each] : `${each + 1} of ${count}`]), chosen.neuron);
  const { terms, rest, bias } = DATA.alive ? contributions(operation) : DATA.heaviest[chosen.neuron];
  fillBars(byId("heaviest"), ["value", "number", "weight", "contribution"], terms.map(([from, value, weight]) => [
    [`${from + 1}`, shown(value), shown(weight, 3), shown(value * weight)], value * weight]));
  const total = terms.reduce((sum, [, value, weight]) => sum + value * weight, 0);
  byId("full-text").textContent = `${shown(total, 3)} (these ten) + ${shown(rest, 3)} (all others) + ${shown(bias, 3)} (bias) = ${shown(total + rest + bias, 3)}`
    .replaceAll("+ \u2212", "\u2212 ") + `${last ? ", the score" : ""}.`;
}

function contributions({ shape: [count], weights, inputs: [from] }) {
  const x = state.values[from], kernel = weights.kernel.data, product = (i) => x[i] * kernel[i * count + chosen.neuron];
  const places = [...x.keys()].sort((a, b) => Math.abs(product(b)) - Math.abs(product(a)));
  const rest = places.slice(10).reduce((sum, i) => sum + product(i), 0);
  return { terms: places.slice(0, 10).map((i) => [i, x[i], kernel[i * count + chosen.neuron]]), rest, bias: weights.bias.data[chosen.neuron] };
}

function showSure() {
  byId("sure").textContent = DATA.sure;
  byId("neighbors").replaceChildren(...DATA.neighbors.map(({ image, label, similarity, same }) => {
    const box = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    const { shape, data } = unpack(image);
    paint(canvas, shape, data, 104);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Training picture of the class ${label}`);
    caption.textContent = `${label}; similarity ${shown(similarity, 3)}${same ? "; the same picture" : ""}`;
    box.append(canvas, caption);
    return box;
  }));
}

function showCheck() {
  if (!DATA.alive) {
    byId("check").textContent = DATA.whyNotAlive;
    return;
  }
  const found = state.values[LAST], difference = found.reduce((high, value, i) => Math.max(high, Math.abs(value - expected[i])), 0);
  byId("check").dataset.difference = difference;
  byId("check").textContent = "This page computes the network itself. The largest difference between one of its probabilities and that of Keras is "
    + `${difference === 0 ? "0" : difference.toExponential(1).replace("-", "\u2212")}.${DATA.half ? " The weights are rounded to 16 bits, so that the page is small." : ""}`;
}

function showAnswer() {
  showProbabilities();
  showFlattening();
  showFull();
}

function startAnswer() {
  byId("full-some").hidden = !full.length;
  byId("full-none").hidden = Boolean(full.length);
  byId("full-none").textContent = "This network has no full connection.";
  [chosen.neuron] = order(expected);
  fillSelect(byId("dense"), full.map((at) => [at, operations[at].name]), chosen.dense);
  byId("dense").addEventListener("change", (event) => {
    Object.assign(chosen, { dense: Number(event.target.value), neuron: 0 });
    showFull();
  });
  byId("neuron").addEventListener("change", (event) => {
    chosen.neuron = Number(event.target.value);
    showFull();
  });
  showSure();
}
