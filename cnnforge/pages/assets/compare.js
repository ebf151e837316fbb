// The comparison of two runs: show all flipped pictures, or those of one side.

const choices = [...document.querySelectorAll("button[data-better]")];
const flipped = [...document.querySelectorAll("li[data-better]")];

function showSide(button) {
  const better = button.dataset.better;
  let count = 0;
  for (const item of flipped) {
    item.hidden = Boolean(better) && item.dataset.better !== better;
    count += !item.hidden;
  }
  for (const each of choices) each.setAttribute("aria-pressed", String(each === button));
  const text = document.createElement("p");
  text.className = "muted";
  text.textContent = `${counted(count)} of ${counted(flipped.length)} shown pictures.`;
  byId("flipped").replaceChildren(text);
}

for (const button of choices) button.addEventListener("click", () => showSide(button));
