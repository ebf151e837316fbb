// Draw maps in colors that differ in lightness too, mark places on them, and move over them.

const MAGNITUDES = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const SIGNS = [[8, 69, 148], [107, 174, 214], [247, 247, 247], [253, 141, 60], [140, 45, 4]];

function color(table, part) {
  const place = Math.min(Math.max(part, 0), 1) * (table.length - 1), low = Math.min(Math.floor(place), table.length - 2);
  return table[low].map((value, i) => value + (table[low + 1][i] - value) * (place - low));
}

function extremes(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

// Colors of values, (count, 3) bytes: blue, white and orange if there are negative values.
function colors(values, [low, high] = extremes(values)) {
  const bytes = new Uint8ClampedArray(3 * values.length), reach = Math.max(-low, high) || 1;
  for (let i = 0; i < values.length; i++) {
    bytes.set(low < 0 ? color(SIGNS, 0.5 + values[i] / reach / 2) : color(MAGNITUDES, high > 0 ? values[i] / high : 0), 3 * i);
  }
  return bytes;
}

// Draw (height, width, channels) bytes with each pixel as a square, so that marks fit between them.
function paint(canvas, shape, bytes, side = 320) {
  const [height, width] = shape, scale = Math.max(1, Math.round(side / Math.max(height, width)));
  const small = document.createElement("canvas");
  draw(small, shape, bytes);
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.dataset.scale = scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function paintValues(canvas, { height, width, data }, side) {
  paint(canvas, [height, width, 3], colors(data), side);
}

// Mark a rectangle in two colors, so that it is seen on any background.
function mark(canvas, row, column, rows, columns) {
  const context = canvas.getContext("2d"), scale = Number(canvas.dataset.scale);
  for (const [style, width] of [["#000000", 5], ["#ffb000", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(column * scale, row * scale, columns * scale, rows * scale);
  }
}

const rangeText = (values) => {
  const [low, high] = extremes(values);
  return `Values from ${shown(low, 3)} to ${shown(high, 3)}${low < 0 ? "; blue is negative, orange is positive" : ""}.`;
};

const limit = (value, count) => Math.min(count - 1, Math.max(0, value));
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Let a place (row, column) follow the pointer and the arrow keys. Enter fixes it.
function moveOver(canvas, place, size, changed) {
  const follow = (event) => {
    if (place.fixed && event.type !== "pointerdown") return;
    const box = canvas.getBoundingClientRect(), [rows, columns] = size();
    place.row = limit(Math.floor((event.clientY - box.top) / box.height * rows), rows);
    place.column = limit(Math.floor((event.clientX - box.left) / box.width * columns), columns);
    changed();
  };
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("pointerdown", follow);
  canvas.addEventListener("focus", changed);
  canvas.addEventListener("keydown", (event) => {
    const [rows, columns] = size();
    if (event.key === "Enter") place.fixed = !place.fixed;
    else if (ARROWS[event.key]) {
      place.row = limit(place.row + ARROWS[event.key][0], rows);
      place.column = limit(place.column + ARROWS[event.key][1], columns);
    } else return;
    event.preventDefault();
    changed();
  });
}

// Rows of a table with a bar: [texts, value] each; the longest bar has the value `reach`, or else
// the largest |value|.
function fillBars(table, head, rows, reach = Math.max(...rows.map(([, value]) => Math.abs(value))) || 1) {
  const top = document.createElement("thead"), body = document.createElement("tbody"), line = top.insertRow();
  for (const text of [...head, ""]) {
    const cell = document.createElement(text ? "th" : "td");
    if (text) cell.scope = "col";
    cell.textContent = text;
    line.append(cell);
  }
  for (const [texts, value] of rows) {
    const row = body.insertRow();
    for (const text of texts) row.insertCell().textContent = text;
    const bar = document.createElement("div");
    bar.className = value < 0 ? "bar negative" : "bar";
    bar.style.width = `${100 * Math.abs(value) / reach}%`;
    row.insertCell().append(bar);
  }
  table.replaceChildren(table.caption, top, body);
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, String(value) === String(chosen))));
}
