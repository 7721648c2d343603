// All thumbnails are parts of one picture, the sheet. `data` says what they show.
const data = JSON.parse(document.getElementById("data")?.textContent ?? "{}");
const sheetImage = document.querySelector("#sheet");
const [tileSide, tileColumns] = JSON.parse(sheetImage?.dataset.tile ?? "[32, 1]");
const sheet = new Image();
sheet.src = sheetImage?.getAttribute("href") ?? "";

const draw = (canvas, image) => {
  const paint = () => {
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    const [left, top] = [(image % tileColumns) * tileSide, Math.floor(image / tileColumns) * tileSide];
    context.drawImage(sheet, left, top, tileSide, tileSide, 0, 0, canvas.width, canvas.height);
  };
  if (sheet.complete) paint();
  else sheet.addEventListener("load", paint, { once: true });
};

const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

