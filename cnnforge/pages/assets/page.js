// What every page needs: arrays, pixels and small tables.

const byId = (id) => document.getElementById(id);

function unpack({ dtype, shape, values }) {
  const text = atob(values), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const data = dtype === "uint8" ? bytes
    : dtype === "float32" ? new Float32Array(bytes.buffer) : halves(new Uint16Array(bytes.buffer));
  return { data, shape };
}

function halves(words) {
  const made = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const w = words[i], sign = w & 0x8000 ? -1 : 1, power = (w >> 10) & 31, part = w & 1023;
    made[i] = sign * (power === 0 ? part * 2 ** -24
      : power === 31 ? (part ? NaN : Infinity) : (1 + part / 1024) * 2 ** (power - 15));
  }
  return made;
}

// Draw (height, width, channels) bytes; the style of the page scales the canvas.
function draw(canvas, [height, width, channels], bytes) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[i * channels + (channels === 3 ? c : 0)];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Round half to even, as NumPy does.
function rounded(value) {
  const low = Math.floor(value), rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

// A number with at most `digits` decimals and a real minus sign.
const shown = (value, digits = 2) =>
  String(Number(value.toFixed(digits))).replace("-", "\u2212");

// A count with a comma before every three digits, in every language of the browser.
const counted = (count) => count.toLocaleString("en-US");

function fillTable(table, rows, digits = 2, signs = false) {
  const body = document.createElement("tbody");
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of row) {
      const cell = line.insertCell();
      cell.textContent = value === null ? "" : shown(value, digits);
      if (signs && value) cell.className = value < 0 ? "negative" : "positive";
    }
  }
  table.replaceChildren(...[table.caption, body].filter(Boolean));
}
