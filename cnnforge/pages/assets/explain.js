// The page of `cnnforge explain`: the walk through a network, from the picture to its last maps.

const operations = unpackNetwork(DATA.operations), picture = unpack(DATA.picture), loaded = unpack(DATA.loaded);
const [HEIGHT, WIDTH, CHANNELS] = DATA.size;
const CLASSES = DATA.classes, MANY = 32;
const convs = DATA.convs, pools = DATA.pools, learned = new Map();
// Operations that read an operation.
const readers = operations.map(() => []);
operations.forEach(({ inputs }, at) => inputs.forEach((from) => readers[from].push(at)));

const state = {
  pixels: Float32Array.from(picture.data), values: [], conv: convs[0], filter: 0, channel: 0, pool: pools[0], poolMap: 0,
  spot: { row: 0, column: 0, fixed: false }, poolSpot: { row: 0, column: 0, fixed: false },
};

// The space is one at which no line ends.
const percent = (value) => `${shown(100 * value, value > 0.1 ? 1 : 2)}\u00a0%`;
const order = (values) => [...values.keys()].sort((a, b) => values[b] - values[a]);

// One map of an operation: its own size and values. A page of a large network has only some.
function plane(at, channel) {
  const [height, width, channels] = operations[at].shape.length === 3 ? operations[at].shape : [1, 1, operations[at].shape[0]];
  if (state.values[at]) {
    const data = new Float32Array(height * width), from = state.values[at];
    for (let i = 0; i < data.length; i++) data[i] = from[i * channels + channel];
    return { height, width, data };
  }
  return DATA.stored[at]?.planes[channel] ?? null;
}

const channelsOf = (at) => DATA.stored?.[at]?.channels ?? [...Array(operations[at].shape.at(-1)).keys()];

// The operations after a convolution up to its activation, such as batch normalization.
function chain(at) {
  const found = [];
  while (readers[at].length === 1) {
    [at] = readers[at];
    if (!["affine", "add", "activation"].includes(operations[at].kind)) break;
    found.push(at);
    if (operations[at].kind === "activation") break;
  }
  return found;
}

const STEPS = { relu: "the ReLU", relu6: "the ReLU6", add: "the sum with the shortcut" };
const stepName = ({ kind, settings }) => STEPS[settings.function ?? kind] ?? (kind === "affine" ? `the ${settings.what}` : `the ${settings.function}`);

// Buttons with small maps of some channels. `pick` is called with the one that is chosen.
function thumbs(box, label, chosen, shape, bytesOf, channels, pick) {
  box.replaceChildren(...channels.slice(0, MANY).map((channel) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button";
    button.setAttribute("aria-label", label(channel));
    button.setAttribute("aria-pressed", channel === chosen);
    paint(canvas, shape, bytesOf(channel), 56);
    button.append(canvas);
    button.addEventListener("click", () => {
      pick(channel);
      box.children[channels.indexOf(channel)]?.focus();
    });
    return button;
  }));
}

// The numbers of a detector for one of its own input channels.
function matrixOf({ shape: [, , filters], settings: { size: [tall, wide], groups }, weights }, filter, channel) {
  const own = operations[operations[state.conv].inputs[0]].shape[2] / groups, { data } = weights.kernel;
  return [...Array(tall).keys()].map((u) => [...Array(wide).keys()]
    .map((v) => data[((u * wide + v) * own + channel) * filters + filter]));
}

// The first channel of the input that a detector reads, and how many it reads.
function ownChannels() {
  const { shape, settings: { groups }, inputs: [from] } = operations[state.conv], all = operations[from].shape[2];
  return { first: Math.floor(state.filter / (shape[2] / groups)) * (all / groups), count: all / groups };
}

function chooseConvolution() {
  const { shape, weights } = operations[state.conv], channels = channelsOf(state.conv);
  if (!channels.includes(state.filter)) [state.filter] = channels;
  fillSelect(byId("filter"), channels.map((at) => [at, `${at + 1} of ${shape[2]}`]), state.filter);
  state.spot.row = shape[0] >> 1;
  state.spot.column = shape[1] >> 1;
  chooseChannels();
  byId("detectors").hidden = !weights.kernel;
}

function chooseChannels() {
  const { first, count } = ownChannels();
  state.channel = Math.min(state.channel, count - 1);
  fillSelect(byId("channel"), [...Array(count).keys()].map((at) => [at, `${first + at + 1}`]), state.channel);
}

function pickFilter(channel) {
  state.filter = channel;
  byId("filter").value = channel;
  showConvolution();
}

