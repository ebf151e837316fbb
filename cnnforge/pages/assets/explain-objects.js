// The page of `cnnforge explain` for a detector: heat, distances and boxes.

const objects = DATA.objects, LEVELS = objects.levels, RUN = objects.options, SIDES = ["left", "top", "right", "bottom"];
const MAX_ROWS = 40, heat = { label: 0, level: 0, spot: { row: 0, column: 0, fixed: false } };
const thresholds = { confidence: RUN.confidence, overlap: RUN.overlap };
const ofKeras = LEVELS.map(({ values }) => unpack(values).data);

const sigmoid = (x) => Math.fround(1 / (1 + Math.exp(-Math.min(Math.max(x, -80), 80))));
const logit = (p) => Math.log(p / (1 - p));

// The maps by increasing stride: those of the page, or those of Keras, which can have fewer classes.
function mapsOf(computed = DATA.alive) {
  return LEVELS.map(({ operation, stride, rows, columns }, k) => {
    const labels = computed ? [...CLASSES.keys()] : objects.classes;
    return { stride, rows, columns, labels, width: labels.length + 4, data: computed ? state.values[operation] : ofKeras[k] };
  });
}

const heatOf = ({ data, width, labels, columns }, label, row, column) => data[(row * columns + column) * width + labels.indexOf(label)];

// The place of the largest value of the 3x3 cells around a cell; the cell itself if none is larger.
function largestAround(map, at, row, column) {
  const { data, width, rows, columns } = map;
  let best = [row, column], high = data[(row * columns + column) * width + at];
  for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++) for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) {
    const value = data[(y * columns + x) * width + at];
    if (value > high) [best, high] = [[y, x], value];
  }
  return best;
}

// The distances of a cell to the sides of its box, and the box, in pixels of the network's picture.
function boxOf({ data, width, labels, columns, stride }, row, column) {
  const from = (row * columns + column) * width + labels.length, middle = [column, row].map((place) => (place + 0.5) * stride);
  const distances = [0, 1, 2, 3].map((k) => Math.exp(Math.min(Math.max(data[from + k], -objects.maxLog), objects.maxLog)) * stride);
  const ends = distances.map((distance, k) => middle[k % 2] + (k < 2 ? -distance : distance));
  return { middle, distances, box: ends.map((end, k) => Math.min(Math.max(end, 0), k % 2 ? HEIGHT : WIDTH)) };
}

const areaOf = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);

