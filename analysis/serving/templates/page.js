"use strict";

const find = (id) => document.getElementById(id);
const AT_ONCE = 4; // requests
const SHOWN_AT_ONCE = 12; // pictures whose neighbours are looked for without being asked
const COVERAGES = [0.8, 0.9, 0.95, 0.99];
let run = null;
let nearestGone = false; // the training pictures

// The system's theme, dark or light, until the button is pressed.
const theme = find("theme");
let dark = matchMedia("(prefers-color-scheme: dark)").matches;
theme.setAttribute("aria-pressed", dark);
theme.addEventListener("click", () => {
  dark = !dark;
  theme.setAttribute("aria-pressed", dark);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
});

// The token comes with the address, in the part that browsers do not send.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("token", given);
  history.replaceState(null, "", location.pathname);
}

const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
const ask = async (path, options = {}) => {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 429) {
    await wait(Number(response.headers.get("Retry-After")) || 1);
    return ask(path, options);
  }
  if (response.status === 401) lock();
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
};
const post = (path, file) => {
  const body = new FormData();
  body.append("file", file, file.name);
  return ask(path, { method: "POST", body });
};

const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share === 0 ? 0 : 1)}%`;
const lock = () => {
  find("locked").hidden = false;
  find("open").hidden = true;
  find("token").focus();
};
const unlock = async () => {
  try {
    run = await ask("run");
  } catch (error) {
    if (error.status !== 401) find("run").textContent = `The server does not answer: ${error.message}`;
    return;
  }
  find("locked").hidden = true;
  find("open").hidden = false;
  const accuracy = `${percent(run.accuracy)} (${percent(run.accuracy_low)} to ${percent(run.accuracy_high)})`;
  const tested = run.test_rows.toLocaleString("en");
  find("run").textContent =
    `${run.run}: ${run.class_names.length} classes of ${run.dataset}; accuracy ${accuracy} on ${tested} test images`;
  const possible = COVERAGES.filter((coverage) => coverage <= run.highest_coverage);
  find("sets").hidden = !possible.length;
  find("coverage").replaceChildren(...possible.map((coverage) => {
    const chosen = coverage === 0.9;
    return new Option(`${Math.round(100 * coverage)}%`, coverage, chosen, chosen);
  }));
};
find("locked").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", find("token").value.trim());
  unlock();
});

// Pictures wait in line; each is sent alone, so that its answer shows as soon as it is there.
let all = [];
let line = [];
let working = 0;
const report = () => {
  const done = all.filter((each) => each.done).length;
  const failed = all.filter((each) => each.failed).length;
  const noun = all.length === 1 ? "picture" : "pictures";
  find("clear").hidden = !all.length;
  find("status").textContent = all.length
    ? `${done} of ${all.length} ${noun} done${failed ? `; ${failed} could not be classified` : ""}`
    : "";
};
const work = async () => {
  while (line.length) await classify(line.shift());
  working -= 1;
};
const start = (pictures) => {
  line.push(...pictures);
  while (working < AT_ONCE && working < line.length) {
    working += 1;
    work();
  }
  report();
};

const show = (picture, name) => picture.card.querySelector(name);
const fail = (picture, reason) => {
  picture.failed = true;
  picture.card.classList.add("failed");
  show(picture, ".label").textContent = `Not classified: ${reason}`;
};
const classify = async (picture) => {
  const query = find("sets").hidden ? "" : `?coverage=${find("coverage").value}`;
  try {
    if (picture.file.size > run.limits.size - 4096) throw new Error(`larger than ${run.limits.size >> 20} MiB`);
    const answer = await post(`predict${query}`, picture.file);
    if (answer.skipped.length) fail(picture, answer.skipped[0].reason);
    else fill(picture, answer.predictions[0]);
  } catch (error) {
    fail(picture, error.message);
  }
  picture.done = true;
  picture.card.setAttribute("aria-busy", "false");
  report();
  if (picture.early && !picture.failed) await nearest(picture);
};
const fill = (picture, found) => {
  picture.failed = false;
  const chance = document.createElement("span");
  chance.textContent = ` ${percent(found.probability)}`;
  show(picture, ".label").replaceChildren(found.label, chance);
  const unknown = show(picture, ".unknown");
  unknown.hidden = found.known !== false;
  unknown.textContent =
    `Perhaps none of these: stranger than ${Math.floor(100 * found.strangeness)}% of the training images`;
  const set = show(picture, ".set");
  set.hidden = !found.set;
  if (found.set) {
    const any = found.set.length === run.class_names.length;
    const share = find("coverage").selectedOptions[0].text;
    set.textContent = `Set (${share}): ${any ? "any class, none can be excluded" : found.set.join(" or ")}`;
  }
  show(picture, ".top").replaceChildren(...found.top.map((guess) => {
    const item = document.createElement("li");
    item.classList.toggle("in", Boolean(found.set?.includes(guess.label)));
    const [name, bar, share] = ["bdi", "i", "span"].map((kind) => document.createElement(kind));
    name.textContent = guess.label;
    bar.style.setProperty("--share", `${100 * guess.probability}%`);
    share.textContent = percent(guess.probability);
    item.append(name, bar, share);
    return item;
  }));
  show(picture, ".more").hidden = nearestGone || Boolean(show(picture, ".near").children.length);
};
const nearest = async (picture) => {
  if (nearestGone || show(picture, ".near").children.length) return;
  show(picture, ".more").hidden = true;
  try {
    const answer = await post("nearest", picture.file);
    show(picture, ".near").replaceChildren(...answer.pictures[0].nearest.map((each) => {
      const item = document.createElement("li");
      const image = new Image();
      image.src = each.picture;
      image.alt = "";
      item.title = `${each.label}, ${each.file}`;
      item.append(image, each.label);
      return item;
    }));
    show(picture, ".near").previousElementSibling.hidden = false;
  } catch (error) {
    if (error.status !== 404) return;
    nearestGone = true; // the cache or the pictures
    document.querySelectorAll(".more").forEach((button) => { button.hidden = true; });
  }
};

const add = (files) => {
  const pictures = files.map((file, number) => {
    const card = find("card").content.cloneNode(true).querySelector("li");
    const image = card.querySelector("img");
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => { image.hidden = true; }); // a format that the browser cannot show
    card.querySelector("bdi").textContent = file.webkitRelativePath || file.name;
    const picture = { file, card, early: number < SHOWN_AT_ONCE };
    card.querySelector(".more").addEventListener("click", () => nearest(picture));
    return picture;
  });
  find("results").prepend(...pictures.map((picture) => picture.card));
  all = [...pictures, ...all];
  start(pictures);
};
find("clear").addEventListener("click", () => {
  all.forEach((picture) => URL.revokeObjectURL(picture.card.querySelector("img").src));
  [all, line] = [[], []];
  find("results").replaceChildren();
  report();
  find("choose-files").focus();
});
find("coverage").addEventListener("change", () => {
  const again = all.filter((picture) => picture.done && !picture.failed);
  again.forEach((picture) => { picture.done = false; });
  start(again);
});

// Where pictures come from. Of folders, only what looks like a picture is taken.
const looksLikePicture = (file) =>
  !file.name.startsWith(".") && (file.type.startsWith("image/") || /\.(hei[cf]|tiff?|p[pgn]m)$/i.test(file.name));
for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
  find(button).addEventListener("click", () => find(input).click());
  find(input).addEventListener("change", (event) => {
    const files = [...event.target.files];
    add(input === "folder" ? files.filter(looksLikePicture) : files);
    event.target.value = "";
  });
}
const filesIn = async (entry) => {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found.filter(looksLikePicture);
    for (const each of some) found.push(...await filesIn(each));
  }
};
const drop = find("drop");
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
addEventListener("dragleave", () => drop.classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (!run) return;
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const files = [];
  for (const entry of entries) files.push(...await filesIn(entry));
  add(files);
});
addEventListener("paste", (event) => {
  if (run && event.clipboardData.files.length) add([...event.clipboardData.files]);
});

unlock();
