
"use strict";

const suspects = [...document.querySelectorAll(".suspect")];
const shown = () => suspects.filter((suspect) => !suspect.hidden);

// One picture holds the thumbnails of a pair of classes.
const draw = (grid) => {
  const sheet = grid.previousElementSibling;
  const [side, columns] = [Number(grid.dataset.tile), Number(grid.dataset.columns)];
  grid.querySelectorAll("canvas").forEach((canvas, number) => {
    if (canvas.parentElement.hidden || canvas.dataset.drawn) return;
    const [left, top] = [(number % columns) * side, Math.floor(number / columns) * side];
    canvas.getContext("2d").drawImage(sheet, left, top, side, side, 0, 0, side, side);
    canvas.dataset.drawn = "yes";
  });
};
for (const grid of document.querySelectorAll(".grid[data-tile]")) {
  const sheet = grid.previousElementSibling;
  if (sheet.complete && sheet.naturalWidth) draw(grid);
  else sheet.addEventListener("load", () => draw(grid));
}

for (const button of document.querySelectorAll(".more")) {
  button.addEventListener("click", () => {
    const grid = button.previousElementSibling;
    grid.querySelectorAll(".suspect").forEach((suspect) => suspect.hidden = false);
    button.hidden = true;
    if (grid.dataset.tile) draw(grid);
  });
}

// Accepted suggestions.
const accepted = () => suspects.filter((suspect) => suspect.ariaPressed === "true");
const count = document.getElementById("count");
const save = document.getElementById("save");
for (const suspect of suspects) {
  suspect.addEventListener("click", () => {
    suspect.ariaPressed = suspect.ariaPressed === "true" ? "false" : "true";
    const number = accepted().length;
    count.textContent = number === 1 ? "1 label accepted." : `${number || "No"} label${number ? "s" : ""} accepted.`;
    save.disabled = number === 0;
  });
  suspect.addEventListener("keydown", (event) => {
    const all = shown();
    const at = all.indexOf(suspect);
    const line = all.filter((other) => other.offsetTop === suspect.offsetTop).length || 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -line, ArrowDown: line }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[Math.max(0, Math.min(all.length - 1, at + step))];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  });
}

// A table of all images, in which the accepted labels replace the given ones; of images without files, the accepted ones.
const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const corrected = () => {
  const suggestions = new Map(accepted().map((suspect) => [Number(suspect.dataset.row), suspect]));
  const suggested = (suspect) => suspect.parentElement.dataset.suggested;
  const text = document.getElementById("labels").textContent;
  let table = [["image", "label"], ...[...suggestions.values()].map((suspect) => [suspect.dataset.name, suggested(suspect)])];
  if (text) {
    table = JSON.parse(text);
    for (const [row, suspect] of suggestions) table[row + 1][1] = suggested(suspect);
  }
  return table.map((cells) => cells.map(quoted).join(",") + "\n").join("");
};
save?.addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([corrected()], { type: "text/csv" }));
  link.download = "corrected.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
