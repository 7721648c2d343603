
"use strict";

// The system's theme, dark or light, until the button is pressed.
const theme = document.getElementById("theme");
let dark = matchMedia("(prefers-color-scheme: dark)").matches;
theme.hidden = false;
theme.setAttribute("aria-pressed", dark);
theme.addEventListener("click", () => {
  dark = !dark;
  theme.setAttribute("aria-pressed", dark);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
});

// A link to a fold opens it, and a print shows what is folded.
const folds = [...document.querySelectorAll("details")];
const openLinked = () => document.querySelector(`details${location.hash || "#none"}`)?.setAttribute("open", "");
addEventListener("hashchange", openLinked);
openLinked();
addEventListener("beforeprint", () => folds.forEach((fold) => {
  fold.dataset.open = fold.open;
  fold.open = true;
}));
addEventListener("afterprint", () => folds.forEach((fold) => { fold.open = fold.dataset.open === "true"; }));

