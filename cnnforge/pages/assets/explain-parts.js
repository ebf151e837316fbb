// The page of `cnnforge explain`, second part: why, changes of the picture, and the start.

const gray = Float32Array.from({ length: picture.data.length / CHANNELS }, (_, i) => {
  const pixel = picture.data.subarray(i * CHANNELS, (i + 1) * CHANNELS);
  return pixel.reduce((sum, value) => sum + value, 0) / CHANNELS;
});

// A value between those of a map, as if the map covered the picture.
function between({ shape: [rows, columns], data }, y, x) {
  const [height, width] = picture.shape;
  const i = Math.min(Math.max((y + 0.5) * rows / height - 0.5, 0), rows - 1), j = Math.min(Math.max((x + 0.5) * columns / width - 0.5, 0), columns - 1);
  const top = Math.floor(i), left = Math.floor(j), bottom = Math.min(top + 1, rows - 1), right = Math.min(left + 1, columns - 1);
  const at = (row, column) => data[row * columns + column] * (row === top ? 1 - (i - top) : i - top) * (column === left ? 1 - (j - left) : j - left);
  return at(top, left) + (right > left ? at(top, right) : 0) + (bottom > top ? at(bottom, left) : 0) + (bottom > top && right > left ? at(bottom, right) : 0);
}

function paintHeat(canvas, packedMap) {
  const map = unpack(packedMap), [low, high] = extremes(map.data), reach = Math.max(-low, high) || 1;
  const [height, width] = picture.shape, bytes = new Uint8ClampedArray(height * width * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const value = between(map, y, x), tint = low < 0 ? color(SIGNS, 0.5 + value / reach / 2) : color(MAGNITUDES, value / reach);
    for (let c = 0; c < 3; c++) bytes[(y * width + x) * 3 + c] = 0.65 * tint[c] + 0.35 * gray[y * width + x];
  }
  paint(canvas, [height, width, 3], bytes);
}

const METHODS = {
  "grad-cam": "Grad-CAM", occlusion: "Occlusion", "integrated-gradients": "Integrated gradients",
};
const ABOUT = {
  "grad-cam": "Feature maps of this layer, weighted with the mean of their gradients. Yellow areas speak for the class.",
  occlusion: "A gray square covers a part of the picture. Orange: without this part the score falls; blue: it rises.",
  "integrated-gradients": "The share of each pixel in the difference of the scores of this picture and a black one. Orange speaks for the class, blue against it.",
};

function fillMethods() {
  const own = DATA.maps.map((map, at) => [at, map]).filter(([, { target }]) => String(target) === byId("target").value);
  const name = byId("method").selectedOptions[0]?.text;
  fillSelect(byId("method"), own.map(([at, { method, layer }]) => [at, `${METHODS[method]}${layer ? `: ${layer}` : ""}`]), "");
  const same = [...byId("method").options].find(({ text }) => text === name);
  if (same) byId("method").value = same.value;
  showWhy();
}

function showWhy() {
  const map = DATA.maps[byId("method").value];
  paintHeat(byId("heat"), map.values);
  paintHeat(byId("random"), map.random);
  byId("heat-caption").textContent = ABOUT[map.method];
  const measured = `the rank correlation of the map and those of random last layers is ${shown(map.correlation)}`;
  const parts = [map.passes ? `The check is passed: ${measured}, below ${DATA.maxCorrelation}.`
    : `The check fails: ${measured}, not below ${DATA.maxCorrelation}. This map means nothing: it shows the picture rather than what the network has learned.`];
  if (map.gap !== null) {
    parts.push(`The values sum to the difference of the scores, with a gap of ${percent(map.gap)} after ${map.steps} steps.`
      + `${map.gap > DATA.maxGap ? " This is a large gap: do not trust the values." : ""}`);
  }
  byId("verdict").textContent = parts.join(" ");
}

// The picture that the sliders move: the original one with what was drawn.
let base = Float32Array.from(picture.data);
const pen = { row: HEIGHT >> 1, column: WIDTH >> 1, shown: false };
const border = (() => {
  const values = [], [height, width] = picture.shape;
  for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) if (!i || !j || i === height - 1 || j === width - 1) values.push(i * width + j);
  return [...Array(CHANNELS).keys()].map((c) => {
    const sorted = values.map((at) => picture.data[at * CHANNELS + c]).sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  });
})();

