// The live page: one stream of server-sent events in, one POST out. Every text that comes in is set as text, never as
// markup: labels are read from a model file.

const SHOWN_S = 300; // of the timeline
const SILENT_S = 5; // without a word from the server: the connection counts as lost; it speaks every second
const NO_AUDIO_S = 4;
const LONGEST_RETRY_S = 5;
const HELD_MS = 2000; // an answer stays this long when silence follows: some presets answer when the speaker pauses
const SETTLED_MS = 700; // an answer is announced once it has lasted
const MAX_MESSAGES = 50;
const KNOWN = ["neutral", "calm", "happy", "sad", "distressed", "angry", "fearful", "disgust", "surprised", "boredom"];
const OTHERS = 8; // colours for labels that are not known

const element = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const percent = (p) => `${Math.round(100 * p)} %`;
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;

let answers = []; // in display order
let event = null; // the latest that was no status
let answered = { event: null, until: 0 }; // the latest that was no silence, and how long it is held
let speaking = false; // whether the newest window was scored; presets that answer per utterance have no event to say it
let state = null;
let runs = []; // {start, end, answer}: stretches of one answer, local time in s
let messages = []; // {at, text}, the newest last
let streamTime = null; // of the latest window, s
let clockOffset = 0; // ours minus the server's, s: a device without a network may not know the time
let connected = false;
let audio = { heard: -1, since: 0 }; // seconds the server has heard, and since when it has not been more

// ---------------------------------------------------------------------------------------------- connection

let source = null;
let lastWord = 0;
let retryAfter = 1;
let retryTimer = null;

function connect() {
  retryTimer = null;
  lastWord = Date.now();
  source = new EventSource("events");
  source.addEventListener("hello", (m) => receive(onHello, m));
  source.addEventListener("event", (m) => receive(onEvent, m));
  source.addEventListener("state", (m) => receive(onState, m));
  source.addEventListener("error", () => lose());
}

function receive(handler, message) {
  lastWord = Date.now();
  handler(JSON.parse(message.data));
}

async function lose() {
  source.close();
  if (retryTimer !== null) return;
  retryTimer = setTimeout(connect, 1000 * retryAfter);
  retryAfter = Math.min(2 * retryAfter, LONGEST_RETRY_S);
  connected = false;
  render();
  if (element("banner").hidden) showBanner(LOST);
  const why = await whyLost();
  if (!connected) showBanner(why);
}

const LOST = "Connection lost. Trying again …";

async function whyLost() {
  try {
    const { status } = await fetch("events", { method: "HEAD" });
    if (status === 401) return "This page needs its token again: open the address that serkit said when it started.";
    if (status === 503) return "Too many pages are open. Close one; this one tries again …";
  } catch {
    // no server, which is what is said already
  }
  return LOST;
}

setInterval(() => {
  if (retryTimer === null && Date.now() - lastWord > 1000 * SILENT_S) lose();
}, 1000);

function showBanner(text) {
  setText("banner", text);
  element("banner").hidden = !text;
}

// ---------------------------------------------------------------------------------------------- what comes in

function onHello(hello) {
  connected = true;
  retryAfter = 1;
  showBanner("");
  clockOffset = Date.now() / 1000 - hello.now;
  element("model").textContent = hello.model;
  if (answers.join("\n") !== hello.answers.join("\n")) {
    answers = hello.answers;
    buildBars();
    buildTimeline();
  }
  // what the server remembers replaces what we remember of the same time; after its restart we remember more
  const first = hello.windows.length ? local(hello.windows[0][0]) : Infinity;
  runs = runs.filter((run) => run.start < first - 1);
  streamTime = null;
  for (const [at, time, answer] of hello.windows) addWindow(local(at), time, answer);
  const oldest = hello.messages.length ? local(hello.messages[0][0]) : Infinity;
  messages = messages.filter((message) => message.at < oldest - 1);
  for (const [at, text] of hello.messages) addMessage(local(at), text);
  event = hello.event;
  renderMessages();
  document.querySelector("main").hidden = false;
}

function onEvent(received) {
  if (received.kind === "status") {
    addMessage(local(received.at), received.message ?? "");
    renderMessages();
    return;
  }
  event = received;
  if (event.kind !== "silence") answered = { event, until: Date.now() + HELD_MS };
  addWindow(local(received.at), received.time_s, received.emotion ?? received.kind);
}

function onState(received) {
  if (state !== null && received.windows > state.windows) speaking = received.scored > state.scored;
  if (received.muted) {
    speaking = false;
    answered.until = 0;
  }
  state = received;
  if (state.audio_s !== audio.heard) audio = { heard: state.audio_s, since: Date.now() };
  render();
}

const local = (at) => at + clockOffset;

