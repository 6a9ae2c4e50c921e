"use strict";
// The past path, the forecast path and the true path of a person's feet.
const PAST_S = 3, SHOWN_S = 1;

const PATHS = (() => {
  function unpacked(told) {
    const bytes = Uint8Array.from(atob(told.numbers), (char) => char.charCodeAt(0));
    return { ...told, numbers: new Int16Array(bytes.buffer) };
  }

  // The last forecast that was made at or before a time, if it is not too old.
  function madeBy(told, seconds) {
    let number = -1;
    while (number + 1 < told.made.length && told.made[number + 1] <= seconds + 1e-6) number++;
    return number >= 0 && seconds - told.made[number] <= SHOWN_S ? number : -1;
  }

  function stroke(pen, points, colour, width) {
    pen.strokeStyle = colour; pen.lineWidth = width;
    pen.beginPath();
    points.forEach((point, i) => (i ? pen.lineTo(...point) : pen.moveTo(...point)));
    pen.stroke();
  }

  // `place` converts source pixels to page pixels. `scale`: page pixels per source pixel. `colour`: the person's colour.
  function draw(pen, track, seconds, place, scale, colour) {
    const told = track.foretold, number = told ? madeBy(told, seconds) : -1;
    if (number < 0) return;
    const made = told.made[number], n = told.horizons.length, base = number * n * 5, steps = [];
    const feet = (from, to) => track.times.flatMap((at, i) => at < from - 1e-6 || at > to + 1e-6 ? [] :
      [place((track.numbers[i * track.stride] + track.numbers[i * track.stride + 2]) / 2, track.numbers[i * track.stride + 3])]);
    const alpha = pen.globalAlpha;
    for (let k = 0; k < n; k++) {
      const [x, y, sx, sy, rho] = told.numbers.subarray(base + 5 * k, base + 5 * k + 5);
      steps.push(place(x, y));
      // The axes of the ellipse of one standard deviation.
      const a = sx * sx, b = (rho / 1000) * sx * sy, c = sy * sy, root = Math.sqrt(((a - c) / 2) ** 2 + b * b);
      const long = Math.sqrt((a + c) / 2 + root) * scale, short = Math.sqrt(Math.max(0, (a + c) / 2 - root)) * scale;
      pen.globalAlpha = alpha * 0.12;
      pen.beginPath(); pen.ellipse(...steps[k], Math.max(1, long), Math.max(1, short), Math.atan2(2 * b, a - c) / 2, 0, 2 * Math.PI); pen.fill();
    }
    pen.globalAlpha = alpha;
    const past = feet(made - PAST_S, made);
    stroke(pen, past, colour, 1.5);
    stroke(pen, feet(made, made + told.horizons[n - 1]), "#fff", 1.5);
    stroke(pen, [...past.slice(-1), ...steps], colour, 1.5);
    for (const [x, y] of steps) { pen.beginPath(); pen.arc(x, y, 2.4, 0, 2 * Math.PI); pen.fill(); }
  }

  return { draw, unpacked };
})();
