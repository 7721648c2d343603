// The images behind the figures: those of a cell, of a lasso, of a class, or where two runs differ.
const explore = document.getElementById("explore");
if (explore && data.images) {
  const { classes, runs, images, labels, near, predicted, pairs, tested, of } = data;
  const STEP = 60;  // thumbnails that are shown before more are asked for
  const state = { a: data.best, b: data.control, show: data.best === data.control ? "wrong" : "gained", cell: null, lasso: null, shown: STEP };
  const isRight = (run, image) => predicted[run][image] === labels[image];
  const KINDS = {
    all: ["all images", () => true],
    wrong: ["A wrong", (image) => !isRight(state.a, image)],
    gained: ["A right, B wrong", (image) => isRight(state.a, image) && !isRight(state.b, image)],
    lost: ["A wrong, B right", (image) => !isRight(state.a, image) && isRight(state.b, image)],
    both: ["both wrong", (image) => !isRight(state.a, image) && !isRight(state.b, image)],
  };

  const imagesText = (count) => (Number(count) === 1 ? "1 image" : `${count} images`);

  const update = () => {
    state.shown = STEP;
    show();
  };
  const choose = (title, key, options) => {
    const select = make("select");
    options.forEach(([value, text]) => select.add(new Option(text, value)));
    select.value = state[key];
    select.addEventListener("change", () => {
      state[key] = key === "show" ? select.value : Number(select.value);
      state.cell = null;
      update();
    });
    return [make("label", {}, `${title} `, select), select];
  };
  const named = runs.map(({ name }, number) => [number, name]);
  const [labelA, selectA] = choose("A", "a", named);
  const [labelB] = choose("B", "b", named);
  const [labelShow, selectShow] = choose("show", "show", Object.entries(KINDS).map(([key, [text]]) => [key, text]));
  const clear = make("button", { type: "button", textContent: "Clear the selection" });
  const status = make("p", { className: "status" });
  status.setAttribute("role", "status");
  const grid = make("ul", { className: "tiles" });
  const more = make("button", { type: "button", textContent: "Show more" });
  const detail = make("div", { className: "detail-view", hidden: true });
  const table = make("div", { className: "pair" });
  explore.append(make("div", { className: "toolbar" }, labelA, labelB, labelShow, clear), table, status, detail, grid, more);
  clear.addEventListener("click", () => {
    state.cell = null;
    state.lasso = null;
    tell("cleared");
    update();
  });
  more.addEventListener("click", () => {
    state.shown += STEP;
    show();
  });

  // The McNemar table counts all test images, not only those with a thumbnail.
  const showPair = () => {
    const { a, b } = state;
    table.replaceChildren();
    if (a === b || !pairs) return;
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    const [bothRight, onlyLow, onlyHigh, bothWrong, p] = pairs[`${low}-${high}`];
    const [onlyA, onlyB] = a < b ? [onlyLow, onlyHigh] : [onlyHigh, onlyLow];
    const cells = [["", "B right", "B wrong"], ["A right", bothRight, onlyA], ["A wrong", onlyB, bothWrong]];
    const rows = cells.map((row, line) => make("tr", {}, ...row.map((cell, column) => {
      const heading = (line === 0 || column === 0) && cell !== "";
      const made = make(heading ? "th" : "td", { textContent: cell.toLocaleString("en") });
      if (heading) made.scope = line === 0 ? "col" : "row";
      return made;
    })));
    table.append(make("table", { className: "mcnemar" }, make("tbody", {}, ...rows)),
      make("p", { textContent: `All ${of.toLocaleString("en")} test images. McNemar's test: p ${p} before correction.` }));
  };

  const selected = () => {
    const matches = KINDS[state.show][1];
    const found = [];
    for (let image = 0; image < tested; image += 1) {
      const { cell, lasso } = state;
      if (filter.class !== "" && String(labels[image]) !== filter.class) continue;
      if (lasso && !lasso.has(image)) continue;
      if (cell ? labels[image] === cell.label && predicted[cell.run][image] === cell.predicted : matches(image)) found.push(image);
    }
    return found;
  };
  const words = (image) => {
    const guess = predicted[state.cell?.run ?? state.a][image];
    return guess === labels[image] ? classes[labels[image]] : `${classes[labels[image]]}, taken for ${classes[guess]}`;
  };
  const tile = (image, text, size = 64) => {
    const canvas = make("canvas", { width: size, height: size });
    draw(canvas, image);
    return [canvas, make("span", { textContent: text })];
  };

  const show = () => {
    showPair();
    const found = selected();
    const { cell, lasso } = state;
    const what = cell ? `${pairText(cell.label, cell.predicted)} by ${runs[cell.run].name}, ${imagesText(cell.images)}`
      : KINDS[state.show][0];
    const left = tested < of ? `; ${tested.toLocaleString("en")} of ${of.toLocaleString("en")} test images have a thumbnail` : "";
    status.textContent = `${found.length.toLocaleString("en")} shown: ${what}${lasso ? ", in the lasso" : ""}${left}.`;
    grid.replaceChildren(...found.slice(0, state.shown).map((image) => {
      const button = make("button", { type: "button", className: "tile" }, ...tile(image, words(image)));
      button.addEventListener("click", () => showDetail(image));
      return make("li", {}, button);
    }));
    more.hidden = found.length <= state.shown;
  };

  // One image: larger, with what each run says about it, and the training images with the nearest vectors.
  const showDetail = (image) => {
    const [canvas, text] = tile(image, images[image], 192);
    const answers = runs.map(({ name }, run) => make("li", {
      className: isRight(run, image) ? "right" : "wrong",
      textContent: `${isRight(run, image) ? "right" : "wrong"}: ${name} says ${classes[predicted[run][image]]}`,
    }));
    const neighbours = near[image].map((other) => make("li", {}, make("span", { className: "tile" }, ...tile(other, classes[labels[other]]))));
    const close = make("button", { type: "button", textContent: "Close" });
    close.addEventListener("click", () => { detail.hidden = true; });
    detail.replaceChildren(
      make("h3", { textContent: `Class: ${classes[labels[image]]}` }), make("div", { className: "large" }, canvas, text),
      make("ul", { className: "answers" }, ...answers),
      make("p", { textContent: neighbours.length ? "Nearest training images:" : "Its nearest training images are not in this page." }),
      make("ul", { className: "tiles" }, ...neighbours), close,
    );
    detail.hidden = false;
    close.focus({ preventScroll: true });
    detail.scrollIntoView({ block: "nearest" });
  };

  document.addEventListener("filter", update);
  document.addEventListener("pick", ({ detail: image }) => showDetail(image));
  document.addEventListener("lasso", ({ detail: chosen }) => {
    state.lasso = new Set(chosen);
    state.show = "all";
    selectShow.value = "all";
    update();
  });

  // Each cell of a confusion matrix, and each row of a list of mistakes, becomes a button that shows its images.
  const showCell = (run, label, guess, count) => {
    state.cell = { run, label, predicted: guess, images: count };
    state.a = run;
    selectA.value = run;
    explore.closest("details").open = true;
    update();
    explore.scrollIntoView();
  };
  const numberOf = (name) => runs.findIndex((run) => run.name === name);
  const pairText = (label, guess) => (label === guess ? `${classes[label]} recognised` : `${classes[label]} taken for ${classes[guess]}`);
  for (const matrix of document.querySelectorAll(".matrix")) {
    const run = numberOf(matrix.dataset.run);
    if (run < 0) continue;
    for (const cell of matrix.querySelectorAll("td")) {
      if (cell.dataset.images === "0") continue;
      const [label, guess] = [Number(cell.parentElement.dataset.class), Number(cell.dataset.predicted)];
      const button = make("button", { type: "button" }, ...cell.childNodes);
      const text = button.textContent.trim();
      const percent = text ? `${text}%, ` : "";
      button.setAttribute("aria-label", `${percent}${pairText(label, guess)}: ${imagesText(cell.dataset.images)}`);
      button.addEventListener("click", () => showCell(run, label, guess, cell.dataset.images));
      cell.append(button);
    }
  }
  for (const row of document.querySelectorAll("tr[data-run]")) {
    const [run, cell] = [numberOf(row.dataset.run), row.cells[2]];
    if (run < 0) continue;
    const button = make("button", { type: "button" }, ...cell.childNodes);
    button.addEventListener("click", () => showCell(run, Number(row.dataset.class), Number(row.dataset.predicted), row.dataset.images));
    cell.append(button);
  }
  show();
}