function showConvolution() {
  if (!convs.length) return;
  const operation = operations[state.conv], { shape, weights } = operation;
  chooseChannels();
  if (weights.kernel) {
    const { size: [tall, wide] } = operation.settings;
    thumbs(byId("detectors"), (at) => `Detector ${at + 1}`, state.filter, [tall, wide, 3], (at) => colors(matrixOf(operation, at, state.channel).flat()),
      channelsOf(state.conv), pickFilter);
  }
  thumbs(byId("maps"), (at) => `Feature map ${at + 1}`, state.filter, [...reducedShape(state.conv), 3], (at) => colors(plane(state.conv, at).data),
    channelsOf(state.conv), pickFilter);
  byId("map-caption").textContent = `Feature map ${state.filter + 1}, ${shape[0]}x${shape[1]}. ${rangeText(plane(state.conv, state.filter).data)}`;
  makeMatrix();
  showSpot();
  showActivation();
  showPadding();
}

function reducedShape(at) {
  const { height, width } = plane(at, channelsOf(at)[0]);
  return [height, width];
}

function makeMatrix() {
  const operation = operations[state.conv], box = byId("matrix");
  const { first } = ownChannels();
  byId("matrix-legend").textContent = `Numbers of detector ${state.filter + 1} for channel ${first + state.channel + 1}`;
  if (!operation.weights.kernel) {
    box.textContent = "This page does not contain the numbers of this layer.";
    return;
  }
  const { size: [tall, wide], groups } = operation.settings, [, , filters] = operation.shape;
  const own = operations[operation.inputs[0]].shape[2] / groups, { data } = operation.weights.kernel;
  box.style.gridTemplateColumns = `repeat(${wide}, minmax(3.4rem, 1fr))`;
  const key = [state.conv, state.filter, state.channel, DATA.alive].join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(...[...Array(tall * wide).keys()].map((tap) => {
      const name = `Row ${Math.floor(tap / wide) + 1}, column ${tap % wide + 1}`, at = (tap * own + state.channel) * filters + state.filter;
      if (!DATA.alive) return document.createElement("span");
      const input = Object.assign(document.createElement("input"), { type: "number", step: "any" });
      input.setAttribute("aria-label", name);
      input.addEventListener("input", () => {
        if (input.value === "" || !Number.isFinite(Number(input.value))) return;
        keep(operation);
        data[at] = Number(input.value);
        input.className = data[at] < 0 ? "negative" : "positive";
        later();
      });
      return input;
    }));
  }
  [...box.children].forEach((child, tap) => {
    const value = data[(tap * own + state.channel) * filters + state.filter];
    child.className = value < 0 ? "negative" : "positive";
    if (child.tagName !== "INPUT") child.textContent = shown(value, 3);
    else if (child !== document.activeElement) child.value = Number(value.toFixed(3));
  });
}

const keep = (operation) => {
  if (!learned.has(operation)) learned.set(operation, operation.weights.kernel.data.slice());
};

