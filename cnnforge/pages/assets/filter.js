// The page of `cnnforge filter`: change the detector, and see every step of one pixel of the map.

const picture = unpack(DATA.picture), expected = unpack(DATA.map);
const [HEIGHT, WIDTH, CHANNELS] = picture.shape;
const COLORS = CHANNELS === 3 ? ["red", "green", "blue"] : ["gray"];
const state = { ...DATA.settings, row: 0, column: 0, fixed: false };

const sizeOf = (length, taps, stride, same) =>
  Math.max(0, Math.ceil((same ? length : length - taps + 1) / stride));

// Pixels of padding before the first row or column, as TensorFlow pads.
function paddingBefore(length, taps, stride, same) {
  if (!same) return 0;
  const count = sizeOf(length, taps, stride, same);
  return Math.max(0, (count - 1) * stride + taps - length) >> 1;
}

function geometry() {
  const taps = state.matrix.length, same = state.padding === "same", { stride } = state;
  return {
    taps, rows: sizeOf(HEIGHT, taps, stride, same), columns: sizeOf(WIDTH, taps, stride, same),
    top: paddingBefore(HEIGHT, taps, stride, same), left: paddingBefore(WIDTH, taps, stride, same),
  };
}

// The sums of one color, before they are divided.
function convolve(color, { taps, rows, columns, top, left }) {
  const sums = new Float64Array(rows * columns), { stride } = state, { data } = picture;
  for (let u = 0; u < taps; u++) for (let v = 0; v < taps; v++) {
    const weight = state.matrix[u][v];
    if (weight === 0) continue;
    for (let i = 0; i < rows; i++) {
      const y = i * stride - top + u;
      if (y < 0 || y >= HEIGHT) continue;
      for (let j = 0; j < columns; j++) {
        const x = j * stride - left + v;
        if (x >= 0 && x < WIDTH) sums[i * columns + j] += weight * data[(y * WIDTH + x) * CHANNELS + color];
      }
    }
  }
  return sums;
}

const finish = (sum) => {
  const value = sum / state.divisor;
  return state.relu ? Math.max(value, 0) : value;
};

// Fill `state.values` with the map, (rows, columns, channels), after ReLU and pooling.
function compute() {
  const shape = geometry(), { pool } = state;
  const rows = Math.floor(shape.rows / pool), columns = Math.floor(shape.columns / pool);
  const values = new Float64Array(rows * columns * CHANNELS).fill(-Infinity);
  for (let c = 0; c < CHANNELS; c++) {
    const sums = convolve(c, shape);
    for (let i = 0; i < rows * pool; i++) for (let j = 0; j < columns * pool; j++) {
      const at = (Math.floor(i / pool) * columns + Math.floor(j / pool)) * CHANNELS + c;
      values[at] = Math.max(values[at], finish(sums[i * shape.columns + j]));
    }
  }
  Object.assign(state, { values, rows, columns, shape });
}

const pixel = (value) => Math.min(255, Math.max(0, rounded(value)));

function showMap() {
  compute();
  const { values, rows, columns } = state;
  if (!rows || !columns) {
    byId("about").textContent = "The detector or the square of the pooling is larger than the picture.";
    return;
  }
  state.row = Math.min(state.row, rows - 1);
  state.column = Math.min(state.column, columns - 1);
  state.pixels = Uint8Array.from(values, pixel);
  let low = Infinity, high = -Infinity, below = 0, above = 0;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
    if (rounded(value) < 0) below++;
    if (rounded(value) > 255) above++;
  }
  const percent = (count) => `${shown(100 * count / values.length, 1)} %`;
  byId("map-caption").textContent = `Feature map, ${rows}x${columns}. Values from ${shown(low)} to ${shown(high)}. `
    + `${percent(below)} are below 0 and shown black, ${percent(above)} are above 255 and shown white.`;
  const total = state.matrix.flat().reduce((a, b) => a + b, 0) / state.divisor;
  const effect = total === 0 ? "an area of one color becomes black"
    : total === 1 ? "an area of one color keeps its color"
      : `an area of one color becomes ${shown(total)} times as bright`;
  byId("about").textContent = `The numbers sum to ${shown(total)}: ${effect}.`;
  showPixel();
}

// Mark the pixel of the map, and its window on the picture.
function showPixel() {
  const { shape, row, column, pool, stride, color, taps = shape.taps } = state;
  draw(byId("map"), [state.rows, state.columns, CHANNELS], state.pixels);
  draw(byId("picture"), picture.shape, picture.data);
  const best = winner(row, column);
  const y0 = best.row * stride - shape.top, x0 = best.column * stride - shape.left;
  frame(byId("picture"), x0, y0, taps);
  frame(byId("map"), column, row, 1);
  const window_ = [], products = [];
  let sum = 0;
  for (let u = 0; u < taps; u++) {
    window_.push([]);
    products.push([]);
    for (let v = 0; v < taps; v++) {
      const y = y0 + u, x = x0 + v, inside = y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH;
      const value = inside ? picture.data[(y * WIDTH + x) * CHANNELS + color] : 0;
      window_[u].push(value);
      products[u].push(value * state.matrix[u][v]);
      sum += value * state.matrix[u][v];
    }
  }
  fillTable(byId("window"), window_);
  fillTable(byId("detector"), state.matrix, 4, true);
  fillTable(byId("products"), products, 2, true);
  const value = state.values[(row * state.columns + column) * CHANNELS + color];
  const terms = products.flat().filter((term) => term !== 0);
  const written = terms.length <= 12 ? terms.map((term) => shown(term)).join(" + ").replaceAll("+ \u2212", "\u2212 ")
    : `${terms.length} products`;
  const parts = [`Row ${row + 1}, column ${column + 1}${CHANNELS === 3 ? `, ${COLORS[color]}` : ""}: `
    + `${written || "0"} = ${shown(sum)}`];
  if (state.divisor !== 1) parts.push(`divided by ${shown(state.divisor, 4)} = ${shown(sum / state.divisor)}`);
  if (state.relu) parts.push(`after the ReLU ${shown(finish(sum))}`);
  if (pool > 1) parts.push(`the largest of ${pool}x${pool} values`);
  const seen = pixel(value);
  byId("sentence").textContent = `${parts.join(", ")}. The pixel of the map is ${seen}`
    + `${seen === rounded(value) ? "" : ", because 0 and 255 are the limits"}.`
    + `${state.fixed ? " Fixed." : ""}`;
}

