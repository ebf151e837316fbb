// The page of `cnnforge serve`: send a picture, and show the answer.

const MIN_SIDE = 480, MAX_SIDE = 1280;
const state = { file: null, sent: 0, explaining: false };
const TOKEN = new URLSearchParams(location.search).get("token");

const percent = (part) => `${(100 * part).toFixed(1)}%`;
const sizeOf = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;

function show(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = !text;
}

// Send a picture. Returns the response, or throws an error with a sentence.
async function send(path, file) {
  const headers = { "Content-Type": file.type.startsWith("image/") ? file.type : "image/x-unknown" };
  if (TOKEN) headers.Authorization = `Bearer ${TOKEN}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: file });
  } catch {
    throw new Error("The server does not answer: is 'cnnforge serve' still running?");
  }
  if (response.ok) return response;
  let text = `status ${response.status}`;
  try {
    text = (await response.json()).error;
  } catch { /* The server has not sent JSON. */ }
  throw new Error(`The server refuses the picture: ${text}.`);
}

// Draw the picture, with small pictures as large pixels. Returns the scale, or 0 if it is unknown.
async function drawPicture(file) {
  const canvas = byId("picture");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return 0;
  }
  const side = Math.max(bitmap.width, bitmap.height);
  const scale = side < MIN_SIDE ? Math.ceil(MIN_SIDE / side) : Math.min(1, MAX_SIDE / side);
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.style.imageRendering = scale < 1 ? "auto" : "pixelated";
  byId("caption").textContent = `Your picture, ${bitmap.height}x${bitmap.width} pixels.`;
  return scale;
}

const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

// Place a label above, below or inside its box, where it hides no other box or label if possible.
function placeLabel([left, top, right, bottom], width, height, canvas, others) {
  const x = Math.max(0, Math.min(left, canvas.width - width));
  const places = [top - height, bottom, top, bottom - height]
    .filter((y) => y >= 0 && y + height <= canvas.height)
    .map((y) => [x, y, x + width, y + height]);
  return places.find((place) => !others.some((other) => overlap(place, other))) ?? places[0] ?? [x, 0, x + width, height];
}

// Draw boxes in two colors, so that they are seen on any background, with the number of each.
function drawBoxes(objects, scale) {
  const canvas = byId("picture"), context = canvas.getContext("2d");
  // Lines and letters have the same size on every screen.
  const unit = canvas.width / (canvas.clientWidth || canvas.width), height = 19 * unit;
  const boxes = objects.map(({ box }) => box.map((value) => value * scale)), labels = [];
  for (const [left, top, right, bottom] of boxes) {
    for (const [style, width] of [["#000000", 4], ["#ffb000", 2]]) {
      context.strokeStyle = style;
      context.lineWidth = width * unit;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  context.font = `600 ${14 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const [at, { label }] of objects.entries()) {
    const text = `${at + 1}: ${label}`, width = context.measureText(text).width + 8 * unit;
    const others = [...labels, ...boxes.filter((box) => box !== boxes[at])];
    const place = placeLabel(boxes[at], width, height, canvas, others);
    labels.push(place);
    context.fillStyle = "#000000";
    context.fillRect(place[0], place[1], width, height);
    context.fillStyle = "#ffb000";
    context.fillText(text, place[0] + 4 * unit, place[1] + 2 * unit);
  }
}

function showClasses(row) {
  const [best, next] = row.top;
  byId("answer").textContent = `${best.label}, with a probability of ${percent(best.probability)}`
    + (next ? `; then ${next.label}, ${percent(next.probability)}.` : ".");
  byId("about").textContent = row.top.length < DATA.classes.length
    ? `The ${row.top.length} most probable of ${counted(DATA.classes.length)} classes.` : "All classes.";
  fillBars(byId("bars"), ["class", "probability"], row.top.map(({ label, probability }) =>
    [[label, percent(probability)], probability]), 1);
  byId("picture").ariaLabel = `Your picture: ${best.label}`;
}