function move() {
  const [right, down, angle] = ["right", "down", "angle"].map((id) => Number(byId(id).value));
  for (const id of ["right", "down", "angle"]) byId(`${id}-value`).textContent = shown(Number(byId(id).value));
  const cos = Math.cos(angle * Math.PI / 180), sin = Math.sin(angle * Math.PI / 180), cy = (HEIGHT - 1) / 2, cx = (WIDTH - 1) / 2;
  const [dx, dy] = [right * Math.ceil(WIDTH / 56), down * Math.ceil(HEIGHT / 56)];
  const at = (y, x, c) => (y >= 0 && y < HEIGHT && x >= 0 && x < WIDTH ? base[(y * WIDTH + x) * CHANNELS + c] : border[c]);
  for (let i = 0; i < HEIGHT; i++) for (let j = 0; j < WIDTH; j++) {
    const v = i - cy - dy, u = j - cx - dx, y = cy + cos * v - sin * u, x = cx + sin * v + cos * u;
    const top = Math.floor(y + 1e-9), left = Math.floor(x + 1e-9), p = Math.max(0, y - top), q = Math.max(0, x - left);
    for (let c = 0; c < CHANNELS; c++) {
      const value = (1 - p) * ((1 - q) * at(top, left, c) + q * at(top, left + 1, c)) + p * ((1 - q) * at(top + 1, left, c) + q * at(top + 1, left + 1, c));
      state.pixels[(i * WIDTH + j) * CHANNELS + c] = angle ? Math.round(value) : value;
    }
  }
  later();
}

function replacePicture(values) {
  base = Float32Array.from(values);
  for (const id of ["right", "down", "angle"]) byId(id).value = 0;
  move();
}

function drawAt(row, column) {
  // What is seen becomes the picture that is drawn on.
  if (["right", "down", "angle"].some((id) => byId(id).value !== "0")) replacePicture(state.pixels);
  const size = Math.max(1, Math.round(Math.max(HEIGHT, WIDTH) / 14)), mean = border.reduce((a, b) => a + b) / CHANNELS;
  const ink = byId("pen").value === "draw" ? border.map(() => (mean < 128 ? 255 : 0)) : border;
  const top = row - (size >> 1), left = column - (size >> 1);
  for (let i = top; i < top + size; i++) for (let j = left; j < left + size; j++) {
    if (i < 0 || i >= HEIGHT || j < 0 || j >= WIDTH) continue;
    base.set(ink, (i * WIDTH + j) * CHANNELS);
    state.pixels.set(ink, (i * WIDTH + j) * CHANNELS);
  }
  later();
}

function enableDrawing() {
  const canvas = byId("picture");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-describedby", "how-draw");
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [limit(Math.floor((event.clientY - box.top) / box.height * HEIGHT), HEIGHT), limit(Math.floor((event.clientX - box.left) / box.width * WIDTH), WIDTH)];
  };
  canvas.addEventListener("pointerdown", (event) => drawAt(...place(event)));
  canvas.addEventListener("pointermove", (event) => event.buttons && drawAt(...place(event)));
  const showPen = () => {
    paint(canvas, picture.shape, Uint8ClampedArray.from(state.pixels));
    mark(canvas, pen.row, pen.column, 1, 1);
  };
  canvas.addEventListener("keydown", (event) => {
    if (ARROWS[event.key]) {
      pen.row = limit(pen.row + ARROWS[event.key][0], HEIGHT);
      pen.column = limit(pen.column + ARROWS[event.key][1], WIDTH);
      showPen();
    } else if (event.key === " ") drawAt(pen.row, pen.column);
    else return;
    event.preventDefault();
  });
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && showPen());
  canvas.addEventListener("blur", later);
  for (const id of ["right", "down", "angle"]) byId(id).addEventListener("input", move);
  byId("original").addEventListener("click", () => replacePicture(picture.data));
  byId("clear").addEventListener("click", () => replacePicture(picture.data.map((_, i) => border[i % CHANNELS])));
}

