"use strict";
// Rows and points with the same number belong together: hover, focus, or the keys j and k.
const rows = [...document.querySelectorAll("tr[data-row]")];
const points = [...document.querySelectorAll("g[data-row]")];
const plots = document.querySelector(".scatters");

function choose(number) {
  for (const each of [...rows, ...points]) each.classList.toggle("now", each.dataset.row === number);
  plots?.classList.toggle("chosen", number !== null);
}

for (const row of rows) {
  row.addEventListener("mouseenter", () => choose(row.dataset.row));
  row.addEventListener("mouseleave", () => choose(document.activeElement?.dataset?.row ?? null));
  row.addEventListener("focus", () => choose(row.dataset.row));
  row.addEventListener("blur", () => choose(null));
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const place = rows.indexOf(document.activeElement);
  if (event.key === "j") rows[Math.min(place + 1, rows.length - 1)]?.focus();
  else if (event.key === "k") rows[Math.max(place - 1, 0)]?.focus();
  else if (event.key === "Escape") document.activeElement?.blur();
});
