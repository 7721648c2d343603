// Maps show the image of the point under the pointer, or of the point that the arrow keys reach. A click or Enter picks
// the image; a line that is drawn around some points, the lasso, selects them.
const isInside = (point, line) => {
  let inside = false;
  line.forEach((one, index) => {
    const other = line[(index || line.length) - 1];
    const crosses = one.y > point.y !== other.y > point.y;
    if (crosses && point.x < ((other.x - one.x) * (point.y - one.y)) / (other.y - one.y) + one.x) inside = !inside;
  });
  return inside;
};

for (const map of document.querySelectorAll(".map")) {
  const plane = map.querySelector(".plane");
  const svg = plane.querySelector("svg");
  const all = [...svg.querySelectorAll("use")].map((dot, index) => ({ dot, index, x: dot.x.baseVal.value, y: dot.y.baseVal.value }));
  const ring = svg.querySelector(".ring");
  const output = plane.querySelector("output");
  const canvas = output.querySelector("canvas");
  const lasso = svg.querySelector(".lasso");
  let line = null;  // of the lasso that is being drawn
  let points = all;
  let current = null;

  const hide = () => plane.classList.remove("shown");
  const show = (point) => {
    current = point;
    plane.classList.add("shown");
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    output.querySelector("span").textContent = point.dot.dataset.caption;
    if (point.dot.dataset.image) draw(canvas, Number(point.dot.dataset.image));
    else canvas.hidden = true;
    const box = svg.viewBox.baseVal;  // beside the point, on the side where there is room
    output.style.left = `${(100 * point.x) / box.width}%`;
    output.style.top = `${(100 * point.y) / box.height}%`;
    output.style.translate = [point.x / box.width, point.y / box.height].map((part) => (part > 0.5 ? "calc(-100% - 1rem)" : "1rem")).join(" ");
  };
  const nearest = (among, distance) => among.reduce((best, point) => (distance(point) < distance(best) ? point : best), among[0]);

  const place = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const pick = (point) => point.dot.dataset.image && tell("pick", Number(point.dot.dataset.image));
  const drawLasso = (at) => {
    line.push(at);
    lasso.setAttribute("d", `M${line.map(({ x, y }) => `${x.toFixed()} ${y.toFixed()}`).join("L")}Z`);
  };
  const finish = () => {
    const drawn = line ?? [];
    line = null;
    if (drawn.length < 4) {
      lasso.setAttribute("d", "");
      if (current && plane.classList.contains("shown")) pick(current);
      return;
    }
    const inside = points.filter((point) => isInside(point, drawn) && point.dot.dataset.image);
    tell("lasso", inside.map(({ dot }) => Number(dot.dataset.image)));
  };
  document.addEventListener("cleared", () => lasso.setAttribute("d", ""));

  const pointed = (event) => {
    const matrix = svg.getScreenCTM();
    const at = place(event);
    if (line) drawLasso(at);
    const distance = (point) => Math.hypot(point.x - at.x, point.y - at.y);
    const point = nearest(points, distance);
    if (distance(point) * matrix.a < 20) show(point);  // CSS pixels
    else hide();
  };
  plane.addEventListener("pointermove", pointed);
  plane.addEventListener("pointerdown", (event) => {
    line = event.pointerType === "touch" ? null : [place(event)];  // a finger scrolls the page
    pointed(event);
  });
  plane.addEventListener("pointerup", finish);
  plane.addEventListener("pointerleave", hide);
  plane.addEventListener("focus", () => plane.matches(":focus-visible") && show(current ?? points[0]));
  plane.addEventListener("blur", hide);
  plane.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") hide();
    if (event.key === "Enter" && current) pick(current);
    if (!way) return;
    event.preventDefault();
    const start = current ?? points[0];
    const ahead = (point) => (point.x - start.x) * way[0] + (point.y - start.y) * way[1];
    const aside = (point) => Math.abs((point.x - start.x) * way[1] + (point.y - start.y) * way[0]);
    const there = points.filter((point) => ahead(point) > 0 && ahead(point) >= aside(point));
    show(there.length ? nearest(there, (point) => ahead(point) + aside(point)) : start);
  });

  const buttons = [...map.querySelectorAll(".legend button")];
  buttons.forEach((button, label) => {
    const ofClass = ({ dot }) => dot.dataset.class === String(label);
    button.disabled = !all.some(ofClass);
    button.addEventListener("click", () => {
      const only = button.ariaPressed !== "true";
      buttons.forEach((other) => other.setAttribute("aria-pressed", only && other === button));
      all.forEach((point) => point.dot.classList.toggle("faded", only && !ofClass(point)));
      points = only ? all.filter(ofClass) : all;
      current = null;
      hide();
    });
  });
}
