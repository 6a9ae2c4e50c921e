"use strict";
// Totals by activity, time budgets and hours of the day, which follow the filters; and failures.
const TOTALS = (() => {
  const MOST_ROWS = 200;
  let stale = true;

  function show(printed = false) {
    if ($("totals").hidden && printed !== true) { stale = true; return; }
    stale = false;
    $("totals").replaceChildren(...overall(), ...hours(), ...budgets());
  }

  function overall() {
    const rows = LABELS.map((name, label) => ({ name, label, n: 0, seconds: 0 }));
    let all = 0;
    for (const i of state.shown) {
      const length = SEGMENTS.end[i] - SEGMENTS.start[i], row = rows[SEGMENTS.label[i]];
      row.n += 1; row.seconds += length; all += length;
    }
    const table = make("table", {}, heading(["activity", "segments", "time", "share", "mean length"], 1),
      make("tbody", {}, ...rows.filter((row) => row.n).sort((a, b) => b.seconds - a.seconds).map((row) => make("tr", {},
        make("td", {}, make("span", { class: "dot", style: { background: labelColour(row.label) } }), row.name),
        number(String(row.n)), number(lasting(row.seconds)), number(`${(100 * row.seconds / all).toFixed(1)} %`),
        number(lasting(row.seconds / row.n))))));
    return [make("h2", {}, "Activities"), table];
  }

  // The share of the seen time per activity: the ethogram of those who watch animals, or people.
  function budgets() {
    const groups = new Map();
    for (const i of state.shown) {
      const key = `${SEGMENTS.video[i]}/${SEGMENTS.track[i]}`;
      if (!groups.has(key)) groups.set(key, { video: SEGMENTS.video[i], track: SEGMENTS.track[i], seconds: LABELS.map(() => 0) });
      groups.get(key).seconds[SEGMENTS.label[i]] += SEGMENTS.end[i] - SEGMENTS.start[i];
    }
    const total = (group) => group.seconds.reduce((a, b) => a + b, 0);
    const rows = [...groups.values()].sort((a, b) => a.video - b.video || (a.track ?? -1) - (b.track ?? -1));
    const note = rows.length > MOST_ROWS ? ` (the first ${MOST_ROWS} of ${rows.length}; filter by video for others)` : "";
    return [make("h2", {}, `Time budgets${note}`), make("table", {}, heading(["video", "who", "time", "of it"], 2),
      make("tbody", {}, ...rows.slice(0, MOST_ROWS).map((group) => make("tr", {},
        make("td", { class: "wrap" }, VIDEOS[group.video].name),
        make("td", {}, group.track === null ? "whole frame" : `person ${group.track}`),
        number(lasting(total(group))), make("td", {}, bar(group.seconds, total(group)))))))];
  }

  function bar(seconds, all) {
    const parts = seconds.map((value, label) => ({ value, label })).filter((part) => part.value).sort((a, b) => b.value - a.value);
    const words = parts.map((part) => `${LABELS[part.label]} ${(100 * part.value / all).toFixed(0)} %`).join(", ");
    return make("div", { class: "bar", role: "img", "aria-label": words, title: words }, ...parts.map((part) =>
      make("i", { style: { width: `${100 * part.value / all}%`, background: labelColour(part.label) } })));
  }

  function hours() {
    const perHour = Array.from({ length: 24 }, () => LABELS.map(() => 0));
    let known = 0;
    for (const i of state.shown) {
      const recorded = VIDEOS[SEGMENTS.video[i]].recorded_at;
      if (!recorded) continue;
      known += 1;
      perHour[new Date(Date.parse(recorded) + 1000 * SEGMENTS.start[i]).getUTCHours()][SEGMENTS.label[i]] += 1;
    }
    if (!known) return [];
    const most = Math.max(...perHour.map((counts) => counts.reduce((a, b) => a + b, 0)));
    const columns = perHour.map((counts, hour) => {
      const n = counts.reduce((a, b) => a + b, 0);
      return make("div", { role: "img", "aria-label": `${hour} to ${hour + 1} h: ${n} segments`, title: `${n} segments` },
        make("small", {}, String(hour)), ...counts.map((count, label) => make("i", {
          style: { height: `${130 * count / most}px`, background: labelColour(label) } })));
    });
    return [make("h2", {}, "Segments by hour of the day (UTC)"), make("div", { class: "hours" }, ...columns)];
  }

  function failures() {
    const parts = [];
    if (DATA.failures.length) {
      parts.push(make("h2", {}, "What could not be analyzed"), make("table", {}, heading(["video", "from", "to", "stage", "kind", "what happened"], 1, 2),
        make("tbody", {}, ...DATA.failures.map((each) => make("tr", {},
          make("td", { class: "wrap" }, each.name), number(each.start === null ? "" : clock(each.start)),
          number(each.end === null ? "" : clock(each.end)), make("td", {}, each.stage), make("td", {}, each.kind),
          make("td", { class: "wrap" }, each.message))))));
    }
    const missing = Object.entries(DATA.without_clip);
    if (missing.length) {
      const reasons = new Map();
      for (const [, why] of missing) reasons.set(why, (reasons.get(why) || 0) + 1);
      parts.push(make("h2", {}, "Segments without a clip"), make("table", {}, heading(["segments", "cause"], 0, 0),
        make("tbody", {}, ...[...reasons].map(([why, n]) => make("tr", {}, number(String(n)), make("td", { class: "wrap" }, why))))));
    }
    $("failures").replaceChildren(...(parts.length ? parts : [make("p", {}, "Nothing failed.")]));
  }

  const number = (text) => make("td", { class: "n" }, text);
  const heading = (names, firstNumber, lastNumber = names.length - 1) => make("thead", {}, make("tr", {}, ...names.map((name, k) =>
    make("th", { scope: "col", class: k >= firstNumber && k <= lastNumber && name !== "of it" ? "n" : "" }, name))));

  on("shown", () => show());
  window.addEventListener("beforeprint", () => show(true));
  failures();
  return { show: () => { if (stale) show(); } };
})();
