// Runs in a page before its own script, see browser.py.

const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => {
  problems.push(`refused ${event.blockedURI} ${event.violatedDirective}`);
});

// Call a function when the page is ready, and write its result into the page.
async function report(function_) {
  let value;
  try {
    await new Promise((go) => addEventListener("load", go));
    for (let i = 0; i < 4000 && !document.body.dataset.ready; i++) await new Promise((go) => setTimeout(go, 25));
    value = await function_();
  } catch (error) {
    problems.push(`the test failed: ${error.stack}`);
  }
  const requests = performance.getEntriesByType("resource").map(({ name }) => name);
  const foreign = requests.filter((name) => !name.startsWith("data:"));
  parent.postMessage(JSON.stringify({ value, problems, requests: foreign }), "*");
}

const it = (id) => document.getElementById(id);
const key = (element, name) => {
  element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
};
const recomputed = () => new Promise((go) => setTimeout(go, 60));
const choose = (id, value) => {
  it(id).value = value;
  for (const name of ["input", "change"]) it(id).dispatchEvent(new Event(name, { bubbles: true }));
};

// Elements that the Tab key reaches, and those with the role of a control that it does not reach.
function unreachable() {
  const controls = document.querySelectorAll("button, input, select, a, [role=application], [onclick]");
  return [...controls].filter((each) => each.tabIndex < 0).map((each) => each.outerHTML.slice(0, 80));
}

async function accessibility() {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  const { scrollWidth } = document.documentElement, { innerWidth } = window;
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(({ html }) => html).join(" ")}`);
  if (scrollWidth > innerWidth) found.push(`it is ${scrollWidth} wide, the window ${innerWidth}`);
  return { dark: matchMedia("(prefers-color-scheme: dark)").matches, width: innerWidth, found: [...found, ...unreachable()] };
}