// The window, the detector, the products and the sum of one pixel of the feature map.
function showSpot() {
  const at = state.conv, operation = operations[at], { row, column, fixed } = state.spot, [, , filters] = operation.shape;
  const { size: [tall, wide], strides, dilation, before } = operation.settings, [from] = operation.inputs;
  const { first, count } = ownChannels(), [height, width, channels] = operations[from].shape;
  const shownMap = plane(at, state.filter), part = shownMap.height / operation.shape[0];
  paintValues(byId("map"), shownMap);
  mark(byId("map"), Math.floor(row * part), Math.floor(column * part), 1, 1);
  const y0 = row * strides[0] - before[0], x0 = column * strides[1] - before[1], span = [(tall - 1) * dilation[0] + 1, (wide - 1) * dilation[1] + 1];
  const input = plane(from, first + state.channel);
  byId("input").parentElement.hidden = !input;
  if (input) {
    const ratio = input.height / height;
    paintValues(byId("input"), input);
    mark(byId("input"), y0 * ratio, x0 * ratio, span[0] * ratio, span[1] * ratio);
    byId("input-caption").textContent = `Input, channel ${first + state.channel + 1}, with the ${tall}x${wide} window. ${rangeText(input.data)}`;
  }
  showField(at, row, column);
  const computable = operation.weights.kernel && state.values[from];
  byId("channels").hidden = !computable || count === 1;
  document.querySelector("#map-part .scroll").hidden = !computable;
  const value = shownMap.data[Math.floor(row * part) * shownMap.width + Math.floor(column * part)];
  const after = chain(at).map((next) => [stepName(operations[next]), plane(next, state.filter)])
    .filter(([, map]) => map && map.height === shownMap.height)
    .map(([name, map]) => `after ${name} ${shown(map.data[Math.floor(row * part) * map.width + Math.floor(column * part)])}`);
  const end = `${after.length ? `; ${after.join(", ")}` : ""}.${fixed ? " Fixed." : ""}`;
  if (!computable) {
    byId("sentence").textContent = `Row ${row + 1}, column ${column + 1}: ${shown(value)}${end}`;
    return;
  }
  const sums = new Float64Array(count), tables = [[], [], []], x = state.values[from], kernel = operation.weights.kernel.data;
  for (let u = 0; u < tall; u++) {
    for (const table of tables) table.push([]);
    for (let v = 0; v < wide; v++) {
      const y = y0 + u * dilation[0], z = x0 + v * dilation[1], inside = y >= 0 && y < height && z >= 0 && z < width;
      for (let c = 0; c < count; c++) {
        const one = inside ? x[(y * width + z) * channels + first + c] : 0;
        const weight = kernel[((u * wide + v) * count + c) * filters + state.filter];
        sums[c] += one * weight;
        if (c === state.channel) [one, weight, one * weight].forEach((number, k) => tables[k][u].push(number));
      }
    }
  }
  ["window", "detector", "products"].forEach((id, k) => fillTable(byId(id), tables[k], 2, k > 0));
  const bias = operation.weights.bias.data[state.filter], sum = sums.reduce((a, b) => a + b, 0);
  const heaviest = [...sums.keys()].sort((a, b) => Math.abs(sums[b]) - Math.abs(sums[a])).slice(0, 12);
  fillBars(byId("channels"), ["channel", "sum"], [...heaviest.map((c) => [[`${first + c + 1}`, shown(sums[c])], sums[c]]),
    ...(count > 12 ? [[["all others", shown(sum - heaviest.reduce((a, c) => a + sums[c], 0))], sum - heaviest.reduce((a, c) => a + sums[c], 0)]] : []),
    [["bias", shown(bias)], bias]]);
  const over = count === 1 ? `the sum of ${tall * wide} products` : `the sums of ${count} channels`;
  byId("sentence").textContent = `${tall}x${wide} window at row ${row + 1}, column ${column + 1}: ${shown(sum, 3)} (${over}) + ${shown(bias, 3)} (bias) `
    .replace("+ \u2212", "\u2212 ") + `= ${shown(sum + bias, 3)}${end}`;
}

function showField(at, row, column) {
  const { field } = operations[at];
  paint(byId("seen"), picture.shape, Uint8ClampedArray.from(state.pixels));
  if (!field) {
    byId("seen-caption").textContent = "The value can depend on the whole picture.";
    return;
  }
  const ends = field.map(([start, step, size], axis) => {
    const first = start + step * (axis ? column : row), whole = axis ? WIDTH : HEIGHT;
    return [Math.max(0, first), Math.min(whole, first + size)];
  });
  const [[top, bottom], [left, right]] = ends, zoom = picture.shape[0] / HEIGHT;
  mark(byId("seen"), top * zoom, left * zoom, (bottom - top) * zoom, (right - left) * zoom);
  byId("seen-caption").textContent = `Receptive field of the pixel: it can depend on rows ${top + 1} to ${bottom} and columns ${left + 1} to ${right} `
    + "of the picture, on nothing else.";
}

function showActivation() {
  const steps = chain(state.conv), at = steps.find((each) => operations[each].kind === "activation");
  const figures = document.querySelector("#relu-part .columns"), map = at && plane(at, state.filter);
  const earlier = at && plane(operations[at].inputs[0], state.filter);
  figures.hidden = !map || !earlier;
  if (figures.hidden) {
    byId("relu-text").textContent = at ? "This page does not contain these maps." : "No activation follows this convolution directly.";
    return;
  }
  const others = steps.slice(0, steps.indexOf(at)).map((each) => stepName(operations[each]));
  const zeros = (data) => data.reduce((count, value) => count + (value === 0), 0);
  const all = channelsOf(at).map((each) => plane(at, each).data), total = all.reduce((sum, data) => sum + data.length, 0);
  byId("relu-text").textContent = `After ${[...others, stepName(operations[at])].join(" and ")}, ${percent(zeros(map.data) / map.data.length)} of the values of map `
    + `${state.filter + 1} are 0, and ${percent(all.reduce((sum, data) => sum + zeros(data), 0) / total)} of those of all maps of this layer.`;
  for (const [id, values] of [["before", earlier], ["after", map]]) {
    paintValues(byId(id), values);
    byId(`${id}-caption`).textContent = `${id === "before" ? "Before" : "After"} ${stepName(operations[at])}. ${rangeText(values.data)}`;
  }
}