function addWindow(at, time, answer) {
  const step = streamTime === null || time <= streamTime ? 0.5 : Math.min(time - streamTime, 20);
  streamTime = time;
  const last = runs.at(-1);
  const start = Math.max(at - step, last ? last.end : 0);
  if (last && last.answer === answer && start - last.end < 1) last.end = Math.max(at, last.end);
  else runs.push({ start, end: Math.max(at, start), answer });
  while (runs.length && runs[0].end < at - SHOWN_S) runs.shift();
}

function addMessage(at, text) {
  messages.push({ at, text });
  messages = messages.slice(-MAX_MESSAGES);
}

// ---------------------------------------------------------------------------------------------- muting

let wanted = null; // muted or not, while a request is under way

async function toggleMute() {
  if (state === null) return;
  const underWay = wanted !== null;
  wanted = !(wanted ?? state.muted);
  if (underWay) return; // another request follows: no press is lost
  element("mute").setAttribute("aria-busy", "true");
  try {
    let asked;
    do {
      asked = wanted;
      const headers = { "Content-Type": "application/json" };
      const response = await fetch("mute", { method: "POST", headers, body: JSON.stringify({ muted: asked }) });
      if (!response.ok) throw new Error(await response.text());
      state.muted = (await response.json()).muted;
    } while (wanted !== asked);
    showBanner("");
  } catch {
    const what = state.muted ? "still muted" : "NOT muted";
    showBanner(`That did not reach serkit: as far as known the microphone is ${what}.`);
  }
  wanted = null;
  element("mute").removeAttribute("aria-busy");
  render();
}

element("mute").addEventListener("click", toggleMute);
document.addEventListener("keydown", (press) => {
  if (press.key.toLowerCase() !== "m" || press.repeat || press.ctrlKey || press.altKey || press.metaKey) return;
  toggleMute();
});

// ---------------------------------------------------------------------------------------------- what is shown

/** The event to show: the latest, or the answer just before the silence. */
function shownEvent() {
  return event?.kind === "silence" && Date.now() < answered.until ? answered.event : event;
}

/** The answer in words, its tone, and a line about it. */
function current() {
  if (state?.muted) return { word: "muted", tone: "muted", line: "Nothing is heard" };
  const shown = shownEvent();
  if (!shown) return { word: "listening", tone: null, line: "Waiting for the first answer" };
  if (shown.kind === "silence") return { word: speaking ? "listening" : "no speech", tone: null, line: "" };
  if (shown.kind === "unsure") {
    const [likeliest, p] = Object.entries(shown.probabilities ?? {}).sort((a, b) => b[1] - a[1])[0] ?? ["", 0];
    return { word: "unsure", tone: null, line: likeliest && `perhaps ${likeliest}, ${percent(p)}` };
  }
  return { word: shown.emotion, tone: tone(shown.emotion), line: `confidence ${percent(shown.confidence)}` };
}

function tone(answer) {
  if (KNOWN.includes(answer)) return answer;
  const place = answers.indexOf(answer);
  return place < 0 ? "unsure" : `other-${place % OTHERS}`;
}

function render() {
  document.body.classList.toggle("live", connected);
  document.body.classList.toggle("stale", !connected);
  document.body.classList.toggle("muted", Boolean(state?.muted));
  setText("connection-text", connected ? "live" : "not connected");
  if (state === null) return;
  renderNow();
  renderSound();
  renderBars();
  renderTimeline();
  renderAffect();
  renderNumbers();
}

/** Set only what differs, so that nothing is laid out or read out anew. */
function setText(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

function renderNow() {
  const { word, tone: colour, line } = current();
  element("now").dataset.tone = colour ?? "none";
  element("answer").classList.toggle("quiet", colour === null);
  element("answer").style.setProperty("--letters", word.length);
  setText("answer", word);
  setText("confidence", line);
  setText("mute-text", state.muted ? "Unmute" : "Mute");
  document.title = `${connected ? word : "not connected"} – serkit`;
  announce(word);
}

let announced = null;
let announceTimer = null;

/** Have a screen reader say a new answer, once it has lasted. */
function announce(word) {
  if (word === announced) return;
  announced = word;
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => setText("announcer", word), SETTLED_MS);
}

function renderSound() {
  const noAudio = connected && Date.now() - audio.since > 1000 * NO_AUDIO_S;
  const speaks = !noAudio && !state.muted && (speaking || event?.kind === "emotion" || event?.kind === "unsure");
  element("speech").dataset.speech = speaks ? "yes" : "no";
  setText("speech-text", noAudio ? "no audio" : state.muted ? "muted" : speaks ? "speech" : "no speech");
  const level = noAudio || state.muted ? -60 : Math.max(-60, Math.min(0, event?.level_dbfs ?? -60));
  const text = level > -60 ? `${Math.round(level).toString().replace("-", "−")} dB` : "quiet";
  setMeter(element("level"), (level + 60) / 60, Math.round(level), text);
  setText("level-text", text);
}

function setMeter(meter, share, value, text) {
  meter.firstElementChild.style.transform = `scaleX(${share})`;
  meter.setAttribute("aria-valuenow", value);
  meter.setAttribute("aria-valuetext", text);
}