function showObjects(row, scale) {
  const { objects } = row, kinds = new Map();
  for (const { label } of objects) kinds.set(label, (kinds.get(label) ?? 0) + 1);
  const listed = [...kinds].map(([label, count]) => `${count} of class ${label}`).join(", ");
  byId("answer").textContent = objects.length === 0 ? "No object was found."
    : `${objects.length === 1 ? "1 object" : `${objects.length} objects`}: ${listed}.`;
  byId("about").textContent = objects.length ? "The objects, the surest first." : "";
  fillBars(byId("bars"), ["number", "class", "confidence"], objects.map(({ label, confidence }, at) =>
    [[at + 1, label, percent(confidence)], confidence]), 1);
  byId("picture").ariaLabel = `Your picture with ${objects.length} boxes`;
  if (scale) drawBoxes(objects, scale);
}

// The row of another task: its names and values.
function showValues(row) {
  const named = Object.entries(row).filter(([name, value]) => name !== "file" && value !== null);
  byId("answer").textContent = named.map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join(", ");
  byId("bars").replaceChildren(byId("bars").caption);
}

async function predict(file) {
  const number = ++state.sent;
  show("problem", "");
  byId("explained").textContent = "";
  byId("result").hidden = true;
  byId("answer").textContent = "The network looks at the picture.";
  try {
    if (file.size > DATA.maxBytes) {
      throw new Error(`The picture has ${sizeOf(file.size)}, at most ${sizeOf(DATA.maxBytes)} are allowed: make it smaller.`);
    }
    const asked = new URLSearchParams(DATA.asked).toString();
    const row = await (await send(asked ? `predict?${asked}` : "predict", file)).json();
    // A later picture may be on its way.
    if (number !== state.sent) return;
    const scale = await drawPicture(file);
    if (number !== state.sent) return;
    state.file = file;
    byId("result").hidden = false;
    byId("picture").hidden = !scale;
    if (!scale) byId("caption").textContent = "Your browser cannot show this picture.";
    if (row.top) showClasses(row);
    else if (row.objects) showObjects(row, scale);
    else showValues(row);
  } catch (error) {
    if (number !== state.sent) return;
    byId("answer").textContent = "";
    show("problem", error.message);
  }
}

function link(place, text, download) {
  const made = document.createElement("a");
  made.href = TOKEN ? `${place}?${new URLSearchParams({ token: TOKEN })}` : place;
  made.textContent = text;
  if (download) made.download = "explained.html";
  else Object.assign(made, { target: "_blank", rel: "noopener" });
  return made;
}

async function explain() {
  if (state.explaining || !state.file) return;
  const { file } = state, number = state.sent, place = byId("explained");
  state.explaining = true;
  // The attribute `disabled` would take the focus away.
  byId("explain").ariaDisabled = "true";
  place.textContent = "Keras starts and computes the page. This takes some seconds.";
  try {
    const response = await send("explain", file);
    const page = response.headers.get("Content-Location");
    response.body?.cancel();
    if (number === state.sent) {
      place.replaceChildren(link(page, "Open the explanation in a new tab"), ", or ", link(page, "save it as a file", true), ".");
    }
  } catch (error) {
    if (number === state.sent) place.textContent = error.message;
  }
  state.explaining = false;
  byId("explain").ariaDisabled = "false";
}

function take(data) {
  const file = [...data.files].find(({ type }) => type.startsWith("image/")) ?? data.files[0];
  if (file) {
    // The name of the file is shown there.
    byId("file").files = data.files;
    predict(file);
  } else {
    byId("answer").textContent = "";
    show("problem", "This is not a file: the page loads nothing from other addresses. Save the picture first, and choose the file.");
  }
}

const markDrop = (over) => byId("drop").classList.toggle("over", over);
addEventListener("dragover", (event) => { event.preventDefault(); markDrop(true); });
addEventListener("dragleave", () => markDrop(false));
addEventListener("drop", (event) => { event.preventDefault(); markDrop(false); take(event.dataTransfer); });
addEventListener("paste", (event) => take(event.clipboardData));
byId("file").addEventListener("change", () => { if (byId("file").files[0]) predict(byId("file").files[0]); });
byId("explain").addEventListener("click", explain);