function showPadding() {
  const { shape, settings, inputs: [from] } = operations[state.conv], [height, width] = operations[from].shape;
  const { size, strides, dilation, before } = settings, map = plane(from, ownChannels().first + state.channel);
  const after = [height, width].map((length, axis) => Math.max(0, (shape[axis] - 1) * strides[axis] + (size[axis] - 1) * dilation[axis] + 1 - length - before[axis]));
  const padded = before.some(Boolean) || after.some(Boolean);
  byId("padded").parentElement.hidden = !map || map.height !== height;
  const rowsOf = (count) => (count === 1 ? "1 row" : `${count} rows`), columnsOf = (count) => (count === 1 ? "1 column" : `${count} columns`);
  const frame = `${rowsOf(before[0])} above, ${rowsOf(after[0])} below, ${columnsOf(before[1])} on the left and ${columnsOf(after[1])} on the right`;
  const without = [height, width].map((length, axis) => Math.floor((length - (size[axis] - 1) * dilation[axis] - 1) / strides[axis]) + 1);
  byId("padding-text").textContent = padded
    ? `Same padding puts a frame of zeros around the input: ${frame}. So an input of ${height}x${width} gives a map of ${shape[0]}x${shape[1]}; without the frame it would be ${without.join("x")}.`
    : `This convolution has no padding: an input of ${height}x${width} gives a map of ${shape[0]}x${shape[1]}.`;
  if (!map || map.height !== height) return;
  const rows = height + before[0] + after[0], columns = width + before[1] + after[1], bytes = new Uint8ClampedArray(rows * columns * 3), inner = colors(map.data);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
    const y = i - before[0], x = j - before[1], inside = y >= 0 && y < height && x >= 0 && x < width;
    bytes.set(inside ? inner.subarray(3 * (y * width + x), 3 * (y * width + x) + 3) : (i + j) % 2 ? [150, 150, 150] : [90, 90, 90], 3 * (i * columns + j));
  }
  paint(byId("padded"), [rows, columns, 3], bytes);
  byId("padded-caption").textContent = padded ? "The frame is drawn in gray squares." : "There is no frame.";
}

function showPooling() {
  if (!pools.length) return;
  const { shape, kind, settings: { size, strides, before }, inputs: [from] } = operations[state.pool], max = kind === "max_pool";
  const channels = channelsOf(state.pool).filter((each) => plane(from, each));
  if (!channels.includes(state.poolMap)) [state.poolMap] = channels;
  fillSelect(byId("pool-map"), channels.map((each) => [each, `${each + 1} of ${shape[2]}`]), state.poolMap);
  const map = plane(state.pool, state.poolMap), source = plane(from, state.poolMap), whole = source.height === operations[from].shape[0];
  const row = limit(state.poolSpot.row, shape[0]), column = limit(state.poolSpot.column, shape[1]);
  paintValues(byId("pooled"), map);
  paintValues(byId("unpooled"), source);
  byId("unpooled-caption").textContent = `Before, ${operations[from].shape.slice(0, 2).join("x")}. ${rangeText(source.data)}`;
  byId("pooled-caption").textContent = `After, ${shape[0]}x${shape[1]}. Point at it, or move with the arrow keys.`;
  const part = map.height / shape[0];
  mark(byId("pooled"), Math.floor(row * part), Math.floor(column * part), 1, 1);
  if (!whole) {
    byId("pool-sentence").textContent = "The maps are shown smaller than they are, so single values cannot be shown.";
    return;
  }
  const y0 = row * strides[0] - before[0], x0 = column * strides[1] - before[1], values = [];
  for (let y = Math.max(0, y0); y < Math.min(source.height, y0 + size[0]); y++) {
    for (let x = Math.max(0, x0); x < Math.min(source.width, x0 + size[1]); x++) values.push({ y, x, value: source.data[y * source.width + x] });
  }
  mark(byId("unpooled"), y0, x0, size[0], size[1]);
  const best = values.reduce((a, b) => (b.value > a.value ? b : a));
  if (max && values.length > 1) mark(byId("unpooled"), best.y, best.x, 1, 1);
  const list = values.length <= 9 ? values.map(({ value }) => shown(value)).join(", ") : `${values.length} values`;
  const result = max ? `the largest is ${shown(best.value)}, at row ${best.y + 1}, column ${best.x + 1} of the map`
    : `the mean is ${shown(values.reduce((sum, { value }) => sum + value, 0) / values.length)}`;
  const kept = values.length === 1 ? "a window of one value only leaves values out" : result;
  byId("pool-sentence").textContent = `Row ${row + 1}, column ${column + 1}, window of ${size.join("x")}: ${list}; ${kept}.${state.poolSpot.fixed ? " Fixed." : ""}`;
}

function showAll() {
  if (DATA.alive) state.values = forward(operations, state.pixels);
  paint(byId("picture"), picture.shape, Uint8ClampedArray.from(state.pixels));
  showConvolution();
  showPooling();
  showAnswer();
}

let waiting = false;
// Compute once for all changes that come before the browser has time.
function later() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => {
    waiting = false;
    showAll();
  });
}
