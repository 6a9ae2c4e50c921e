"use strict";
// The timeline: a canvas as large as its visible part. Only rows in sight are drawn.
const TIMELINE = (() => {
  const canvas = $("timeline-canvas"), scroll = $("timeline-scroll"), space = $("timeline-space");
  const VIDEO_PX = 26, LANE_PX = DRAWN.LANE_PX, AXIS_PX = 24, GUTTER_PX = 128, GAP_PX = 6;
  const MOST_PRINTED = 1000, PAPER_PX = { wide: 1000, high: 1300 };
  let rows = [], height = 0, longest = 1, pxPerS = 1, firstS = 0, fitted = true, asked = false, printing = false, place = new Map();

  const width = () => scroll.clientWidth;
  const xOf = (seconds) => GUTTER_PX + (seconds - firstS) * pxPerS;
  const secondsAt = (x) => firstS + (x - GUTTER_PX) / pxPerS;

  function layOut() {
    const lanes = new Map(), names = LABELS.slice(), people = state.lanes === "people";
    const laneOf = (video, track, label) => {
      if (!people && !names.includes(label)) names.push(label);
      const key = people ? track ?? -1 : names.indexOf(label);
      if (!lanes.has(video)) lanes.set(video, new Map());
      if (!lanes.get(video).has(key)) {
        const name = !people ? label : track === null ? "whole frame" : `person ${track}`;
        lanes.get(video).set(key, { video, name, track: people ? track : null, segments: [], added: [] });
      }
      return lanes.get(video).get(key);
    };
    for (const i of state.shown) laneOf(SEGMENTS.video[i], SEGMENTS.track[i], LABELS[SEGMENTS.label[i]]).segments.push(i);
    for (const each of ADDED) {
      const hidden = !state.videos[each.video] || state.labels[LABELS.indexOf(each.label)] === false;
      if (!hidden) laneOf(each.video, each.track, each.label).added.push(each);
    }
    rows = []; place = new Map(); let y = AXIS_PX; longest = 1;
    for (const video of [...lanes.keys()].sort((a, b) => a - b)) {
      longest = Math.max(longest, VIDEOS[video].end);
      rows.push({ y, height: VIDEO_PX, video, segments: null });
      y += VIDEO_PX;
      for (const [, lane] of [...lanes.get(video)].sort(([a], [b]) => a - b)) {
        lane.segments.sort((a, b) => SEGMENTS.start[a] - SEGMENTS.start[b]);
        lane.segments.forEach((segment) => place.set(segment, rows.length));
        rows.push({ y, height: LANE_PX, ...lane });
        y += LANE_PX;
      }
      y += GAP_PX;
    }
    height = y + 10;
    if (fitted) fit(); else draw();
  }

  function fit() {
    fitted = true;
    // While another view is open the timeline has no width; it is fitted anew once it is in sight.
    if (width()) fitInto(width());
    draw();
  }

  function fitInto(wide) {
    let first = Infinity, last = 0;
    for (const i of state.shown) { first = Math.min(first, SEGMENTS.start[i]); last = Math.max(last, SEGMENTS.end[i]); }
    if (!(last > first)) { first = 0; last = longest; }
    pxPerS = Math.max(1e-4, (wide - GUTTER_PX - 16) / (last - first));
    firstS = first;
  }

  function zoom(factor, x = GUTTER_PX + (width() - GUTTER_PX) / 2) {
    const at = secondsAt(x);
    pxPerS = Math.min(400, Math.max((width() - GUTTER_PX) / (longest * 1.5), pxPerS * factor));
    fitted = false;
    moveTo(at - (x - GUTTER_PX) / pxPerS);
  }

  function moveTo(seconds) {
    firstS = Math.max(-0.02 * longest, Math.min(longest - 10 / pxPerS, seconds));
    draw();
  }

  function draw() {
    if (!asked) { asked = true; requestAnimationFrame(paint); }
  }

  function paint() {
    asked = false;
    if (!scroll.clientHeight) return;
    space.style.height = `${height}px`;
    drawOn(canvas, width(), scroll.clientHeight, scroll.scrollTop, rows.slice(firstRow(scroll.scrollTop)));
    if (!rows.length) {
      const pen = canvas.getContext("2d");
      pen.fillStyle = colours().dim; pen.fillText("No segment meets these filters.", GUTTER_PX, 60);
    }
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(["card", "ink", "dim", "line", "lane", "accent"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }

  // Draws rows below an axis. The first `top` pixels of the rows are out of sight.
  function drawOn(target, w, h, top, shown, ratio = window.devicePixelRatio || 1) {
    if (target.width !== Math.round(w * ratio) || target.height !== Math.round(h * ratio)) {
      target.width = Math.round(w * ratio); target.height = Math.round(h * ratio);
      target.style.width = `${w}px`; target.style.height = `${h}px`;
    }
    const pen = target.getContext("2d"), colour = colours();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colour.card; pen.fillRect(0, 0, w, h);
    pen.textBaseline = "middle"; pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    for (const row of shown) {
      if (row.y >= top + h) break;
      drawRow(pen, row, row.y - top, w, colour);
    }
    if (!printing) drawPlayhead(pen, top, colour.accent);
    drawAxis(pen, w, colour);
  }

  function drawRow(pen, row, y, w, colour) {
    const video = VIDEOS[row.video];
    if (!row.segments) {
      const font = pen.font;
      pen.fillStyle = colour.ink; pen.font = `600 ${font}`;
      pen.fillText(DRAWN.cut(pen, video.name + (video.status === "ok" ? "" : ` (${video.status})`), w - 20), 8, y + VIDEO_PX / 2);
      pen.font = font;
      return;
    }
    const there = span(video.start, video.end, w);
    pen.fillStyle = colour.lane;
    if (there) pen.fillRect(there[0], y + 2, there[1], LANE_PX - 4);
    for (const i of row.segments) DRAWN.segment(pen, i, span(SEGMENTS.start[i], SEGMENTS.end[i], w), y, colour, !printing);
    for (const i of row.segments) if (MOVED.has(SEGMENTS.id[i])) DRAWN.moved(pen, i, span(...MOVED.get(SEGMENTS.id[i]), w), y, colour);
    for (const each of row.added) DRAWN.added(pen, each, span(each.start, endOf(each), w), y, colour);
    pen.fillStyle = colour.card; pen.fillRect(0, y, GUTTER_PX, LANE_PX);
    pen.fillStyle = colour.dim; pen.fillText(DRAWN.cut(pen, row.name, GUTTER_PX - 22), 16, y + LANE_PX / 2);
  }

  // The left edge and width of the visible part of a stretch, or null if no part is in sight.
  function span(start, end, w) {
    if (xOf(end) < GUTTER_PX || xOf(start) > w) return null;
    const x = Math.max(GUTTER_PX, xOf(start));
    return [x, Math.max(1.5, Math.min(w, xOf(end)) - x - 0.5)];
  }

  // A new segment that is still open ends at the current time of the video.
  function endOf(each) {
    const now = PLAYER.now();
    return each.end ?? (now && now.video === each.video ? Math.max(each.start, now.seconds) : each.start);
  }

  // For printing: all lanes, black on white, in pictures that fit on one page each.
  function print() {
    const theme = document.documentElement.dataset.theme, seen = [pxPerS, firstS], parts = [];
    const printed = rows.slice(0, MOST_PRINTED);
    printing = true;
    document.documentElement.dataset.theme = "light";
    fitInto(PAPER_PX.wide);
    while (printed.length) {
      const top = printed[0].y - AXIS_PX;
      let n = printed.findIndex((row) => row.y + row.height - top > PAPER_PX.high);
      // The name of a video stays on the page of its lanes.
      if (n > 1 && !printed[n - 1].segments) n -= 1;
      const ofPage = printed.splice(0, n < 1 ? printed.length : n), last = ofPage[ofPage.length - 1], picture = make("canvas");
      drawOn(picture, PAPER_PX.wide, last.y + last.height + GAP_PX - top, top, ofPage, 2);
      parts.push(picture);
    }
    if (rows.length > MOST_PRINTED) parts.push(make("p", {}, `The first ${MOST_PRINTED} of ${rows.length} lines; filter by video for others.`));
    $("timeline-print").replaceChildren(...parts);
    printing = false;
    [pxPerS, firstS] = seen; document.documentElement.dataset.theme = theme;
  }

  function drawPlayhead(pen, top, colour) {
    const now = PLAYER.now();
    if (!now) return;
    const x = xOf(now.seconds);
    if (x < GUTTER_PX) return;
    pen.fillStyle = colour;
    for (const row of rows) if (row.video === now.video && row.segments) pen.fillRect(x - 0.75, row.y - top, 1.5, row.height);
  }

  function drawAxis(pen, w, { card, line, dim }) {
    pen.fillStyle = card; pen.fillRect(0, 0, w, AXIS_PX);
    pen.fillStyle = line; pen.fillRect(0, AXIS_PX - 1, w, 1);
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400];
    const step = steps.find((each) => each * pxPerS >= 72) || 86400;
    pen.fillStyle = dim;
    for (let s = Math.ceil(secondsAt(GUTTER_PX) / step) * step; xOf(s) < w - 20; s += step) {
      pen.fillRect(xOf(s), AXIS_PX - 6, 1, 5);
      pen.fillText(clock(s, step < 1 ? 1 : 0), xOf(s) + 3, AXIS_PX / 2 - 1);
    }
  }

  function firstRow(top) {
    let low = 0, high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].y + rows[middle].height < top) low = middle + 1; else high = middle;
    }
    return low;
  }

  function at(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top + scroll.scrollTop;
    if (event.clientY - box.top < AXIS_PX) return null;
    const row = rows[firstRow(y)];
    if (!row || !row.segments || y < row.y || x < GUTTER_PX) return null;
    const seconds = secondsAt(x), near = 3 / pxPerS;
    const segment = row.segments.find((i) => SEGMENTS.start[i] - near <= seconds && seconds < SEGMENTS.end[i] + near);
    const added = row.added.find((each) => each.end !== null && each.start - near <= seconds && seconds < each.end + near);
    return { row, seconds, segment: segment === undefined ? -1 : segment, added };
  }

  function reveal(i) {
    if (!place.has(i)) return;
    const row = rows[place.get(i)];
    if (row.y - VIDEO_PX - AXIS_PX < scroll.scrollTop) scroll.scrollTop = Math.max(0, row.y - VIDEO_PX - AXIS_PX);
    else if (row.y + LANE_PX > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = row.y + 3 * LANE_PX - scroll.clientHeight;
    const x = xOf(SEGMENTS.start[i]);
    if (x < GUTTER_PX || x > width() - 30) moveTo(SEGMENTS.start[i] - 40 / pxPerS); else draw();
  }

  function step(key) {
    const here = place.get(state.selected);
    if (here === undefined) return selectNext(1);
    const segments = rows[here].segments, index = segments.indexOf(state.selected);
    if (key === "ArrowRight" || key === "ArrowLeft") {
      const next = segments[index + (key === "ArrowRight" ? 1 : -1)];
      if (next !== undefined) select(next);
      return undefined;
    }
    const down = key === "ArrowDown" ? 1 : -1;
    for (let r = here + down; r >= 0 && r < rows.length; r += down) {
      if (!rows[r].segments || !rows[r].segments.length) continue;
      // The segment nearest in time.
      const from = SEGMENTS.start[state.selected];
      return select(rows[r].segments.reduce((a, b) =>
        Math.abs(SEGMENTS.start[b] - from) < Math.abs(SEGMENTS.start[a] - from) ? b : a));
    }
    return undefined;
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, from: firstS, moved: false }; });
  window.addEventListener("pointerup", () => { setTimeout(() => { drag = null; }); });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && Math.abs(event.clientX - drag.x) > 4) {
      drag.moved = true; fitted = false;
      moveTo(drag.from - (event.clientX - drag.x) / pxPerS);
    }
    const found = drag && drag.moved ? null : at(event);
    showTip(event, !found ? "" : found.added ? `new: ${found.added.label}, ${found.row.name}` : found.segment >= 0 ? described(found.segment) : "");
    canvas.style.cursor = found ? "pointer" : "default";
  });
  canvas.addEventListener("pointerleave", () => showTip(null, ""));
  canvas.addEventListener("click", (event) => {
    if (drag && drag.moved) return;
    const found = at(event);
    if (!found) return;
    state.lane = { video: found.row.video, track: found.row.track };
    if (found.segment >= 0) select(found.segment, false);
    PLAYER.playAt(found.row.video, found.seconds, found.segment);
  });
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * 0.002), event.clientX - canvas.getBoundingClientRect().left);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault(); fitted = false;
      moveTo(firstS + (event.deltaX || event.deltaY) / pxPerS);
    }
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) { event.preventDefault(); event.stopPropagation(); step(event.key); }
    else if (event.key === "Enter" && state.selected >= 0) { event.preventDefault(); select(state.selected); }
  });
  scroll.addEventListener("scroll", draw);
  new ResizeObserver(() => (fitted ? fit() : draw())).observe(scroll);
  on("shown", layOut);
  on("selected", () => reveal(state.selected));

  const button = (parent, text, title, action) =>
    $(parent).append(make("button", { type: "button", title, on: { click: action } }, text));
  button("zoom", "−", "Zoom out (-)", () => zoom(1 / 1.6));
  button("zoom", "+", "Zoom in (+)", () => zoom(1.6));
  button("zoom", "Fit", "Show all (0)", () => fit());
  for (const kind of ["people", "activities"]) {
    $("lanes").append(make("button", {
      type: "button", "aria-pressed": String(state.lanes === kind), on: { click: (event) => {
        state.lanes = kind;
        for (const other of $("lanes").children) other.setAttribute("aria-pressed", String(other === event.target));
        layOut();
      } },
    }, kind === "people" ? "Lane per person" : "Lane per activity"));
  }
  window.addEventListener("beforeprint", print);
  return { draw, layOut, zoom, fit, scale: () => pxPerS, xOf };
})();

function showTip(event, text) {
  $("tip").hidden = !text;
  if (!text) return;
  $("tip").textContent = text;
  $("tip").style.left = `${Math.min(event.clientX + 12, window.innerWidth - 350)}px`;
  $("tip").style.top = `${event.clientY + 16}px`;
}
