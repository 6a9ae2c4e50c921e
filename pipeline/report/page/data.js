"use strict";
// The content of the page: one record, read once, without any request.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SEGMENTS = DATA.segments;
const VIDEOS = DATA.videos;
const LABELS = DATA.labels;
// A missing score counts as 0.
SEGMENTS.score = SEGMENTS.score.map((score) => score ?? 0);

// For each video: the indices of its segments.
const OF_VIDEO = new Map();
SEGMENTS.video.forEach((video, i) => {
  if (!OF_VIDEO.has(video)) OF_VIDEO.set(video, []);
  OF_VIDEO.get(video).push(i);
});
// By segment_id: the reviewer's verdict, and the corrected start and end. Then the segments that a reviewer added.
const ANSWERED = new Map(), MOVED = new Map(), ADDED = [];

const $ = (id) => document.getElementById(id);

// Makes an element. Text is set as text, so that no file name can become markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Twelve colours that differ on white and on black, also with most colour blindness; then hues a golden ratio apart.
const PALETTE = [
  "#b08a2e", "#7b9b34", "#c94f55", "#2fa3b5", "#8a6bd1", "#e8853b",
  "#a3539c", "#d46aa5", "#5f7fa3", "#3da668", "#4c78d8", "#7f6a5c",
];
// The colour follows from the model's number of the label, so that a label has one colour in all reports.
const labelColour = (label) => {
  const number = DATA.colours[label];
  return number < PALETTE.length ? PALETTE.at(number) : `hsl(${(number * 137.508) % 360} 55% 52%)`;
};
const trackColour = (track) => `hsl(${(track * 222.492) % 360} 85% 58%)`;

function clock(seconds, digits = 1) {
  const negative = seconds < 0 ? "-" : "";
  const rounded = Number(Math.abs(seconds).toFixed(digits));
  const hours = Math.floor(rounded / 3600), minutes = Math.floor((rounded % 3600) / 60);
  const rest = (rounded % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return negative + (hours ? `${hours}:${String(minutes).padStart(2, "0")}` : minutes) + `:${rest}`;
}

function lasting(seconds) {
  if (seconds >= 3600) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 120) return `${(seconds / 60).toFixed(1)} min`;
  return `${seconds.toFixed(1)} s`;
}

const who = (index) => (SEGMENTS.track[index] === null ? "whole frame" : `person ${SEGMENTS.track[index]}`);
const described = (index) =>
  `${LABELS[SEGMENTS.label[index]]}, ${who(index)}, ${clock(SEGMENTS.start[index])} to ${clock(SEGMENTS.end[index])}, ` +
  `${DATA.score_name} ${SEGMENTS.score[index].toFixed(2)}, ${VIDEOS[SEGMENTS.video[index]].name}` +
  (MOVED.has(SEGMENTS.id[index]) ? `; corrected: ${MOVED.get(SEGMENTS.id[index]).map((at) => clock(at, 2)).join(" to ")}` : "");

// The state of the page. Views are told when it changes.
// `lane` is the lane of the last click: a video, and a person in it.
const state = { shown: [], videos: [], selected: -1, lane: null, lanes: "people", labels: LABELS.map(() => true) };
const listeners = { shown: [], selected: [] };
const on = (event, listener) => listeners[event].push(listener);
const tell = (event, ...details) => listeners[event].forEach((listener) => listener(...details));

const filters = { text: "", model: "", score: 0, length: 0, novelty: 0 };

function applyFilters() {
  const words = filters.text.toLowerCase();
  const videos = VIDEOS.map((video) => !words || video.uri.toLowerCase().includes(words));
  const shown = [];
  for (let i = 0; i < SEGMENTS.id.length; i++) {
    if (!videos[SEGMENTS.video[i]] || !state.labels[SEGMENTS.label[i]]) continue;
    if (SEGMENTS.score[i] < filters.score || SEGMENTS.end[i] - SEGMENTS.start[i] < filters.length) continue;
    if (filters.novelty && !(SEGMENTS.novelty[i] >= filters.novelty)) continue;
    if (filters.model && DATA.models[SEGMENTS.model[i]] !== filters.model) continue;
    shown.push(i);
  }
  state.shown = shown; state.videos = videos;
  tell("shown");
}

function select(index, play = true) {
  if (index < 0 || index === undefined) return;
  state.selected = index;
  state.lane = { video: SEGMENTS.video[index], track: SEGMENTS.track[index] };
  $("spoken").textContent = described(index);
  tell("selected", play);
}

function selectNext(step) {
  const at = state.shown.indexOf(state.selected);
  const next = at < 0 ? (step > 0 ? 0 : state.shown.length - 1) : at + step;
  if (next >= 0 && next < state.shown.length) select(state.shown[next]);
}
