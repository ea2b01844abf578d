"use strict";
// Sorting: a click on a column's header sorts upwards, then downwards, then as it was written.
const numberOf = (text) => {
  const plain = text.replaceAll("−", "-").replaceAll(",", "").trim();
  const match = plain.match(/^[<≈·\s]*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)/i);
  return match ? parseFloat(match[1]) : NaN;
};

const keysOf = (rows, column) => {
  const texts = rows.map((row) => row.cells[column]?.dataset.value ?? row.cells[column]?.textContent.trim() ?? "");
  const filled = texts.map((text) => !/^(|[–—-]|nan)$/i.test(text));
  const numbers = texts.map(numberOf);
  const numeric = filled.every((there, i) => !there || !Number.isNaN(numbers[i]));
  return rows.map((row, i) => ({ row, filled: filled[i], key: numeric ? numbers[i] : texts[i] }));
};

const compare = (a, b) =>
  typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });

const sortBy = (table, header, column, written) => {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[header.getAttribute("aria-sort")];
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", next);
  let rows = written;
  if (next !== "none") {
    const sign = next === "ascending" ? 1 : -1;
    const entries = keysOf(written, column);
    // What is empty stays last either way; the sort is stable, so equals stay as written.
    rows = entries.sort((a, b) => b.filled - a.filled || (a.filled ? sign * compare(a, b) : 0)).map((e) => e.row);
  }
  table.tBodies[0].append(...rows);
};

for (const table of document.querySelectorAll("table.sortable")) {
  if (!table.tHead || !table.tBodies.length) continue;
  const written = [...table.tBodies[0].rows];
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, header, column, written));
  });
}

// Filtering: by verdict and by a word, over the table of all claims.
const filters = document.querySelector(".filters");
if (filters) {
  const rows = [...document.querySelectorAll("#claims tbody tr")];
  const choices = [...filters.querySelectorAll("button[data-verdict]")];
  const word = filters.querySelector("input");
  const status = filters.querySelector("[role=status]");
  const show = () => {
    const verdict = choices.find((choice) => choice.getAttribute("aria-pressed") === "true").dataset.verdict;
    const wanted = word.value.trim().toLowerCase();
    for (const row of rows) {
      const has = (!verdict || row.dataset.verdict === verdict) && row.textContent.toLowerCase().includes(wanted);
      row.hidden = !has;
    }
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = `${shown} of ${rows.length} claims shown`;
  };
  for (const choice of choices) {
    choice.addEventListener("click", () => {
      for (const other of choices) other.setAttribute("aria-pressed", String(other === choice));
      show();
    });
  }
  word.addEventListener("input", show);
  filters.hidden = false;
  show();
}
