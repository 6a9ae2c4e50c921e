"use strict";
// Plays clips of the videos, and draws the people over them.
const BONES = DATA.bones, SEEN = DATA.seen_score, BRIDGED_S = 0.5;

const PLAYER = (() => {
  const video = $("video"), overlay = $("overlay"), wanted = { boxes: true, poses: true, labels: true, ...(DATA.foretold && { paths: true }) };
  let clip = null, target = { seconds: 0, plays: true }, scene = null, playing = 0;

  // Boxes are loaded as a script, because a page that is opened from disk may not fetch data.
  const scenes = new Map(), waiting = new Map();
  window.actionlakeScene = (name, content) => { scenes.set(name, content); (waiting.get(name) || (() => {}))(content); };
  function loadScene(file) {
    if (scenes.has(file)) return Promise.resolve(scenes.get(file));
    return new Promise((resolve) => {
      waiting.set(file, resolve);
      document.head.append(make("script", { src: file, on: { error: () => resolve({ tracks: [] }) } }));
    });
  }

  // The clip that shows a moment. Clips of a report exist already; clips of a review are cut on request.
  function clipAt(videoIndex, seconds, segment) {
    if (DATA.review) {
      const near = segment >= 0 && seconds < SEGMENTS.start[segment] + DATA.review.longest_s - 8;
      const [from, to] = near ? [SEGMENTS.start[segment], SEGMENTS.end[segment]] : [seconds, seconds + 10];
      const start = Math.max(VIDEOS[videoIndex].start, Math.floor(from - 4));
      const end = Math.min(Math.ceil(to + 4), start + DATA.review.longest_s);
      const name = `${VIDEOS[videoIndex].id}/${start}-${end}`;
      return { video: videoIndex, start, end, file: `clips/${name}.mp4`, scene: `clips/${name}.js` };
    }
    return DATA.clips.find((each) => each.video === videoIndex && each.start <= seconds + 1e-6 && seconds < each.end);
  }

  function playAt(videoIndex, seconds, segment = -1, plays = true) {
    const found = clipAt(videoIndex, seconds, segment);
    $("no-clip").hidden = true;
    if (!found) {
      playing += 1; video.removeAttribute("src"); video.load(); clip = null; scene = null; drawOver();
      const why = segment >= 0 && DATA.without_clip[SEGMENTS.id[segment]];
      say(why || "There is no clip of this moment.");
      return;
    }
    target = { seconds, plays };
    if (clip && clip.file === found.file) { seekTo(target); return; }
    clip = null; scene = null; video.pause();
    const turn = ++playing;
    loadScene(found.scene).then((loaded) => {
      if (turn !== playing) return;
      // A clip that was copied starts at the keyframe before the requested time. Its script holds the true times.
      clip = { ...found, start: loaded.start ?? found.start, end: loaded.end ?? found.end };
      scene = unpacked(loaded);
      video.src = clip.file;
    });
  }

  function say(text) { $("no-clip").textContent = text; $("no-clip").hidden = false; }

  function seekTo({ seconds, plays }) {
    video.currentTime = Math.max(0, seconds - clip.start);
    if (plays) video.play().catch(() => {});
  }

  function unpacked(loaded) {
    return loaded.tracks.map((track) => {
      const bytes = Uint8Array.from(atob(track.numbers), (char) => char.charCodeAt(0));
      return { ...track, numbers: new Int16Array(bytes.buffer), foretold: track.foretold && PATHS.unpacked(track.foretold) };
    });
  }

  // The position of a person at a time, interpolated between two views.
  function viewAt(track, seconds) {
    const times = track.times;
    let low = 0, high = times.length;
    while (low < high) { const middle = (low + high) >> 1; if (times[middle] <= seconds) low = middle + 1; else high = middle; }
    const before = low - 1;
    if (before < 0) return null;
    const gap = low < times.length ? times[low] - times[before] : Infinity;
    if (gap > BRIDGED_S && seconds - times[before] > BRIDGED_S / 2) return null;
    const share = gap > BRIDGED_S ? 0 : (seconds - times[before]) / gap, next = gap > BRIDGED_S ? before : low;
    const n = track.stride, numbers = track.numbers, view = new Float32Array(n);
    for (let k = 0; k < n; k++) {
      const a = numbers[before * n + k], b = numbers[next * n + k];
      view[k] = k >= 4 && (a < 0 || b < 0) ? -1 : a + share * (b - a);
    }
    return view;
  }

  function labelOf(track, seconds) {
    let best = -1;
    for (const i of OF_VIDEO.get(clip.video) || []) {
      if (SEGMENTS.track[i] !== track || seconds < SEGMENTS.start[i] || seconds >= SEGMENTS.end[i]) continue;
      if (best < 0 || SEGMENTS.score[i] > SEGMENTS.score[best]) best = i;
    }
    return best;
  }

  function drawOver() {
    const box = overlay.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    overlay.width = Math.round(box.width * ratio); overlay.height = Math.round(box.height * ratio);
    const pen = overlay.getContext("2d");
    if (!clip || !scene || !video.videoWidth) return;
    const source = VIDEOS[clip.video], scale = Math.min(box.width / source.width, box.height / source.height);
    const left = (box.width - source.width * scale) / 2, top = (box.height - source.height * scale) / 2;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = `600 12px ${getComputedStyle(document.body).fontFamily}`; pen.textBaseline = "middle";
    const seconds = clip.start + video.currentTime;
    const chosen = state.selected >= 0 && SEGMENTS.video[state.selected] === clip.video ? SEGMENTS.track[state.selected] : null;
    const there = scene.map((track) => [track, viewAt(track, seconds)]).filter(([, view]) => view);
    // The selected person is highlighted while in sight.
    const alone = there.some(([track]) => track.id === chosen);
    // The selected person is drawn last, so that no other label covers theirs.
    there.sort(([a], [b]) => (a.id === chosen) - (b.id === chosen));
    for (const [track, view] of there) {
      const colour = trackColour(track.id), strong = !alone || chosen === track.id;
      const at = (k) => [left + view[k] * scale, top + view[k + 1] * scale];
      const [x1, y1] = at(0), [x2, y2] = at(2);
      pen.globalAlpha = strong ? 1 : 0.4; pen.fillStyle = colour;
      if (wanted.paths) PATHS.draw(pen, track, seconds, (x, y) => [left + x * scale, top + y * scale], scale, colour);
      pen.strokeStyle = colour; pen.lineWidth = alone && strong ? 3 : 2;
      if (wanted.boxes) pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
      if (wanted.poses) drawPose(pen, view, at);
      if (wanted.labels) {
        const segment = labelOf(track.id, seconds);
        const text = segment < 0 ? `${track.id}` : `${track.id}: ${LABELS[SEGMENTS.label[segment]]}`;
        const wide = pen.measureText(text).width + 8, x = Math.min(Math.max(0, x1), box.width - wide);
        const y = y1 >= 18 ? y1 - 18 : y1;
        pen.fillRect(x, y, wide, 18);
        pen.fillStyle = "#000"; pen.fillText(text, x + 4, y + 9);
      }
    }
    pen.globalAlpha = 1;
  }

  function drawPose(pen, view, at) {
    pen.lineWidth = 2;
    for (const [one, other] of view.length === 4 + 34 ? BONES : []) {
      if (view[4 + 2 * one] < 0 || view[4 + 2 * other] < 0) continue;
      pen.beginPath(); pen.moveTo(...at(4 + 2 * one)); pen.lineTo(...at(4 + 2 * other)); pen.stroke();
    }
    for (let k = 4; k < view.length; k += 2) {
      if (view[k] < 0) continue;
      pen.beginPath(); pen.arc(...at(k), 2.4, 0, 2 * Math.PI); pen.fill();
    }
  }

  function tick() {
    if (!clip || !video.videoWidth) return;
    const end = clip.start + (video.duration || 0);
    $("seek").max = video.duration || 1; $("seek").value = video.currentTime;
    $("clock").textContent = `${clock(clip.start + video.currentTime)} / ${clock(end)}`;
    drawOver(); TIMELINE.draw();
  }

  const frameByFrame = "requestVideoFrameCallback" in HTMLVideoElement.prototype;
  const follow = () => { tick(); if (frameByFrame) video.requestVideoFrameCallback(follow); };
  if (frameByFrame) video.requestVideoFrameCallback(follow); else video.addEventListener("timeupdate", tick);
  video.addEventListener("loadedmetadata", () => {
    if (!clip) return; // Another clip is on its way.
    // A portrait video must not push everything else off the page.
    $("screen").style.setProperty("--ratio", String(Math.max(0.9, video.videoWidth / video.videoHeight)));
    seekTo(target);
  });
  video.addEventListener("seeked", tick);
  video.addEventListener("ended", () => {
    // A long segment continues in the next clip.
    const goesOn = (each) => each.video === clip.video && each.start <= clip.end + 0.05 && each.end > clip.end + 0.05;
    const next = clip && !DATA.review && DATA.clips.find(goesOn);
    if (next) playAt(next.video, Math.max(next.start, clip.end));
  });
  video.addEventListener("error", () => {
    if (!video.getAttribute("src")) return;
    const failed = clip;
    if (!DATA.review) { say("This clip can't be played. Check that the folder beside the page is complete."); return; }
    fetch(failed.file).then((answer) => answer.text()).then((text) => { if (clip === failed) say(text); }, () => say("The server is gone."));
  });
  for (const event of ["play", "pause"]) {
    video.addEventListener(event, () => { $("play").textContent = video.paused ? "▶" : "❚❚"; });
  }
  const toggle = () => { if (clip) { if (video.paused) video.play().catch(() => {}); else video.pause(); } };
  $("play").addEventListener("click", toggle);
  $("seek").addEventListener("input", (event) => { video.currentTime = Number(event.target.value); });
  new ResizeObserver(drawOver).observe($("screen"));
  for (const kind of Object.keys(wanted)) {
    $("overlays").append(make("button", { type: "button", "aria-pressed": "true", on: { click: (event) => {
      wanted[kind] = !wanted[kind];
      event.target.setAttribute("aria-pressed", String(wanted[kind]));
      drawOver();
    } } }, kind[0].toUpperCase() + kind.slice(1)));
  }

  on("selected", (play) => {
    showFacts(state.selected);
    if (play) playAt(SEGMENTS.video[state.selected], SEGMENTS.start[state.selected], state.selected);
    else drawOver();
  });

  return {
    playAt, toggle,
    step: (seconds) => { if (clip) { video.pause(); video.currentTime = Math.max(0, video.currentTime + seconds); } },
    now: () => (clip && video.videoWidth ? { video: clip.video, seconds: clip.start + video.currentTime } : null),
  };
})();

function showFacts(i) {
  const source = VIDEOS[SEGMENTS.video[i]], facts = [
    ["activity", LABELS[SEGMENTS.label[i]]],
    ["who", who(i)],
    ["when", `${clock(SEGMENTS.start[i], 2)} to ${clock(SEGMENTS.end[i], 2)} (${lasting(SEGMENTS.end[i] - SEGMENTS.start[i])})`],
    ["recorded", source.recorded_at ? dated(source.recorded_at, SEGMENTS.start[i]) : null],
    [DATA.score_name, SEGMENTS.score[i].toFixed(3)],
    ["novelty", SEGMENTS.novelty[i] === null ? null : SEGMENTS.novelty[i].toFixed(2)],
    ["model", DATA.ranked ? null : DATA.models[SEGMENTS.model[i]]],
    ["camera", source.camera],
    ["video", source.uri],
    ["segment", SEGMENTS.id[i]],
  ];
  $("facts").replaceChildren(...facts.filter(([, value]) => value !== null && value !== "")
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

const dated = (start, seconds) => `${new Date(Date.parse(start) + 1000 * seconds).toISOString().slice(0, 19).replace("T", " ")} UTC`;