function overlapOf(a, b) {
  const common = areaOf([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  const union = areaOf(a) + areaOf(b) - common;
  return union > 0 ? common / union : 0;
}

// The peaks from a confidence on, those with the highest first, and what non-maximum suppression does.
function decode(maps, confidence, overlap) {
  const found = [], least = logit(Math.min(Math.max(confidence, 1e-7), 1 - 1e-7)) - 1e-3;
  maps.forEach((map, level) => {
    for (let row = 0; row < map.rows; row++) for (let column = 0; column < map.columns; column++) map.labels.forEach((label, at) => {
      const value = map.data[(row * map.columns + column) * map.width + at];
      if (value < least || sigmoid(value) < Math.fround(confidence)) return;
      const [y, x] = largestAround(map, at, row, column);
      if (y === row && x === column) found.push({ level, row, column, label, score: sigmoid(value), ...boxOf(map, row, column) });
    });
  });
  const peaks = found.sort((a, b) => b.score - a.score).slice(0, objects.candidates), kept = [];
  for (const peak of peaks) {
    peak.remover = kept.find(({ label, box }) => label === peak.label && overlapOf(box, peak.box) >= overlap) ?? null;
    if (!peak.remover) kept.push(peak);
  }
  // As in Python: the border around the picture is left out last.
  const first = kept.slice(0, RUN.max_detections), boxes = first.filter(({ box }) => areaOf(inOriginal(box)) > 0);
  boxes.forEach((peak, k) => { peak.number = k + 1; });
  return { peaks, first, boxes };
}

let current = { maps: [], peaks: [], boxes: [] };

// The names and the confidences of the first objects.
function listed(boxes) {
  const names = boxes.slice(0, 5).map(({ label, score }) => `${CLASSES[label]} with ${percent(score)}`);
  return boxes.length ? `${boxes.length === 1 ? "1 object" : `${boxes.length} objects`}: ${names.join(", ")}${boxes.length > 5 ? " and more" : ""}` : "no objects";
}

function showAnswer() {
  const maps = mapsOf();
  current = { maps, ...decode(maps, thresholds.confidence, thresholds.overlap) };
  byId("answer").textContent = `Found with a confidence of at least ${percent(thresholds.confidence)}: ${listed(current.boxes)}.`;
  if (DATA.alive) byId("live").textContent = `Found now: ${listed(current.boxes)}.`;
  showBoxes();
  showHeats();
}

function showHeats() {
  const map = current.maps[heat.level], { labels, rows, columns } = map;
  const valuesOf = (label) => Float32Array.from({ length: rows * columns }, (_, i) => sigmoid(map.data[i * map.width + labels.indexOf(label)]));
  const count = (label, level) => current.peaks.filter((peak) => peak.label === label && (level === undefined || peak.level === level)).length;
  const peaksText = (number) => (number === 1 ? "1 peak" : `${number} peaks`);
  fillSelect(byId("heat-class"), labels.map((label) => [label, `${CLASSES[label]}, ${peaksText(count(label))}`]), heat.label);
  fillSelect(byId("heat-level"), LEVELS.map(({ stride }, k) => [k, `${LEVELS[k].rows}x${LEVELS[k].columns} cells of ${stride}x${stride} pixels, ${peaksText(count(heat.label, k))}`]), heat.level);
  fillSelect(byId("peak"), [["", "choose"], ...current.peaks.map(({ label, score, row, column }, k) => [k,
    `${CLASSES[label]}, ${percent(score)}, row ${row + 1}, column ${column + 1}`])], "");
  // The classes with peaks come first, if there is no space for all.
  const most = [...labels].sort((a, b) => count(b) - count(a) || a - b).slice(0, MANY).sort((a, b) => a - b);
  thumbs(byId("heats"), (label) => `Heat of ${CLASSES[label]}`, heat.label, [rows, columns, 3], (label) => colors(valuesOf(label), [0, 1]), most, (label) => {
    heat.label = label;
    showHeats();
  });
  heat.values = valuesOf(heat.label);
  showCell();
}

function showCell() {
  const map = current.maps[heat.level], { rows, columns, stride } = map, { spot, label, values } = heat, at = map.labels.indexOf(label);
  const row = limit(spot.row, rows), column = limit(spot.column, columns);
  paint(byId("heat-map"), [rows, columns, 3], colors(values, [0, 1]));
  mark(byId("heat-map"), row, column, 1, 1);
  byId("heat-map-caption").textContent = `Heat of ${CLASSES[label]}, ${rows}x${columns} cells of ${stride}x${stride} pixels: dark is 0 %, yellow is 100 %. `
    + `The highest is ${percent(extremes(values)[1])}.`;
  const peaks = current.peaks.filter((peak) => peak.label === label && peak.level === heat.level), only = new Float32Array(rows * columns);
  for (const peak of peaks) only[peak.row * columns + peak.column] = peak.score;
  paint(byId("peaks"), [rows, columns, 3], colors(only, [0, 1]));
  for (const peak of peaks) mark(byId("peaks"), peak.row, peak.column, 1, 1);
  byId("peaks-caption").textContent = peaks.length
    ? `The peaks with at least ${percent(thresholds.confidence)}, in frames: ${peaks.map(({ score }) => percent(score)).slice(0, 5).join(", ")}${peaks.length > 5 ? " and more" : ""}.`
    : `No cell of this map is a peak with at least ${percent(thresholds.confidence)}.`;
  const value = percent(values[row * columns + column]), [y, x] = largestAround(map, at, row, column);
  const reason = y === row && x === column ? "not below any of the cells around it, so it is a peak"
    : `the largest around it is ${percent(sigmoid(heatOf(map, label, y, x)))}, at row ${y + 1}, column ${x + 1}, so max pooling leaves this cell out`;
  byId("heat-sentence").textContent = `Row ${row + 1}, column ${column + 1}: ${value}; ${reason}.${spot.fixed ? " Fixed." : ""}`;
  showLines(map, row, column);
}

// Draw the picture in its colors, and return the context and the number of its pixels per pixel of
// the network's picture.
function background(canvas) {
  paint(canvas, picture.shape, Uint8ClampedArray.from(state.pixels), 640);
  return { context: canvas.getContext("2d"), scale: canvas.width / WIDTH };
}

function strokeBoth(context, style, draw_, dash = []) {
  for (const [color_, width, lines] of [["#000000", 5, []], [style, 3, dash]]) {
    Object.assign(context, { strokeStyle: color_, lineWidth: width });
    context.setLineDash(lines);
    context.beginPath();
    draw_();
    context.stroke();
  }
  context.setLineDash([]);
}

const COLORS = ["#ffb000", "#56c7ff", "#ff7bb5", "#7be07b"];

function showLines(map, row, column) {
  const canvas = byId("lines"), { context, scale } = background(canvas), { middle, distances, box } = boxOf(map, row, column), [x, y] = middle;
  strokeBoth(context, "#ffffff", () => context.rect(box[0] * scale, box[1] * scale, (box[2] - box[0]) * scale, (box[3] - box[1]) * scale));
  [[x - distances[0], y], [x, y - distances[1]], [x + distances[2], y], [x, y + distances[3]]].forEach(([toX, toY], k) => {
    strokeBoth(context, COLORS[k], () => {
      context.moveTo(x * scale, y * scale);
      context.lineTo(toX * scale, toY * scale);
    });
  });
  byId("lines-caption").textContent = `The cell at row ${row + 1}, column ${column + 1}: four lines from its middle to the sides of its box, which is ${shown(box[2] - box[0], 1)} wide and ${shown(box[3] - box[1], 1)} high.`;
  fillBars(byId("distances"), ["side", "cells", "pixels"], SIDES.map((side, k) => [[side, shown(distances[k] / map.stride), shown(distances[k], 1)], distances[k]]));
}

// A box in pixels of the picture as loaded.
function inOriginal([x1, y1, x2, y2]) {
  const [height, width, scaleX, scaleY, left, top] = objects.original, to = (value, offset, scale, end) => Math.min(Math.max((value - offset) / scale, 0), end);
  return [to(x1, left, scaleX, width), to(y1, top, scaleY, height), to(x2, left, scaleX, width), to(y2, top, scaleY, height)];
}

function showBoxes() {
  const { peaks, boxes } = current, removed = peaks.filter(({ remover }) => remover), canvas = byId("boxes"), { context, scale } = background(canvas);
  const outline = ({ box: [x1, y1, x2, y2] }, style, dash) => strokeBoth(context, style, () => context.rect(x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale), dash);
  for (const peak of removed) outline(peak, "#56c7ff", [8, 6]);
  // The best boxes are drawn last, and a number is left out if it would cover that of a better box.
  for (const peak of [...boxes].reverse()) outline(peak, "#ffb000", []);
  context.font = "bold 22px sans-serif";
  context.textBaseline = "top";
  const written = [];
  for (const { box: [x1, y1], number } of boxes) {
    const text = String(number), wide = context.measureText(text).width + 10, left = limit(x1 * scale, canvas.width - wide), top = limit(y1 * scale, canvas.height - 26);
    if (written.some(([x, y]) => Math.abs(x - left) < 36 && Math.abs(y - top) < 26)) continue;
    written.push([left, top]);
    context.fillStyle = "#000000";
    context.fillRect(left, top, wide, 26);
    context.fillStyle = "#ffb000";
    context.fillText(text, left + 5, top + 3);
  }
  for (const name of ["confidence", "overlap"]) {
    byId(name).value = thresholds[name];
    byId(`${name}-value`).textContent = percent(thresholds[name]);
  }
  const without = removed.length ? `${removed.length === 1 ? "1 box is" : `${removed.length} boxes are`} removed, because of an overlap of at least ${percent(thresholds.overlap)} with a better one`
    : `no box is removed, because no two of a class overlap by ${percent(thresholds.overlap)} or more`;
  byId("boxes-text").textContent = `${peaks.length === 1 ? "1 peak has" : `${peaks.length} peaks have`} a confidence of at least ${percent(thresholds.confidence)}; ${without}. `
    + `Found: ${listed(boxes)}.`;
  fillCandidates(peaks);
}

function fillCandidates(peaks) {
  const table = byId("candidates"), head = document.createElement("thead"), body = document.createElement("tbody"), line = head.insertRow();
  for (const text of ["box", "class", "confidence", "left", "top", "right", "bottom", "result"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    line.append(cell);
  }
  for (const peak of peaks.slice(0, MAX_ROWS)) {
    const row = body.insertRow(), sides = inOriginal(peak.box).map((side) => shown(side, 1)), { remover } = peak;
    const result = remover ? `removed: overlaps box ${remover.number ?? "that is left out"} by ${percent(overlapOf(peak.box, remover.box))}`
      : peak.number ? "stays" : areaOf(inOriginal(peak.box)) > 0 ? `left out: more than ${RUN.max_detections} boxes` : "left out: in the border around the picture";
    [peak.number ?? "", CLASSES[peak.label], percent(peak.score), ...sides, result].forEach((text, k) => {
      const cell = row.insertCell();
      cell.textContent = text;
      if (k >= 2 && k < 7) cell.className = "number";
    });
  }
  if (peaks.length > MAX_ROWS) body.insertRow().insertCell().textContent = `and ${peaks.length - MAX_ROWS} more`;
  table.replaceChildren(table.caption, head, body);
}

// Compare boxes with those that Python found in the maps of Keras. Return the largest differences.
function compared(boxes) {
  const { python } = objects, most = (high, value) => Math.max(high, value);
  const same = boxes.length === python.labels.length && boxes.every(({ label }, k) => label === python.labels[k]);
  if (!same) return { same, boxes: Infinity, scores: Infinity };
  return {
    same, boxes: boxes.flatMap(({ box }, k) => box.map((side, i) => Math.abs(side - python.boxes[k][i]))).reduce(most, 0),
    scores: boxes.map(({ score }, k) => Math.abs(score - python.scores[k])).reduce(most, 0),
  };
}

const power = (value) => (value === 0 ? "0" : value.toExponential(1).replace("-", "\u2212"));

function showCheck() {
  const texts = [DATA.alive ? "This page computes the network itself." : DATA.whyNotAlive], check = byId("check");
  if (DATA.alive) {
    const { high, sides } = apart(mapsOf(), mapsOf(false));
    check.dataset.difference = Math.max(high, sides);
    texts.push(`The largest difference between its heat and that of Keras is ${power(high)}, and ${power(sides)} between logarithms of distances.`);
    if (DATA.half) texts.push("The weights are rounded to 16 bits, so that the page is small.");
  }
  const { same, boxes, scores } = compared(decode(mapsOf(false), RUN.confidence, RUN.overlap).first);
  Object.assign(check.dataset, { same, boxes, scores });
  if (same && !objects.python.labels.length) texts.push("In the maps of Keras, it finds no objects, as Python does.");
  else texts.push(same ? `In the maps of Keras, it finds the same objects as Python: the sides of the boxes differ by at most ${power(boxes)} pixels, the confidences by at most ${power(scores)}.`
    : "In the maps of Keras, it does not find the same objects as Python, because the page does not contain all of them, or they are rounded.");
  check.textContent = texts.join(" ");
}

// The largest differences between maps: of heat, and of logarithms of distances.
function apart(ours, theirs) {
  let high = 0, sides = 0;
  ours.forEach((map, k) => {
    const { data, width, labels } = theirs[k];
    for (let i = 0; i < map.rows * map.columns; i++) {
      labels.forEach((label, at) => { high = Math.max(high, Math.abs(sigmoid(map.data[i * map.width + label]) - sigmoid(data[i * width + at]))); });
      for (let side = 1; side <= 4; side++) sides = Math.max(sides, Math.abs(map.data[(i + 1) * map.width - side] - data[(i + 1) * width - side]));
    }
  });
  return { high, sides };
}

function startAnswer() {
  byId("why-text").textContent = "Grad-CAM is not shown: it takes the mean over the whole picture, and an object is at one place.";
  const [first] = decode(mapsOf(false), 0, 1).peaks;
  if (first) goTo(first);
  byId("heat-class").addEventListener("change", (event) => {
    heat.label = Number(event.target.value);
    showHeats();
  });
  byId("heat-level").addEventListener("change", (event) => {
    heat.level = Number(event.target.value);
    showHeats();
  });
  byId("peak").addEventListener("change", (event) => {
    if (event.target.value === "") return;
    goTo(current.peaks[event.target.value]);
    showHeats();
  });
  for (const name of ["confidence", "overlap"]) {
    byId(name).addEventListener("input", (event) => {
      thresholds[name] = Number(event.target.value);
      showAnswer();
    });
  }
  byId("thresholds").addEventListener("click", () => {
    Object.assign(thresholds, { confidence: RUN.confidence, overlap: RUN.overlap });
    showAnswer();
  });
  moveOver(byId("heat-map"), heat.spot, () => [LEVELS[heat.level].rows, LEVELS[heat.level].columns], showCell);
}

function goTo({ label, level, row, column }) {
  Object.assign(heat, { label, level });
  Object.assign(heat.spot, { row, column });
}