function make(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function buildBars() {
  element("bars").replaceChildren(
    ...answers.map((answer) => {
      const row = make("li", "");
      row.dataset.tone = tone(answer);
      const label = make("span", "label", answer);
      const meter = make("div", "meter");
      meter.append(make("div", "fill"));
      meter.setAttribute("role", "meter");
      meter.setAttribute("aria-label", answer);
      meter.setAttribute("aria-valuemin", 0);
      meter.setAttribute("aria-valuemax", 100);
      const share = make("span", "share");
      for (const seen of [label, share]) seen.setAttribute("aria-hidden", "true"); // the meter says both
      row.append(label, meter, share);
      return row;
    }),
  );
}

function renderBars() {
  const shown = shownEvent();
  const probabilities = (state.muted ? null : shown?.probabilities) ?? {};
  answers.forEach((answer, i) => {
    const row = element("bars").children[i];
    const p = Object.hasOwn(probabilities, answer) ? probabilities[answer] : null;
    const text = p === null ? "–" : percent(p);
    row.classList.toggle("best", p !== null && answer === shown.emotion);
    setMeter(row.children[1], p ?? 0, Math.round(100 * (p ?? 0)), p === null ? "not known now" : text);
    if (row.children[2].textContent !== text) row.children[2].textContent = text;
  });
}

const SVG = "http://www.w3.org/2000/svg";

function buildTimeline() {
  element("timeline").replaceChildren(
    ...[...answers, "unsure"].map((answer) => {
      const lane = make("div", "lane");
      lane.dataset.tone = tone(answer);
      const strip = document.createElementNS(SVG, "svg");
      strip.setAttribute("viewBox", `0 0 ${SHOWN_S} 1`);
      strip.setAttribute("preserveAspectRatio", "none");
      lane.append(make("span", "label", answer), strip);
      return lane;
    }),
  );
}

function renderTimeline() {
  const now = Date.now() / 1000;
  const shown = runs.filter((run) => run.end > now - SHOWN_S);
  const lanes = [...element("timeline").children];
  [...answers, "unsure"].forEach((answer, i) => {
    const blocks = shown.filter((run) => run.answer === answer).map((run) => {
      const block = document.createElementNS(SVG, "rect");
      block.setAttribute("x", (run.start - now + SHOWN_S).toFixed(2));
      block.setAttribute("width", Math.max(0.5, run.end - run.start).toFixed(2));
      block.setAttribute("height", 1);
      return block;
    });
    lanes[i].lastElementChild.replaceChildren(...blocks);
  });
  const totals = new Map();
  for (const run of shown) totals.set(run.answer, (totals.get(run.answer) ?? 0) + run.end - run.start);
  totals.delete("silence");
  const parts = [...totals].sort((a, b) => b[1] - a[1]).map(([answer, s]) => `${answer} ${duration(s)}`);
  const summary = `Answers of the last 5 minutes: ${parts.join(", ") || "none yet"}`;
  if (element("timeline").getAttribute("aria-label") !== summary) {
    element("timeline").setAttribute("aria-label", summary);
  }
  if (element("list").open) renderRuns(shown);
}

function renderRuns(shown) {
  element("runs").replaceChildren(
    ...shown.slice(-MAX_MESSAGES).reverse().map((run) => {
      const word = run.answer === "silence" ? "no speech" : run.answer;
      return entry(run.start, `${word}, ${duration(run.end - run.start)}`);
    }),
  );
}

element("list").addEventListener("toggle", renderTimeline);

function entry(at, text) {
  const item = make("li", "");
  item.append(make("time", "", clock.format(1000 * at)), text);
  return item;
}

function duration(s) {
  if (s < 60) return `${Math.max(1, Math.round(s))} s`;
  const minutes = Math.round(s / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function renderAffect() {
  const shown = shownEvent();
  const known = !state.muted && shown?.arousal != null && shown?.valence != null;
  const dot = element("affect-dot");
  dot.setAttribute("visibility", known ? "visible" : "hidden");
  if (known) dot.style.transform = `translate(${shown.valence}px, ${-shown.arousal}px)`;
  dot.dataset.tone = current().tone ?? "none";
  const text = known
    ? `arousal ${signed(shown.arousal)}, valence ${signed(shown.valence)}`
    : "not known now";
  setText("affect-text", text);
  element("affect").setAttribute("aria-label", `Arousal and valence: ${text}`);
}

function renderMessages() {
  const items = messages.map((message) => entry(message.at, message.text)).reverse();
  element("messages").replaceChildren(...(items.length ? items : [make("li", "", "Nothing to report.")]));
}

function renderNumbers() {
  setText("heard", duration(state.audio_s));
  setText("latency", `${state.latency_ms < 10 ? state.latency_ms.toFixed(1) : Math.round(state.latency_ms)} ms`);
  setText("scored", `${state.scored} of ${state.windows}`);
  setText("lost", `${state.lost}`);
}

connect();
