"use strict";
// The table. Only rows in sight are in the document.
const TABLE = (() => {
  const ROW_PX = 44, grid = $("grid"), scroll = $("grid-scroll"), space = $("grid-space");
  const several = DATA.models.length > 1;
  const columns = [
    { name: "", of: null },
    { name: "video", of: (i) => VIDEOS[SEGMENTS.video[i]].name },
    { name: "who", number: true, of: (i) => SEGMENTS.track[i] },
    { name: "activity", of: (i) => LABELS[SEGMENTS.label[i]] },
    { name: "start", number: true, of: (i) => SEGMENTS.start[i], show: (i) => clock(SEGMENTS.start[i]) },
    { name: "end", number: true, of: (i) => SEGMENTS.end[i], show: (i) => clock(SEGMENTS.end[i]) },
    { name: "length", number: true, of: (i) => SEGMENTS.end[i] - SEGMENTS.start[i], show: (i) => lasting(SEGMENTS.end[i] - SEGMENTS.start[i]) },
    { name: DATA.score_name, number: true, of: (i) => SEGMENTS.score[i], show: (i) => SEGMENTS.score[i].toFixed(2) },
    ...(SEGMENTS.novelty.every((value) => value === null) ? [] : [{ name: "novel", number: true, of: (i) => SEGMENTS.novelty[i], show: (i) => (SEGMENTS.novelty[i] === null ? "" : SEGMENTS.novelty[i].toFixed(2)) }]),
    ...(several ? [{ name: "model", of: (i) => DATA.models[SEGMENTS.model[i]] }] : []),
  ];
  let sorted = [], by = DATA.ranked ? columns.find((column) => column.name === DATA.score_name) : null, down = DATA.ranked;
  grid.style.setProperty("--columns", ["76px minmax(90px, 2fr) 56px minmax(80px, 1.2fr) 76px 76px 76px", DATA.ranked ? "92px" : "76px", columns.some((column) => column.name === "novel") ? "58px" : "", several ? "minmax(70px, 1fr)" : ""].join(" "));
  grid.setAttribute("aria-colcount", columns.length);

  function order() {
    sorted = state.shown.slice();
    if (by) {
      const sign = down ? -1 : 1;
      sorted.sort((a, b) => {
        const x = by.of(a), y = by.of(b);
        if (x === y) return a - b;
        if (x === null) return 1;
        if (y === null) return -1;
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
    }
    grid.setAttribute("aria-rowcount", sorted.length + 1);
    space.style.height = `${sorted.length * ROW_PX}px`;
    show();
  }

  function show() {
    if (!scroll.clientHeight) return;
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW_PX) - 4);
    const last = Math.min(sorted.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / ROW_PX) + 4);
    space.replaceChildren(...sorted.slice(first, last).map((i, k) => row(i, first + k)));
    const selected = sorted.indexOf(state.selected);
    if (selected >= first && selected < last) grid.setAttribute("aria-activedescendant", `row-${state.selected}`);
    else grid.removeAttribute("aria-activedescendant");
  }

  function row(i, at) {
    const picture = DATA.thumbs[SEGMENTS.id[i]];
    const cells = columns.map((column, k) => {
      if (!column.of) return make("div", { role: "gridcell" }, picture ? make("img", { src: picture, alt: "", loading: "lazy" }) : "");
      const value = column.show ? column.show(i) : column.of(i);
      const dot = column.name === "activity" ? make("span", { class: "dot", style: { background: labelColour(SEGMENTS.label[i]) } }) : null;
      return make("div", { role: "gridcell", class: column.number ? "n" : "", "aria-colindex": k + 1, title: column.number ? null : value }, dot, value === null ? "" : String(value));
    });
    return make("div", {
      role: "row", class: "row", id: `row-${i}`, "aria-rowindex": at + 2, "aria-selected": String(i === state.selected),
      style: { top: `${at * ROW_PX}px` }, on: { click: () => select(i) },
    }, ...cells);
  }

  function reveal() {
    const at = sorted.indexOf(state.selected);
    if (at < 0) return show();
    if (at * ROW_PX < scroll.scrollTop) scroll.scrollTop = at * ROW_PX;
    else if ((at + 1) * ROW_PX > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = (at + 1) * ROW_PX - scroll.clientHeight;
    return show();
  }

  $("grid-head").append(...columns.map((column) => make("div", {
    role: "columnheader", class: column.number ? "n" : "", "aria-sort": column === by ? "descending" : null,
  }, column.of ? make("button", { type: "button", on: { click: (event) => {
    down = by === column && !down; by = column;
    for (const head of $("grid-head").children) head.removeAttribute("aria-sort");
    event.target.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    order();
  } } }, column.name) : "")));
  grid.addEventListener("keydown", (event) => {
    const at = sorted.indexOf(state.selected), page = Math.max(1, Math.floor(scroll.clientHeight / ROW_PX) - 1);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: sorted.length - 1 }[event.key];
    if (event.key === "Enter" && at >= 0 && event.target === grid) { event.preventDefault(); select(state.selected); }
    if (to === undefined || !sorted.length) return;
    event.preventDefault(); event.stopPropagation();
    select(sorted[Math.max(0, Math.min(sorted.length - 1, to))], false);
  });
  let asked = false;
  scroll.addEventListener("scroll", () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; show(); }); } });
  new ResizeObserver(show).observe(scroll);
  on("shown", order);
  on("selected", reveal);
  return { show };
})();
