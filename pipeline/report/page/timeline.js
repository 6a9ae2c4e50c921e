"use strict";
// A canvas as large as what is seen of it; rows that are out of sight are not drawn.
const TIMELINE = (() => {
  const canvas = $("timeline-canvas"), scroll = $("timeline-scroll"), space = $("timeline-space");
  const VIDEO_PX = 26, LANE_PX = 20, AXIS_PX = 24, GUTTER_PX = 128, GAP_PX = 6;
  let rows = [], height = 0, longest = 1, pxPerS = 1, firstS = 0, fitted = true, asked = false, place = new Map();

  const styles = () => getComputedStyle(document.documentElement);
  const width = () => scroll.clientWidth;
  const xOf = (seconds) => GUTTER_PX + (seconds - firstS) * pxPerS;
  const secondsAt = (x) => firstS + (x - GUTTER_PX) / pxPerS;

  function layOut() {
    const lanes = new Map();
    for (const i of state.shown) {
      const key = state.lanes === "people" ? (SEGMENTS.track[i] === null ? -1 : SEGMENTS.track[i]) : SEGMENTS.label[i];
      const video = SEGMENTS.video[i];
      if (!lanes.has(video)) lanes.set(video, new Map());
      const ofVideo = lanes.get(video);
      if (!ofVideo.has(key)) ofVideo.set(key, []);
      ofVideo.get(key).push(i);
    }
    rows = []; place = new Map(); let y = AXIS_PX; longest = 1;
    for (const video of [...lanes.keys()].sort((a, b) => a - b)) {
      longest = Math.max(longest, VIDEOS[video].end);
      rows.push({ y, height: VIDEO_PX, video, segments: null });
      y += VIDEO_PX;
      for (const key of [...lanes.get(video).keys()].sort((a, b) => a - b)) {
        const segments = lanes.get(video).get(key).sort((a, b) => SEGMENTS.start[a] - SEGMENTS.start[b]);
        segments.forEach((segment) => place.set(segment, rows.length));
        const name = state.lanes === "activities" ? LABELS[key] : key < 0 ? "whole frame" : `person ${key}`;
        rows.push({ y, height: LANE_PX, video, name, segments });
        y += LANE_PX;
      }
      y += GAP_PX;
    }
    height = y + 10;
    if (fitted) fit(); else draw();
  }

  function fit() {
    fitted = true;
    let first = Infinity, last = 0;
    for (const i of state.shown) { first = Math.min(first, SEGMENTS.start[i]); last = Math.max(last, SEGMENTS.end[i]); }
    if (!(last > first)) { first = 0; last = longest; }
    const seen = width() - GUTTER_PX - 16;
    pxPerS = Math.max(1e-4, seen / (last - first));
    firstS = first;
    draw();
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
    const style = styles(), font = getComputedStyle(document.body).fontFamily;
    const ratio = window.devicePixelRatio || 1, w = width(), h = scroll.clientHeight;
    space.style.height = `${height}px`;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
      canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
    }
    const pen = canvas.getContext("2d"), top = scroll.scrollTop;
    const colour = (name) => style.getPropertyValue(name).trim();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colour("--card"); pen.fillRect(0, 0, w, h);
    pen.textBaseline = "middle"; pen.font = `12px ${font}`;
    const ink = colour("--ink"), dim = colour("--dim"), line = colour("--line"), lane = colour("--lane");
    for (let r = firstRow(top); r < rows.length && rows[r].y < top + h; r++) {
      const row = rows[r], y = row.y - top;
      if (!row.segments) {
        pen.fillStyle = ink; pen.font = `600 12px ${font}`;
        const video = VIDEOS[row.video];
        pen.fillText(cut(pen, video.name + (video.status === "ok" ? "" : ` (${video.status})`), w - 20), 8, y + VIDEO_PX / 2);
        pen.font = `12px ${font}`;
        continue;
      }
      pen.fillStyle = lane;
      const left = Math.max(GUTTER_PX, xOf(VIDEOS[row.video].start)), right = Math.min(w, xOf(VIDEOS[row.video].end));
      if (right > left) pen.fillRect(left, y + 2, right - left, LANE_PX - 4);
      for (const i of row.segments) {
        const x = xOf(SEGMENTS.start[i]), end = xOf(SEGMENTS.end[i]);
        if (end < GUTTER_PX || x > w) continue;
        drawSegment(pen, i, Math.max(GUTTER_PX, x), Math.min(w, end), y, ink);
      }
      pen.fillStyle = colour("--card"); pen.fillRect(0, y, GUTTER_PX, LANE_PX);
      pen.fillStyle = dim; pen.fillText(cut(pen, row.name, GUTTER_PX - 22), 16, y + LANE_PX / 2);
    }
    drawPlayhead(pen, top, h, colour("--accent"));
    drawAxis(pen, w, colour("--card"), line, dim);
    if (!rows.length) { pen.fillStyle = dim; pen.fillText("No segment meets these filters.", GUTTER_PX, 60); }
  }

  function drawSegment(pen, i, x, end, y, ink) {
    const wide = Math.max(1.5, end - x - 0.5);
    // The surer, the fuller the colour.
    pen.globalAlpha = 0.35 + 0.65 * Math.min(1, SEGMENTS.score[i]);
    pen.fillStyle = labelColour(SEGMENTS.label[i]);
    pen.fillRect(x, y + 2, wide, LANE_PX - 4);
    pen.globalAlpha = 1;
    if (ANSWERED.has(SEGMENTS.id[i])) { pen.fillStyle = ink; pen.fillRect(x, y + LANE_PX - 5, wide, 2); }
    if (wide > 34) {
      pen.fillStyle = SEGMENTS.score[i] > 0.5 ? "#fff" : ink;
      pen.fillText(cut(pen, LABELS[SEGMENTS.label[i]], wide - 8), x + 4, y + LANE_PX / 2);
    }
    if (i === state.selected) {
      pen.strokeStyle = ink; pen.lineWidth = 2;
      pen.strokeRect(x, y + 2, wide, LANE_PX - 4);
    }
  }

  function drawPlayhead(pen, top, h, colour) {
    const now = PLAYER.now();
    if (!now) return;
    const x = xOf(now.seconds);
    if (x < GUTTER_PX) return;
    pen.fillStyle = colour;
    for (const row of rows) if (row.video === now.video && row.segments) pen.fillRect(x - 0.75, row.y - top, 1.5, row.height);
  }

  function drawAxis(pen, w, card, line, dim) {
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

  function cut(pen, text, wide) {
    if (pen.measureText(text).width <= wide) return text;
    let low = 0, high = text.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (pen.measureText(text.slice(0, middle) + "…").width <= wide) low = middle; else high = middle - 1;
    }
    return low ? text.slice(0, low) + "…" : "";
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
    return { row, seconds, segment: segment === undefined ? -1 : segment };
  }

  // Whose lane a row is; null for that of whole frames, or of an activity.
  const laneTrack = (row) => (state.lanes === "people" ? SEGMENTS.track[row.segments[0]] : null);

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
      if (!rows[r].segments) continue;
      // The one nearest in time.
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
    showTip(event, found && found.segment >= 0 ? described(found.segment) : "");
    canvas.style.cursor = found ? "pointer" : "default";
  });
  canvas.addEventListener("pointerleave", () => showTip(null, ""));
  canvas.addEventListener("click", (event) => {
    if (drag && drag.moved) return;
    const found = at(event);
    if (!found) return;
    state.lane = { video: found.row.video, track: laneTrack(found.row) };
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
    }, kind === "people" ? "A lane a person" : "A lane an activity"));
  }
  return { draw, zoom, fit, scale: () => pxPerS };
})();

function showTip(event, text) {
  $("tip").hidden = !text;
  if (!text) return;
  $("tip").textContent = text;
  $("tip").style.left = `${Math.min(event.clientX + 12, window.innerWidth - 350)}px`;
  $("tip").style.top = `${event.clientY + 16}px`;
}
