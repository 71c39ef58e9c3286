"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);
  const rows = all(".summary tbody tr[id]");
  const tidy = document.querySelector(".tidy");
  const networks = tidy ? [...tidy.tBodies[0].rows] : [];
  const named = (row, name) => {
    const cell = [...row.cells].find((found) => found.dataset.label === name);
    return cell ? cell.textContent : "";
  };

  // What a row says, in the order in which it is read.
  const told = (row) => {
    const words = [...row.cells].filter((cell) => cell.dataset.label !== "arm" && cell.textContent !== "—");
    return `${named(row, "arm")} on ${row.dataset.target}: ${words.map((cell) => `${cell.dataset.label} ${cell.textContent}`).join("; ")}`;
  };

  // -- sorting ---------------------------------------------------------------------------------------------------
  const number = (text) => parseFloat(text.replace(/[*\s]/g, "").replace("−", "-"));
  const sortable = (table, buttons) => {
    const [head] = table.tHead.rows;
    [...head.cells].forEach((cell, column) => {
      const numeric = cell.classList.contains("number");
      if (!buttons) {
        const button = make("button", cell.textContent, { type: "button" });
        cell.replaceChildren(button);
      }
      cell.firstElementChild.addEventListener("click", () => {
        const sign = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of head.cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const key = (row) => row.cells[column].textContent;
        const missing = (text) => text === "" || text === "—";
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          // What is unknown comes last, whichever way.
          if (missing(x) || missing(y)) return missing(x) - missing(y);
          return sign * (numeric ? number(x) - number(y) : x.localeCompare(y));
        }));
      });
    });
  };
  all("table.summary").forEach((table) => sortable(table, false));
  if (tidy) sortable(tidy, true);

  // -- the rows of the full table that hold some words -----------------------------------------------------------
  const search = document.querySelector("input[type=search]");
  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of networks) {
      const cells = [...row.cells].map((cell) => cell.textContent.toLowerCase());
      // A number must be met whole, so that 0.2 does not find 0.21; a word may be met in part.
      row.hidden = !words.every((word) =>
        cells.some((cell) => (isNaN(word) ? cell.includes(word) : cell !== "" && Number(cell) === Number(word))));
      shown += !row.hidden;
    }
    search.closest("p").querySelector("output").textContent = words.length ? `${shown} of ${networks.length}` : "";
  };
  if (search) search.addEventListener("input", find);

  // -- filters ---------------------------------------------------------------------------------------------------
  const form = document.querySelector(".filters");
  const filter = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value !== "");
    // What has no source, such as the dense network, is a reference for all of them.
    const fits = (row) => chosen.every(([name, value]) => row.dataset[name] === value || (name === "source" && row.dataset[name] === ""));
    const lines = new Set();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fits(row);
      shown += !row.hidden;
      if (!row.hidden) lines.add(row.dataset.line);
    }
    for (const mark of all("svg [data-line]")) mark.classList.toggle("off", !lines.has(mark.dataset.line));
    for (const mark of all("svg [data-row]")) mark.classList.toggle("off", document.getElementById(mark.dataset.row)?.hidden);
    for (const section of all("section")) {
      const own = all(".summary tbody tr[id]", section);
      if (own.length) section.hidden = own.every((row) => row.hidden);
    }
    form.querySelector("output").textContent = chosen.length ? `${shown} of ${rows.length} rows` : "";
  };
  if (form) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("reset", () => setTimeout(filter));
  }

  // -- a row that was chosen: its networks, and the command that makes them again --------------------------------
  const panel = document.getElementById("chosen");
  const command = document.getElementById("command-text");
  const choose = (row, scrolls) => {
    for (const other of all("tr.chosen")) other.classList.remove("chosen");
    row.classList.add("chosen");
    row.closest("details").open = true;
    if (scrolls) row.scrollIntoView({ block: "center" });
    const cells = new Set(row.dataset.cells.split(" ").filter(Boolean));
    const column = (name) => (tidy ? [...tidy.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name) : -1);
    const [cell, seed, accuracy] = ["cell", "seed", "test_accuracy"].map(column);
    const found = networks.filter((network) => cells.has(network.cells[cell].textContent));
    const close = make("button", "Close", { type: "button", className: "close" });
    close.addEventListener("click", () => { panel.hidden = true; });
    panel.replaceChildren(close, make("h2", `${named(row, "arm")}, ${row.dataset.target}`), make("p", told(row)));
    if (found.length) {
      const list = make("ul");
      list.append(...found.map((network) => make("li",
        `seed ${network.cells[seed].textContent}: ${(100 * Number(network.cells[accuracy].textContent)).toFixed(2)} %, cell ${network.cells[cell].textContent}`)));
      panel.append(make("p", "Its networks:"), list);
    }
    if (command) panel.append(make("p", "The command that makes them again, where they are missing:"), make("pre", command.textContent));
    panel.hidden = false;
  };
  const go = (row) => {
    history.replaceState(null, "", `#${row.id}`);
    choose(row, true);
  };
  for (const row of rows) {
    const chosen = () => { history.replaceState(null, "", `#${row.id}`); choose(row, false); };
    row.tabIndex = 0;
    row.addEventListener("click", chosen);
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") chosen(); });
  }
  const linked = () => {
    const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (found && rows.includes(found)) choose(found, true);
  };
  addEventListener("hashchange", linked);
  addEventListener("keydown", (event) => { if (event.key === "Escape") panel.hidden = true; });
  linked();

  // -- points of the figures -------------------------------------------------------------------------------------
  const tip = make("div", "", { id: "tip", hidden: true });
  tip.setAttribute("role", "status");
  document.querySelector("main").append(tip);
  const rowOf = (target) => {
    const mark = target instanceof Element && target.closest("svg [data-row]");
    return mark ? document.getElementById(mark.dataset.row) : null;
  };
  addEventListener("pointermove", (event) => {
    const row = rowOf(event.target);
    tip.hidden = !row;
    if (!row) return;
    tip.textContent = told(row);
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 4))}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  });
  addEventListener("click", (event) => {
    const row = rowOf(event.target);
    if (!row) return;
    tip.hidden = true;
    go(row);
  });

  // -- copying, printing -----------------------------------------------------------------------------------------
  for (const button of all(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "Copied";
      } catch {
        // Without permission the text is selected, ready to be copied by hand.
        getSelection().selectAllChildren(text);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
  const unfold = () => all("details.folded").forEach((details) => { details.open = true; });
  addEventListener("beforeprint", unfold);
})();
