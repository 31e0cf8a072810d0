// Light or dark as the system says, or as the button was last set. Runs before the first paint.
"use strict";
const chosen = (() => {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // A browser may forbid storage.
  }
})();
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
