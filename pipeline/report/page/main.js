"use strict";
// Header, filters, tabs and keys.
const VIEWS = { timeline: "Timeline", table: "Table", totals: "Totals", failures: "Failures" };

function showView(name) {
  for (const each of Object.keys(VIEWS)) {
    $(each).hidden = each !== name;
    $(`tab-${each}`).setAttribute("aria-selected", String(each === name));
  }
  TABLE.show(); TOTALS.show(); TIMELINE.draw();
}

for (const [name, text] of Object.entries(VIEWS)) {
  const n = DATA.failures.length + Object.keys(DATA.without_clip).length;
  $("tabs").append(make("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": name, on: { click: () => showView(name) },
  }, name === "failures" && n ? `${text} (${n})` : text));
}

$("title").textContent = DATA.title;
const counts = LABELS.map(() => 0);
SEGMENTS.label.forEach((label) => { counts[label] += 1; });
const chips = make("div", { class: "chips", role: "group", "aria-label": "Activities" });
LABELS.forEach((name, label) => chips.append(make("button", {
  type: "button", class: "chip", "aria-pressed": "true", title: "Click: show or hide. Shift + click: show only this one.",
  on: { click: (event) => {
    if (event.shiftKey) {
      const alone = state.labels.every((shown, other) => shown === (other === label));
      state.labels = LABELS.map((_, other) => alone || other === label);
    } else state.labels[label] = !state.labels[label];
    [...chips.children].forEach((chip, other) => chip.setAttribute("aria-pressed", String(state.labels[other])));
    applyFilters();
  } },
}, make("i", { style: { background: labelColour(label) } }), name, make("small", {}, String(counts[label])))));

function slider(name, text, most, step, show) {
  const output = make("output", {}, show(0));
  return make("label", {}, text, make("input", { type: "range", id: `filter-${name}`, min: 0, max: most, step, value: 0, on: { input: (event) => {
    filters[name] = Number(event.target.value);
    output.textContent = show(filters[name]);
    applyFilters();
  } } }), output);
}

$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").append(
  make("input", { type: "search", id: "filter-text", placeholder: "Video", "aria-label": "Part of the video's path", on: { input: (event) => { filters.text = event.target.value; applyFilters(); } } }),
  chips,
  ...(DATA.models.length > 1 ? [make("label", {}, "model", make("select", { id: "filter-model", on: { change: (event) => { filters.model = event.target.value; applyFilters(); } } },
    make("option", { value: "" }, "all"), ...DATA.models.map((name) => make("option", { value: name }, name))))] : []),
  slider("score", `${DATA.score_name} at least`, 1, 0.01, (value) => value.toFixed(2)),
  slider("length", "length at least", 30, 0.5, (value) => `${value} s`),
  ...(SEGMENTS.novelty.some((value) => value !== null) ? [slider("novelty", "novelty at least", 1, 0.01, (value) => value.toFixed(2))] : []),
);

const covered = VIDEOS.reduce((sum, video) => sum + video.covered, 0);
on("shown", () => {
  const all = SEGMENTS.id.length, n = state.shown.length;
  $("summary").textContent = `${n === all ? all : `${n} of ${all}`} segments in ${VIDEOS.length} ${VIDEOS.length === 1 ? "video" : "videos"}, ${lasting(covered)}` + (DATA.note ? `; ${DATA.note}` : "");
});

const KEYS = [
  ["Space", "play or pause"], ["j  k", "next, previous segment"], ["← →", "timeline: previous, next segment in the lane; elsewhere: 1 s back, forward"],
  ["↑ ↓", "timeline: another lane; table: another row"], ["Enter", "play the segment from its start"], [", .", "one frame back, forward"],
  ["+  -  0", "zoom in, out, show all"], ["1 2 3 4", "timeline, table, totals, failures"], ["/", "search for a video"], ["?", "show these keys"],
];

function showHelp() {
  const keys = [...KEYS, ...(DATA.review ? REVIEW.keys : [])];
  $("help").replaceChildren(make("h2", {}, "Keys"), make("table", {}, make("tbody", {}, ...keys.map(([key, what]) =>
    make("tr", {}, make("td", {}, ...key.split("  ").flatMap((each) => [make("kbd", {}, each), " "])), make("td", {}, what))))),
  make("form", { method: "dialog" }, make("button", { autofocus: true }, "Close")));
  $("help").showModal();
}

$("help-button").addEventListener("click", showHelp);
const THEMES = ["light", "dark"];
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  TIMELINE.draw();
}
setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", () => setTheme(THEMES[1 - THEMES.indexOf(document.documentElement.dataset.theme)]));

document.addEventListener("keydown", (event) => {
  // On some keyboards [ and ] need Alt, which then is part of the letter.
  const typed = event.altKey && "[]".includes(event.key);
  if (event.ctrlKey && !typed || event.metaKey || event.altKey && !typed || $("help").open) return;
  const typing = event.target.matches("input:not([type=range]), select, textarea");
  if (typing) {
    if (event.key !== "Escape") return;
    if (event.target.id === "filter-text") { event.target.value = filters.text = ""; applyFilters(); }
    event.target.blur();
    return;
  }
  if (DATA.review && REVIEW.key(event)) { event.preventDefault(); return; }
  const onButton = event.target.matches("button") && (event.key === " " || event.key === "Enter");
  const actions = {
    " ": () => PLAYER.toggle(), j: () => selectNext(1), k: () => selectNext(-1), ",": () => PLAYER.step(-1 / 25), ".": () => PLAYER.step(1 / 25),
    ArrowLeft: () => PLAYER.step(-1), ArrowRight: () => PLAYER.step(1), "+": () => TIMELINE.zoom(1.6), "=": () => TIMELINE.zoom(1.6),
    "-": () => TIMELINE.zoom(1 / 1.6), 0: () => TIMELINE.fit(), "/": () => $("filter-text").focus(), "?": showHelp,
    1: () => showView("timeline"), 2: () => showView("table"), 3: () => showView("totals"), 4: () => showView("failures"),
    Enter: () => { if (state.selected >= 0) select(state.selected); },
  };
  const isSlider = event.target.matches("input[type=range]") && event.key.startsWith("Arrow");
  if (!onButton && !isSlider && actions[event.key]) { event.preventDefault(); actions[event.key](); }
});

showView(DATA.ranked ? "table" : "timeline");
applyFilters();
if (DATA.review) REVIEW.start();
else if (state.shown.length) {
  select(state.shown[0], false);
  PLAYER.playAt(SEGMENTS.video[state.selected], SEGMENTS.start[state.selected], state.selected, false);
}
