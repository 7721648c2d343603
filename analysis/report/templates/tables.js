// A click on a heading sorts the table: up, then down. Numbers come before words in both orders.
const number = (text) => parseFloat(text.replaceAll(",", "").replace("\u2212", "-").replace(/^[\u2264\u2265<>~\u2248]\s*/, ""));
const compare = (one, other) => number(one) - number(other) || one.localeCompare(other, "en");
const textOf = (cell) => cell.textContent.trim();

const makeSortable = (table, headings) => headings.forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  button.addEventListener("click", () => {
    const up = heading.ariaSort !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const text = (row) => textOf(row.cells[column]);
    const isWord = (row) => isNaN(number(text(row)));
    const [body] = table.tBodies;
    const rows = [...body.rows].sort(
      (one, other) => isWord(one) - isWord(other) || (up ? 1 : -1) * compare(text(one), text(other)),
    );
    body.append(...rows);
    const first = Number(table.dataset.first || rows.length);
    rows.forEach((row, place) => row.classList.toggle("more", place >= first));
  });
});

// Under "Columns", each column can be shown or hidden, and what is shown can be saved as CSV.
const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const csv = (table) => [...table.rows]
  .filter((row) => !row.hidden)
  .map((row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => quoted(textOf(cell))).join(","))
  .join("\n");

const save = (text, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\n"], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const columnMenu = (table, headings) => {
  const menu = document.createElement("details");
  menu.className = "menu";
  const title = document.createElement("summary");
  title.textContent = "Columns and CSV";
  const list = document.createElement("div");
  headings.forEach((heading, column) => {
    const cells = [...table.rows].map((row) => row.cells[column]);
    const shown = !heading.classList.contains("extra");
    cells.forEach((cell) => {
      cell.classList.remove("extra");
      cell.hidden = !shown;
    });
    if (column === 0) return;  // it names the rows
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = shown;
    box.addEventListener("change", () => cells.forEach((cell) => { cell.hidden = !box.checked; }));
    const label = document.createElement("label");
    label.append(box, ` ${textOf(heading)}`);
    list.append(label);
  });
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Save as CSV";
  button.addEventListener("click", () => save(csv(table), "table.csv"));
  list.append(button);
  menu.append(title, list);
  return menu;
};

for (const table of document.querySelectorAll("table:not(.matrix)")) {
  const headings = [...table.tHead.rows[0].cells];
  const figure = table.closest("figure");
  figure.querySelector(".all-columns")?.parentElement.remove();  // the menu takes its place
  figure.querySelector(".scroll").before(columnMenu(table, headings));
  makeSortable(table, headings);
}

