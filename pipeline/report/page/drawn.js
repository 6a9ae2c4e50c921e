"use strict";
// Draws segments into a lane of the timeline. A stretch is [left edge, width] in pixels, or null.
const DRAWN = (() => {
  const LANE_PX = 20;

  function segment(pen, i, stretch, y, colour, marks) {
    if (!stretch) return;
    const [x, wide] = stretch, isMoved = MOVED.has(SEGMENTS.id[i]);
    // A higher score gives a fuller colour. If a reviewer moved the segment, only a shade of the model's version is left.
    pen.globalAlpha = isMoved ? 0.3 : 0.35 + 0.65 * Math.min(1, SEGMENTS.score[i]);
    pen.fillStyle = labelColour(SEGMENTS.label[i]);
    pen.fillRect(x, y + 2, wide, LANE_PX - 4);
    pen.globalAlpha = 1;
    if (ANSWERED.has(SEGMENTS.id[i]) && !isMoved) { pen.fillStyle = colour.ink; pen.fillRect(x, y + LANE_PX - 5, wide, 2); }
    written(pen, LABELS[SEGMENTS.label[i]], x, y, wide, SEGMENTS.score[i] > 0.5 && !isMoved ? "#fff" : colour.ink);
    if (isMoved) framed(pen, x, y, wide, colour.dim, true);
    else if (i === state.selected && marks) framed(pen, x, y, wide, colour.ink, false);
  }

  // A segment where the reviewer moved it: above all others, between brackets, with a broken line until it is answered.
  function moved(pen, i, stretch, y, colour) {
    if (!stretch) return;
    const [x, wide] = stretch, dash = ANSWERED.has(SEGMENTS.id[i]) ? wide : 4;
    pen.globalAlpha = 0.6; pen.fillStyle = labelColour(SEGMENTS.label[i]);
    pen.fillRect(x, y + 2, wide, LANE_PX - 4);
    pen.globalAlpha = 1; pen.fillStyle = colour.ink;
    pen.fillRect(x, y + 1, 2, LANE_PX - 2); pen.fillRect(x + wide - 2, y + 1, 2, LANE_PX - 2);
    for (let at = x; at < x + wide; at += dash + 2) pen.fillRect(at, y + LANE_PX - 5, Math.min(dash, x + wide - at), 3);
    written(pen, LABELS[SEGMENTS.label[i]], x + 2, y, wide - 4, colour.ink);
  }

  // A segment that the reviewer added, in a frame, with a broken line until it is answered.
  function added(pen, each, stretch, y, colour) {
    if (!stretch) return;
    const [x, wide] = stretch, label = LABELS.indexOf(each.label);
    pen.fillStyle = label < 0 ? colour.dim : labelColour(label); pen.fillRect(x, y + 2, wide, LANE_PX - 4);
    framed(pen, x, y, wide, colour.ink, each.end === null);
    written(pen, `+ ${each.label}`, x, y, wide, colour.card);
  }

  function framed(pen, x, y, wide, ink, broken) {
    pen.strokeStyle = ink; pen.lineWidth = broken ? 1.5 : 2;
    pen.setLineDash(broken ? [3, 2] : []);
    pen.strokeRect(x, y + 2, wide, LANE_PX - 4);
    pen.setLineDash([]);
  }

  function written(pen, text, x, y, wide, ink) {
    if (wide <= 34) return;
    pen.fillStyle = ink;
    pen.fillText(cut(pen, text, wide - 8), x + 4, y + LANE_PX / 2);
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

  return { LANE_PX, segment, moved, added, cut };
})();
