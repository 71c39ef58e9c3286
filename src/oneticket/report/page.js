"use strict";
(() => {
  const table = document.querySelector(".tidy");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const input = document.querySelector("input[type=search]");
  const output = document.querySelector("output");

  const show = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
      // A number must be met whole, so that 0.2 does not find 0.21; a word may be met in part.
      row.hidden = !words.every((word) =>
        cells.some((cell) => (isNaN(word) ? cell.includes(word) : cell !== "" && Number(cell) === Number(word))));
      shown += !row.hidden;
    }
    output.textContent = words.length ? `${shown} of ${rows.length}` : "";
  };
  input.addEventListener("input", show);

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const numeric = head.classList.contains("number");
    const key = (row) => row.cells[column].textContent;
    head.firstElementChild.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        // What is unknown comes last, whichever way.
        if (x === "" || y === "") return (x === "") - (y === "");
        return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y));
      });
      body.append(...rows);
    });
  });
})();
