"use strict";
// A reviewer goes through segments. Every answer is on the server's disk before the next segment is shown.
const REVIEW = DATA.review ? (() => {
  const panel = $("review"), index = new Map(SEGMENTS.id.map((id, i) => [id, i]));
  let known = [];
  let progress = null, bounds = {}, picking = null, begun = null, busy = false;

  async function ask(path, content) {
    const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
    const told = await answer.json();
    if (answer.ok) return told;
    throw Object.assign(new Error(told.error), { state: told.state });
  }

  // One request at a time: a key that is pressed before the reply has come does not answer the next segment.
  async function send(path, content, after) {
    if (busy) return;
    busy = true;
    try {
      take(await ask(path, { version: progress && progress.version, ...content }));
      say(progress.said);
      after();
    } catch (error) {
      // Another window wrote meanwhile. Its changes are shown, and unsaved moves in this window stay.
      if (error.state) { take(error.state); draw(); }
      say(error instanceof TypeError ? "Not saved: the server is gone. Start the same command again and open the address that it shows; nothing that was saved is lost." : `Not saved: ${error.message}`, true);
    } finally { busy = false; }
    mark();
  }

  function take(state) {
    progress = state; known = progress.labels;
    ANSWERED.clear();
    for (const [id, verdict] of Object.entries(progress.answered)) ANSWERED.set(id, verdict);
  }

  // Shows in the timeline the corrected segments, and the one that is being moved or made now.
  function mark() {
    const i = current(), numbers = new Map(VIDEOS.map((video, k) => [video.id, k]));
    MOVED.clear();
    if (progress) for (const [id, times] of Object.entries(progress.moved)) MOVED.set(id, times);
    if (i >= 0 && Object.keys(bounds).length) MOVED.set(SEGMENTS.id[i], [span(i).start_s, span(i).end_s]);
    ADDED.length = 0;
    for (const each of progress ? progress.new : [])
      ADDED.push({ video: numbers.get(each.video_id), track: each.track_id, label: each.label, start: each.start_s, end: each.end_s });
    if (begun) ADDED.push({ video: begun.video, track: begun.track, label: "new segment", start: begun.start_s, end: null });
    TIMELINE.layOut();
  }

  function say(text, isError = false) {
    const said = panel.querySelector(".said");
    said.textContent = text; said.classList.toggle("error", isError);
  }

  function goOn() {
    bounds = {}; picking = null;
    if (progress.next === null) { draw(); say("All segments are answered. Thank you."); return; }
    select(index.get(progress.next));
  }

  const current = () => (state.selected >= 0 ? state.selected : -1);
  const span = (i) => ({ start_s: bounds.start_s ?? SEGMENTS.start[i], end_s: bounds.end_s ?? SEGMENTS.end[i] });

  function answer(verdict, label = null) {
    const i = current();
    if (i < 0) return;
    if (begun) { say("A new segment is open: press a at its end, or Escape to cancel it.", true); return; }
    send("answers", { segment_id: SEGMENTS.id[i], verdict, label, ...span(i) }, goOn);
  }

  function bound(side) {
    const now = PLAYER.now(), i = current();
    if (!now || i < 0 || now.video !== SEGMENTS.video[i]) return;
    const next = { ...span(i), [side]: Math.round(now.seconds * 100) / 100 };
    if (next.end_s <= next.start_s) { say("It would end before it starts.", true); return; }
    bounds = next; draw(); mark();
    say(`${side === "start_s" ? "Starts" : "Ends"} at ${clock(next[side], 2)}; now say whether the label is right.`);
  }

  function newSegment() {
    const now = PLAYER.now();
    if (!now) return;
    if (!begun || begun.video !== now.video || now.seconds <= begun.start_s) {
      // It is of the person whose lane was clicked, or whose segment is shown.
      const track = state.lane && state.lane.video === now.video ? state.lane.track : null;
      begun = { video: now.video, track, start_s: Math.round(now.seconds * 100) / 100 };
      mark();
      say(`A new segment of ${begun.track === null ? "the whole frame" : `person ${begun.track}`} starts at ${clock(begun.start_s, 2)}; press a again at its end.`);
      return;
    }
    const end_s = Math.round(now.seconds * 100) / 100, { video, track, start_s } = begun;
    const whose = track === null ? "the whole frame" : `person ${track}`;
    pick(`What does the new segment of ${whose} show?`, (label) => send("answers",
      { video_id: VIDEOS[video].id, track_id: track, verdict: "new", label, start_s, end_s },
      () => { begun = null; picking = null; draw(); }));
  }

  function pick(question, action) { picking = { question, action }; draw(); }
  const skip = () => { const i = current(); if (i >= 0) send("skip", { segment_id: SEGMENTS.id[i] }, goOn); };
  function forget() { bounds = {}; begun = null; draw(); mark(); say("Start and end are reset to what the model found."); }
  function undo() {
    // Moves that are not answered yet are undone first.
    if (Object.keys(bounds).length || begun) { forget(); return; }
    send("undo", {}, () => {
      picking = null;
      const taken = progress.undone;
      if (!taken || !index.has(taken.segment_id)) { draw(); return; }
      select(index.get(taken.segment_id));
      if (taken.start_s !== null) bounds = { start_s: taken.start_s, end_s: taken.end_s };
      draw();
    });
  }

  const BUTTONS = [
    ["y", "Right", "right", () => answer("right")], ["n", "Wrong", "wrong", () => answer("wrong")],
    ["l", "Other label", "", () => pick("What is it instead?", (label) => answer("label", label))], ["s", "Skip", "", skip],
    ["[", "Starts here", "", () => bound("start_s")], ["]", "Ends here", "", () => bound("end_s")],
    ["a", "New segment", "", newSegment], ["u", "Undo", "", undo],
  ];

  function draw() {
    const i = current(), said = panel.querySelector(".said"), words = said ? said.textContent : "", bad = said && said.classList.contains("error");
    const total = progress.n_answered + progress.n_left, parts = [
      make("div", { class: "progress", role: "progressbar", "aria-label": "Answered", "aria-valuemin": 0, "aria-valuemax": total, "aria-valuenow": progress.n_answered },
        make("i", { style: { width: `${total ? 100 * progress.n_answered / total : 100}%` } })),
      make("p", { class: "hint" }, [`${progress.n_answered} answered, ${progress.n_left} left`, progress.random, `${DATA.review.reviewer}: ${DATA.review.file}`].filter(Boolean).join("; ")),
    ];
    if (i >= 0) {
      const at = span(i), verdict = ANSWERED.get(SEGMENTS.id[i]);
      parts.push(make("p", { class: "ask" }, make("span", { class: "dot", style: { background: labelColour(SEGMENTS.label[i]) } }),
        make("strong", {}, LABELS[SEGMENTS.label[i]]), ` by ${who(i)}, ${clock(at.start_s, 2)} to ${clock(at.end_s, 2)}?`,
        verdict ? ` (answered: ${verdict})` : ""));
    }
    if (picking) {
      parts.push(make("p", {}, `${picking.question} Press its digit, or type it and press Enter. Escape cancels.`),
        make("input", { type: "text", placeholder: "a label, new or known", "aria-label": picking.question, on: { keydown: typedLabel } }),
        make("div", { class: "pick", role: "group", "aria-label": picking.question }, ...known.map((label, k) =>
          make("button", { type: "button", on: { click: () => picking.action(label) } }, k < 9 ? make("kbd", {}, String(k + 1)) : "", ` ${label}`))));
    } else {
      parts.push(make("div", { class: "answers" }, ...BUTTONS.map(([key, text, kind, action]) => make("button", { type: "button", class: kind, "data-key": key, on: { click: action } }, text, make("small", {}, key)))));
    }
    parts.push(make("p", { class: bad ? "said error" : "said", role: "status", "aria-live": "polite" }, words));
    panel.replaceChildren(...parts);
    if (picking) panel.querySelector("input").focus();
  }

  // In the field for a label: a digit as the first character chooses a known label.
  function typedLabel(event) {
    const typed = event.target.value.trim(), digit = typed ? NaN : Number(event.key);
    if (event.key === "Escape") { picking = null; draw(); }
    else if (event.key === "Enter" && typed) picking.action(typed);
    else if (digit >= 1 && digit <= Math.min(9, known.length)) picking.action(known[digit - 1]);
    else return;
    event.preventDefault(); event.stopPropagation();
  }

  function key(event) {
    // A key that is held down answers only once, not the next segments, too.
    if (event.repeat && event.key !== "," && event.key !== ".") return BUTTONS.some(([each]) => each === event.key);
    if (picking) return false;
    if (event.key === "Escape" && (bounds.start_s !== undefined || bounds.end_s !== undefined || begun)) { forget(); return true; }
    const found = BUTTONS.find(([each]) => each === event.key);
    if (found) found[3]();
    return Boolean(found);
  }

  on("selected", () => {
    const moved = Object.keys(bounds).length > 0;
    bounds = {}; picking = null;
    if (progress) draw();
    if (moved) mark();
  });

  async function start() {
    panel.hidden = false;
    panel.append(make("p", { class: "said", role: "status", "aria-live": "polite" }));
    await send("state", {}, () => { draw(); goOn(); });
  }

  return {
    key, start,
    keys: [["y  n", "the segment is right; it is wrong: no label fits"], ["l", "it has another label"], ["[  ]", "set its start, its end to the current time"],
      ["a", "start a new segment; press again to end it"], ["s", "skip"], ["u", "undo the last answer or skip; Escape: undo a moved start or end"]],
  };
})() : null;
