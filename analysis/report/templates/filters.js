// A class, a head or a network filters every figure and table; what belongs to another one is hidden or faded.
const filter = { class: "", head: "", network: "" };
const marked = (name) => [...document.querySelectorAll(`[data-${name}]`)];

const applyFilter = () => {
  for (const name of Object.keys(filter)) {
    for (const element of marked(name)) {
      const other = filter[name] !== "" && element.dataset[name] !== "" && element.dataset[name] !== filter[name];
      element.toggleAttribute(`data-not-${name}`, other);
    }
  }
  tell("filter", filter);
};

const choiceOf = (name, title, values) => {
  const select = make("select", {}, new Option("all", ""));
  values.forEach(([value, text]) => select.add(new Option(text, value)));
  select.addEventListener("change", () => {
    filter[name] = select.value;
    applyFilter();
  });
  return make("label", {}, `${title} `, select);
};

const valuesOf = (name) => [...new Set(marked(name).map((element) => element.dataset[name]))].filter((value) => value !== "");
const toolbar = document.getElementById("filters");
if (toolbar) {
  const named = (name) => valuesOf(name).sort().map((value) => [value, value]);
  const choices = [
    ["class", "class", (data.classes ?? []).map((text, value) => [String(value), text])],
    ["head", "head", named("head")],
    ["network", "features", named("network")],
  ].filter(([, , values]) => values.length > 1);
  toolbar.append("Show only: ", ...choices.map((choice) => choiceOf(...choice)));
  toolbar.hidden = choices.length === 0;
}

