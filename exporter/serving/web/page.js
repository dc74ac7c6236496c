"use strict";
// Sorts and filters the media, and refreshes the page in place, without flicker. Without this script the page has the
// same content, and reloads itself.
(() => {
  const REFRESH_INTERVAL = 10_000;
  const unreachable = document.getElementById("unreachable");
  const filter = document.getElementById("filter");
  const found = document.getElementById("found");
  const tables = [...document.querySelectorAll("table.media")];
  const orders = new Map();
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  const live = (root) => new Map([...root.querySelectorAll("[data-live]")].map((part) => [part.id, part]));

  // As the server sent it: in the page, rows may be in another order.
  const sent = new Map([...live(document)].map(([id, part]) => [id, part.innerHTML]));

  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  // Without numbers: nobody searches for a media by a digit of its age.
  const wordsOf = (row) =>
    [...row.querySelectorAll("[data-words]")].map((part) => part.textContent).join(" ").toLowerCase();

  function arrange(table) {
    const rows = [...table.tBodies[0].rows].filter((row) => row.cells.length > 1);
    rows.forEach((row, place) => (row.dataset.place ??= place));
    const order = orders.get(table);
    const sign = order?.direction === "descending" ? -1 : 1;
    const compare = (one, other) => {
      const [a, b] = [valueOf(one, order.column), valueOf(other, order.column)];
      // Unknown values come last in both directions.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (order.numbers ? a - b : collator.compare(a, b));
    };
    rows.sort((one, other) => (order && compare(one, other)) || one.dataset.place - other.dataset.place);
    table.tBodies[0].append(...rows);
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = words.length ? wordsOf(row) : "";
      row.hidden = !words.every((word) => text.includes(word));
    }
    return rows;
  }

  function arrangeAll() {
    const rows = tables.flatMap(arrange);
    const shown = rows.filter((row) => !row.hidden).length;
    const text = filter.value.trim() ? `${shown} of ${rows.length} media` : "";
    // Setting the same text again would make screen readers repeat it.
    if (found.textContent !== text) found.textContent = text;
  }

  function makeSortable(table) {
    for (const heading of table.tHead.rows[0].cells) {
      if (!heading.dataset.sort) continue;
      const numbers = heading.dataset.sort === "number";
      const directions = numbers ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const direction = directions[(directions.indexOf(heading.getAttribute("aria-sort")) + 1) % directions.length];
        for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", direction);
        if (direction === "none") orders.delete(table);
        else orders.set(table, { column: heading.cellIndex, direction, numbers });
        arrange(table);
      });
    }
  }

  async function refresh() {
    // A refresh would clear the selection.
    if (document.hidden || !getSelection().isCollapsed) return;
    let text;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      text = await answer.text();
    } catch {
      unreachable.hidden = false;
      return;
    }
    unreachable.hidden = true;
    const next = live(new DOMParser().parseFromString(text, "text/html"));
    const here = live(document);
    // A changed configuration has other sections.
    if ([...here.keys()].join() !== [...next.keys()].join()) return location.reload();
    for (const [id, part] of next) {
      if (sent.get(id) === part.innerHTML) continue;
      sent.set(id, part.innerHTML);
      here.get(id).innerHTML = part.innerHTML;
    }
    arrangeAll();
  }

  async function keepFresh() {
    await refresh();
    setTimeout(keepFresh, REFRESH_INTERVAL);
  }

  tables.forEach(makeSortable);
  document.getElementById("find").hidden = tables.length === 0;
  filter.addEventListener("input", arrangeAll);
  document.addEventListener("visibilitychange", refresh);
  arrangeAll();
  setTimeout(keepFresh, REFRESH_INTERVAL);
})();