function putIn({ matrix, divisor }) {
  const operation = operations[state.conv], { settings: { size: [tall, wide] }, shape: [, , filters] } = operation;
  const { count } = ownChannels(), top = (tall - matrix.length) >> 1, left = (wide - matrix.length) >> 1;
  keep(operation);
  for (let u = 0; u < tall; u++) for (let v = 0; v < wide; v++) for (let c = 0; c < count; c++) {
    // The sum over the channels is then that of their mean.
    operation.weights.kernel.data[((u * wide + v) * count + c) * filters + state.filter] = (matrix[u - top]?.[v - left] ?? 0) / divisor / count;
  }
  later();
}

function centerPool() {
  if (pools.length) [state.poolSpot.row, state.poolSpot.column] = operations[state.pool].shape.map((size) => size >> 1);
}

function listen() {
  const choose = (id, change) => byId(id).addEventListener("change", (event) => change(Number(event.target.value)));
  choose("conv", (at) => {
    state.conv = at;
    chooseConvolution();
    showConvolution();
  });
  choose("filter", (at) => {
    state.filter = at;
    showConvolution();
  });
  choose("channel", (at) => {
    state.channel = at;
    showConvolution();
  });
  choose("pool", (at) => {
    state.pool = at;
    centerPool();
    showPooling();
  });
  choose("pool-map", (at) => {
    state.poolMap = at;
    showPooling();
  });
  byId("target").addEventListener("change", fillMethods);
  byId("method").addEventListener("change", showWhy);
  byId("known").addEventListener("change", (event) => {
    const found = DATA.detectors[event.target.value], [tall, wide] = operations[state.conv].settings.size;
    event.target.value = "";
    if (found && Math.min(tall, wide) >= found.matrix.length) putIn(found);
    else byId("matrix-legend").textContent = `A 3x3 matrix does not fit into a detector of ${tall}x${wide}`;
  });
  byId("learned").addEventListener("click", () => {
    const operation = operations[state.conv];
    if (learned.has(operation)) operation.weights.kernel.data.set(learned.get(operation));
    later();
  });
  if (convs.length) moveOver(byId("map"), state.spot, () => operations[state.conv].shape, showSpot);
  if (pools.length) moveOver(byId("pooled"), state.poolSpot, () => operations[state.pool].shape, showPooling);
}

// Read the maps of a page that does not compute: one picture with all maps below each other.
async function decodeStored() {
  await Promise.all(Object.values(DATA.stored ?? {}).map(async (stored) => {
    const image = new Image(), [height, width] = stored.shape, canvas = document.createElement("canvas");
    image.src = stored.sprite;
    await image.decode();
    canvas.width = width;
    canvas.height = height * stored.channels.length;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    stored.planes = Object.fromEntries(stored.channels.map((channel, k) => {
      const [low, step] = stored.scales[k], values = new Float32Array(height * width);
      for (let i = 0; i < values.length; i++) values[i] = low + step * data[4 * (k * height * width + i)];
      return [channel, { height, width, data: values }];
    }));
  }));
}

async function start() {
  await decodeStored();
  for (const element of document.querySelectorAll(".alive")) element.hidden = !DATA.alive;
  for (const element of document.querySelectorAll(".some")) element.hidden = !convs.length;
  for (const element of document.querySelectorAll(".none")) element.hidden = Boolean(convs.length);
  for (const id of ["relu-part", "padding-part"]) byId(id).hidden = !convs.length;
  paint(byId("loaded"), loaded.shape, loaded.data);
  byId("picture-caption").textContent = `As the network gets it: ${HEIGHT}x${WIDTH}, ${CHANNELS === 1 ? "gray" : "color"}, values 0 to 255.${DATA.rescaling}`;
  const names = (list) => list.map((at) => [at, operations[at].name]);
  byId("pool-some").hidden = !pools.length;
  byId("pool-none").hidden = Boolean(pools.length);
  byId("pool-none").textContent = DATA.poolNone;
  if (convs.length) {
    fillSelect(byId("conv"), convs.map((at) => [at, `${operations[at].name}, ${operations[at].settings.size.join("x")}`]), state.conv);
  }
  if (!DATA.alive && DATA.computed) state.values = forward(operations, state.pixels, DATA.computed);
  centerPool();
  if (convs.length) chooseConvolution();
  fillSelect(byId("pool"), names(pools), state.pool);
  fillSelect(byId("target"), DATA.targets, DATA.targets[0][0]);
  startAnswer();
  showAll();
  showCheck();
  fillMethods();
  listen();
  if (DATA.alive) enableDrawing();
  document.body.dataset.ready = "yes";
}

start();
