// The report of a run: show the pictures behind a cell of the confusion matrix.

function pictureOf([row, name, probability], label, right) {
  const item = document.createElement("li"), text = document.createElement("p");
  item.className = right ? "right" : "wrong";
  const uri = DATA.thumbnails[row];
  if (uri) {
    const image = document.createElement("img");
    image.src = uri;
    image.alt = name;
    item.append(image);
  }
  const bold = document.createElement("b"), small = document.createElement("span");
  bold.textContent = label;
  small.textContent = name.split("/").slice(-2).join("/");
  small.title = name;
  small.className = "muted";
  text.append(bold, ` ${shown(100 * probability, 1)} %`, document.createElement("br"), small);
  item.append(text);
  return item;
}

function showCell(button) {
  const key = button.dataset.cell, [row, column] = key.split(",").map(Number);
  const found = DATA.cells[key] || [], panel = byId("cell");
  const title = document.createElement("p"), list = document.createElement("ul");
  const count = Number(button.textContent.replaceAll(",", ""));
  title.textContent = `${DATA.classes[row]} predicted as ${DATA.classes[column]}: `
    + `${found.length} of ${counted(count)} pictures`;
  list.className = "pictures";
  list.append(...found.map((each) => pictureOf(each, DATA.classes[column], row === column)));
  panel.replaceChildren(title, list);
  for (const each of document.querySelectorAll("[data-cell]")) {
    each.setAttribute("aria-pressed", String(each === button));
  }
}

for (const button of document.querySelectorAll("[data-cell]")) {
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => showCell(button));
}
document.body.dataset.ready = "yes";