// The position before pooling whose value the pooled map keeps.
function winner(row, column) {
  const { pool, shape, color } = state;
  if (pool === 1) return { row, column };
  let best = null;
  for (let i = 0; i < pool; i++) for (let j = 0; j < pool; j++) {
    const at = { row: row * pool + i, column: column * pool + j };
    at.value = finish(sumAt(at.row, at.column, color, shape));
    if (!best || at.value > best.value) best = at;
  }
  return best;
}

function sumAt(row, column, color, { taps, top, left }) {
  let sum = 0;
  for (let u = 0; u < taps; u++) for (let v = 0; v < taps; v++) {
    const y = row * state.stride - top + u, x = column * state.stride - left + v;
    if (y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH) {
      sum += state.matrix[u][v] * picture.data[(y * WIDTH + x) * CHANNELS + color];
    }
  }
  return sum;
}

function frame(canvas, x, y, size) {
  const context = canvas.getContext("2d");
  // Two colors, so that the frame is seen on any background.
  for (const [color, grow] of [["#000000", 1], ["#ffb000", 0]]) {
    context.strokeStyle = color;
    context.strokeRect(x - 0.5 - grow, y - 0.5 - grow, size + 1 + 2 * grow, size + 1 + 2 * grow);
  }
}

function makeMatrix() {
  const box = byId("matrix"), taps = state.matrix.length;
  box.style.gridTemplateColumns = `repeat(${taps}, minmax(0, 1fr))`;
  box.replaceChildren();
  for (let u = 0; u < taps; u++) for (let v = 0; v < taps; v++) {
    const label = document.createElement("label"), input = document.createElement("input");
    const name = `Row ${u + 1}, column ${v + 1}`;
    input.setAttribute("aria-label", name);
    const out = document.createElement("output");
    if (taps === 3) {
      const reach = Math.max(10, ...state.matrix.flat().map(Math.abs));
      Object.assign(input, { type: "range", min: -reach, max: reach, step: DATA.step });
      label.append(out);
    } else {
      Object.assign(input, { type: "number", step: "any" });
      input.style.width = "100%";
    }
    input.value = state.matrix[u][v];
    out.textContent = shown(state.matrix[u][v], 4);
    input.addEventListener("input", () => {
      const value = Number(input.value);
      if (!Number.isFinite(value)) return;
      state.matrix[u][v] = value;
      out.textContent = shown(value, 4);
      byId("name").value = "";
      showMap();
    });
    label.append(input);
    box.append(label);
  }
}

function select(detector) {
  state.matrix = detector.matrix.map((row) => [...row]);
  state.divisor = detector.divisor;
  byId("divisor").value = detector.divisor;
  makeMatrix();
  showMap();
}

function listen() {
  byId("name").addEventListener("change", (event) => {
    const found = DATA.detectors[event.target.value];
    if (found) select(found);
  });
  byId("divisor").addEventListener("input", (event) => {
    const value = Number(event.target.value);
    if (Number.isFinite(value) && value !== 0) {
      state.divisor = value;
      showMap();
    }
  });
  for (const id of ["stride", "pool"]) byId(id).addEventListener("change", (event) => {
    state[id] = Number(event.target.value);
    showMap();
  });
  byId("padding").addEventListener("change", (event) => {
    state.padding = event.target.value;
    showMap();
  });
  byId("relu").addEventListener("change", (event) => {
    state.relu = event.target.checked;
    showMap();
  });
  byId("color")?.addEventListener("change", (event) => {
    state.color = Number(event.target.value);
    showPixel();
  });
  const map = byId("map");
  const follow = (event) => {
    if (state.fixed && event.type !== "pointerdown") return;
    const box = map.getBoundingClientRect();
    state.column = limit(Math.floor((event.clientX - box.left) / box.width * state.columns), state.columns);
    state.row = limit(Math.floor((event.clientY - box.top) / box.height * state.rows), state.rows);
    showPixel();
  };
  map.addEventListener("pointermove", follow);
  map.addEventListener("pointerdown", follow);
  map.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter") state.fixed = !state.fixed;
    else if (moves[event.key]) {
      const [down, right] = moves[event.key];
      state.row = limit(state.row + down, state.rows);
      state.column = limit(state.column + right, state.columns);
    } else return;
    event.preventDefault();
    showPixel();
  });
}

const limit = (value, count) => Math.min(count - 1, Math.max(0, value));

makeMatrix();
listen();
showMap();
state.row = state.rows >> 1;
state.column = state.columns >> 1;
showPixel();
const equal = state.pixels.reduce((count, value, i) => count + (value === expected.data[i]), 0);
byId("check").textContent = `This page computes the map itself. ${counted(equal)} of ${counted(expected.data.length)} values are `
  + "equal to those that cnnforge computed.";
document.body.dataset.ready = "yes";
