"use strict";
// Sorts, filters and pages the media, keeps that in the address, and refreshes the page in place, without flicker.
// Without this script the page has the same content, and reloads itself.
(() => {
  const REFRESH_INTERVAL = 10_000;
  const PHONE = matchMedia("(max-width: 40rem)");
  const unreachable = document.getElementById("unreachable");
  const table = document.getElementById("media");
  const filter = document.getElementById("filter");
  const found = document.getElementById("found");
  const pager = document.getElementById("pager");
  const position = document.getElementById("position");
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // What the user has chosen. `sort` is the key of a column, with a minus for descending.
  const NOTHING = { filter: "", show: "", sort: "", page: "1" };
  let chosen = { ...NOTHING };

  const live = (root) => new Map([...root.querySelectorAll("[data-live]")].map((part) => [part.id, part]));

  // As the server sent it: in the page, rows may be in another order.
  const sent = new Map([...live(document)].map(([id, part]) => [id, part.innerHTML]));

  // Setting the same text again would make screen readers repeat it.
  const say = (part, text) => part.textContent === text || (part.textContent = text);

  // ---- the address ----

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(NOTHING)) chosen[key] = given.get(key) ?? NOTHING[key];
    filter.value = chosen.filter;
  }

  function choose(changes) {
    // Another selection begins on its first page.
    chosen = { ...chosen, page: "1", ...changes };
    const kept = Object.entries(chosen).filter(([key, value]) => value !== NOTHING[key]);
    const fragment = new URLSearchParams(kept).toString();
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
    arrange();
  }

  // ---- the table ----

  // Without numbers: nobody searches for a media by a digit of its age.
  const wordsOf = (row) =>
    [...row.querySelectorAll("[data-words]")].map((part) => part.textContent).join(" ").toLowerCase();

  function comparison() {
    const key = chosen.sort.replace(/^-/, "");
    const heading = [...table.tHead.rows[0].cells].find((each) => each.dataset.key === key);
    if (!heading) return () => 0;
    const sign = chosen.sort.startsWith("-") ? -1 : 1;
    const numbers = heading.dataset.sort === "number";
    return (one, other) => {
      const [a, b] = [one, other].map((row) => row.cells[heading.cellIndex].dataset.value);
      // Unknown values come last in both directions.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (numbers ? a - b : collator.compare(a, b));
    };
  }

  function arrange() {
    const rows = [...table.tBodies[0].rows].filter((row) => row.cells.length > 1);
    rows.forEach((row, place) => (row.dataset.place ??= place));
    const compare = comparison();
    rows.sort((one, other) => compare(one, other) || one.dataset.place - other.dataset.place);
    const focused = document.activeElement;
    table.tBodies[0].append(...rows);
    // Moving a row takes the focus from it.
    if (focused !== document.activeElement) focused.focus({ preventScroll: true });
    const words = chosen.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = rows.filter((row) => {
      if (chosen.show && !row.dataset.tiles.split(" ").includes(chosen.show)) return false;
      const text = words.length ? wordsOf(row) : "";
      return words.every((word) => text.includes(word));
    });
    const size = PHONE.matches ? 20 : 50;
    const pages = Math.max(1, Math.ceil(matching.length / size));
    const page = Math.min(Math.max(1, Number.parseInt(chosen.page, 10) || 1), pages);
    const visible = new Set(matching.slice((page - 1) * size, page * size));
    for (const row of rows) row.hidden = !visible.has(row);
    say(found, chosen.show || words.length ? `${matching.length} of ${rows.length} media` : "");
    pager.hidden = pages === 1;
    say(position, `Page ${page} of ${pages}`);
    for (const [id, target] of [["previous", page - 1], ["next", page + 1]]) {
      const button = document.getElementById(id);
      button.dataset.page = target;
      // Not `disabled`: that would lose the focus at the last page.
      button.setAttribute("aria-disabled", target < 1 || target > pages);
    }
    for (const tile of document.querySelectorAll("[data-show]")) {
      tile.setAttribute("aria-pressed", tile.dataset.show === chosen.show);
    }
    for (const heading of table.tHead.querySelectorAll("[data-key]")) {
      const direction = { [heading.dataset.key]: "ascending", [`-${heading.dataset.key}`]: "descending" };
      heading.setAttribute("aria-sort", direction[chosen.sort] ?? "none");
    }
  }

  function makeSortable(heading) {
    const key = heading.dataset.key;
    const [first, second] = heading.dataset.sort === "number" && key !== "state" ? [`-${key}`, key] : [key, `-${key}`];
    const next = { [first]: second, [second]: "" };
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => choose({ sort: next[chosen.sort] ?? first }));
  }

  function makeUsable() {
    for (const heading of table.tHead.querySelectorAll("[data-key]")) makeSortable(heading);
    document.getElementById("find").hidden = false;
    filter.addEventListener("input", () => choose({ filter: filter.value }));
    // The tiles are replaced by each refresh.
    document.addEventListener("click", (event) => {
      const tile = event.target.closest("[data-show]");
      if (tile) choose({ show: tile.dataset.show === chosen.show ? "" : tile.dataset.show });
    });
    pager.addEventListener("click", (event) => {
      const button = event.target.closest("[data-page]");
      if (!button || button.getAttribute("aria-disabled") === "true") return;
      choose({ page: button.dataset.page });
      table.scrollIntoView();
    });
    const readAndArrange = () => {
      readAddress();
      arrange();
    };
    window.addEventListener("hashchange", readAndArrange);
    PHONE.addEventListener("change", arrange);
    readAndArrange();
  }

  // ---- the refresh ----

  // What identifies an element that can have the focus, in the page and in the next one.
  const nameOf = (each) => each.dataset.show ?? each.getAttribute("href") ?? each.closest("details")?.id;

  function replacePart(part, html) {
    const focused = part.contains(document.activeElement) ? nameOf(document.activeElement) : undefined;
    const unfolded = [...part.querySelectorAll("details[open]")].map((each) => each.id);
    part.innerHTML = html;
    for (const each of part.querySelectorAll("details")) each.open = unfolded.includes(each.id);
    if (focused === undefined) return;
    [...part.querySelectorAll("a, button, summary")].find((each) => nameOf(each) === focused)?.focus({ preventScroll: true });
  }

  async function refresh() {
    // A refresh would clear the selection.
    if (document.hidden || !getSelection().isCollapsed) return;
    let text;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      text = await answer.text();
    } catch {
      unreachable.hidden = false;
      return;
    }
    unreachable.hidden = true;
    const page = new DOMParser().parseFromString(text, "text/html");
    const next = live(page);
    const here = live(document);
    // A changed configuration has other sections.
    if ([...here.keys()].join() !== [...next.keys()].join()) return location.reload();
    document.title = page.title;
    for (const [id, part] of next) {
      if (sent.get(id) === part.innerHTML) continue;
      sent.set(id, part.innerHTML);
      replacePart(here.get(id), part.innerHTML);
    }
    if (table) arrange();
  }

  async function keepFresh() {
    await refresh();
    setTimeout(keepFresh, REFRESH_INTERVAL);
  }

  if (table) makeUsable();
  document.addEventListener("visibilitychange", refresh);
  setTimeout(keepFresh, REFRESH_INTERVAL);
})();
