"use strict";
// A click on a heading sorts its table: numbers by value (4K is 4096), words by letter, blanks last.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = /^([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(K?)(?![\w:=])/.exec(text.replace(/(\d)x\b/, "$1 x"));
  return text === "" ? null : number ? number[1] * (number[2] ? 1024 : 1) : text;
};
const order = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [value(row, heading.cellIndex), row]);
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * order(a, b)));
    body.append(...keyed.map(([, row]) => row));
  });
}
// Rows that lack one of the words of a filter are hidden, and those left are counted.
for (const input of document.querySelectorAll(".filter input")) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...input.closest(".table").querySelectorAll("tbody tr")];
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    input.closest(".filter").querySelector("output").textContent = words.length ? `${left} of ${rows.length} rows` : "";
  });
}
