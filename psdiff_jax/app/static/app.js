// The page: draws the state that the server answers with, and sends what the user does.

const $ = (selector, within = document) => within.querySelector(selector);
const cards = new Map(); // hit id -> its element, kept between draws so that pictures do not load again
let state = null;
let queue = Promise.resolve();
let timer = null;
let drawnImages = "";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const button = (text, attributes) => make("button", { type: "button", ...attributes }, text);
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const say = (text) => ($("#status").textContent = text);
const clamp = (value, most) => Math.min(Math.max(value, 0), most);
const seconds = (text) => (text.trim() ? text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0) : null);

function clock(time) {
  const [hours, minutes, rest] = [Math.floor(time / 3600), Math.floor(time / 60) % 60, Math.floor(time % 60)];
  const parts = hours ? [hours, String(minutes).padStart(2, "0")] : [minutes];
  return [...parts, String(rest).padStart(2, "0")].join(":");
}

function fail(message) {
  $("#error").hidden = !message;
  $("#error p").textContent = message ?? "";
}

// One request after the other, so that the last answer is the newest state.
function send(method, path, body) {
  return (queue = queue.then(() => request(method, path, body)));
}

async function request(method, path, body) {
  const isFile = body instanceof Blob;
  const headers = body && !isFile ? { "Content-Type": "application/json" } : {};
  $("#results").setAttribute("aria-busy", "true");
  try {
    const response = await fetch(path, { method, headers, body: isFile ? body : JSON.stringify(body) });
    const answer = await response.json();
    if (response.ok) draw(answer);
    else fail(answer.error);
  } catch {
    fail("The server does not answer; see whether it still runs.");
  }
  $("#results").removeAttribute("aria-busy");
}

// On a narrow page the results are below the image.
async function choose(chosen) {
  await send("POST", "/api/choose", chosen);
  if (matchMedia("(max-width: 56rem)").matches && $("#error").hidden) $("#results").scrollIntoView();
}

// ---- images ----

async function upload(files) {
  const limit = Number($("main").dataset.maxBytes);
  fail(null);
  for (const file of files) {
    if (file.size > limit) {
      fail(`${file.name} is larger than ${limit / 1e6} MB; give a smaller image`);
      continue;
    }
    say(`Looking for people in ${file.name}`);
    $("#drop").classList.add("busy");
    await send("POST", `/api/images?name=${encodeURIComponent(file.name)}`, file);
    $("#drop").classList.remove("busy");
  }
  $("#file").value = "";
}

function place(element, [x1, y1, x2, y2], { width, height }) {
  const shares = { left: x1 / width, top: y1 / height, width: (x2 - x1) / width, height: (y2 - y1) / height };
  for (const [side, share] of Object.entries(shares)) element.style[side] = `${100 * share}%`;
  return element;
}

function drawImage(image) {
  const { id, name, width, height, people } = image;
  const example = state.examples.find((each) => each.image === id);
  const isChosen = ({ box }) => example !== undefined && box.every((v, i) => Math.abs(v - example.box[i]) < 0.01);
  const stage = make("div", { class: "stage" }, make("img", { src: `/api/images/${id}`, alt: name, width, height }));
  people.forEach((person, i) => {
    const box = button("", {
      class: "person",
      "aria-label": `Person ${i + 1} of ${people.length}`,
      "aria-pressed": String(isChosen(person)),
      "data-key": `${id}/${i}`,
      click: () => choose({ image: id, person: i }),
    });
    stage.append(place(box, person.box, image));
  });
  if (example && !people.some(isChosen)) stage.append(place(make("div", { class: "person drawn" }), example.box, image));
  const found = people.length ? `${count(people.length, "person", "people")} found` : "Nobody found: draw a box";
  const actions = make(
    "div",
    { class: "actions" },
    button("Draw a box", { class: "quiet", "data-key": `${id}/draw`, click: () => draftBox(image, stage) }),
    button("Remove", { class: "quiet", "aria-label": `Remove ${name}`, click: () => send("DELETE", `/api/images/${id}`) }),
  );
  const caption = make("p", { class: "caption" }, make("span", { class: "name", title: name }, name), make("span", {}, found));
  return make("article", { class: "image", "aria-label": name }, stage, make("div", { class: "under" }, caption, actions));
}

// A box to draw with the pointer, or to move with the arrow keys.
function draftBox(image, stage) {
  const { width, height } = image;
  const help = "Box to search for. Arrow keys move it, with Shift they resize it, Enter searches, Escape removes it.";
  const draft = make("div", { class: "draft", tabindex: 0, role: "application", "aria-label": help });
  const veil = make("div", { class: "veil" }, draft);
  let box = [0.4 * width, 0.25 * height, 0.6 * width, 0.85 * height];
  let from = null;
  const show = (next) => place(draft, (box = next), image);
  const at = (event) => {
    const edge = veil.getBoundingClientRect();
    const share = [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height];
    return [clamp(share[0], 1) * width, clamp(share[1], 1) * height];
  };
  const search = () => {
    if (box[2] - box[0] < 4 || box[3] - box[1] < 4) return fail("Draw a larger box around the person.");
    veil.remove();
    fail(null);
    choose({ image: image.id, box });
  };
  veil.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    veil.setPointerCapture(event.pointerId);
    from = at(event);
  });
  veil.addEventListener("pointermove", (event) => {
    if (!from) return;
    const to = at(event);
    show([Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])]);
  });
  veil.addEventListener("pointerup", () => {
    if (from) search();
    from = null;
  });
  draft.addEventListener("keydown", (event) => {
    const step = 0.02 * Math.max(width, height);
    const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const [dx, dy] = arrows[event.key] ?? [0, 0];
    const [x1, y1, x2, y2] = box;
    if (event.key === "Enter") search();
    else if (event.key === "Escape") veil.remove();
    else if (!(event.key in arrows)) return;
    else if (event.shiftKey) show([x1, y1, clamp(Math.max(x2 + dx, x1 + step), width), clamp(Math.max(y2 + dy, y1 + step), height)]);
    else {
      const [x, y] = [clamp(x1 + dx, width - (x2 - x1)), clamp(y1 + dy, height - (y2 - y1))];
      show([x, y, x + x2 - x1, y + y2 - y1]);
    }
    event.preventDefault();
  });
  show(box);
  $(".veil", stage)?.remove();
  stage.append(veil);
  draft.focus();
}

// ---- hits ----

const source = (hit) => (hit.time === null ? hit.image : `${hit.image}, at ${clock(hit.time)}`);

function makeCard(hit) {
  const path = `/api/hits/${hit.id}`;
  const picture = (name, file) => make("img", { class: name, src: `${path}/${file}`, alt: "", loading: "lazy" });
  const opened = { "aria-label": `${hit.time === null ? "Show" : "Play"} ${source(hit)}`, click: () => view(hit) };
  const open = make("button", { type: "button", class: "open", ...opened }, picture("crop", "crop"), picture("frame", "frame/small"));
  if (hit.time !== null) open.append(make("span", { class: "play", "aria-hidden": "true" }, `▶ ${clock(hit.time)}`));
  const verdict = (text, name, isThem) =>
    button(text, {
      class: name,
      "data-key": `${hit.id}/${name}`,
      click: (event) => {
        const isTakenBack = event.target.getAttribute("aria-pressed") === "true";
        send("POST", "/api/judge", { hit: hit.id, is_them: isTakenBack ? null : isThem });
      },
    });
  const facts = make(
    "div",
    { class: "facts" },
    make("span", { class: "rank" }),
    make("span", { class: "bar", "aria-hidden": "true" }, make("i")),
    make("span", { class: "value", title: "Similarity" }),
    make("span", { class: "source", title: source(hit) }, source(hit)),
  );
  const group = { class: "verdict", role: "group", "aria-label": `Is ${source(hit)} them?` };
  return make("li", { class: "card" }, open, facts, make("div", group, verdict("This is them", "them", true), verdict("Not them", "not", false)));
}

function drawHit(hit) {
  const card = cards.get(hit.id) ?? makeCard(hit);
  cards.set(hit.id, card);
  card.classList.toggle("is-them", hit.is_them === true);
  card.classList.toggle("is-not", hit.is_them === false);
  $(".rank", card).textContent = hit.rank;
  $(".value", card).textContent = hit.similarity.toFixed(2);
  $(".bar i", card).style.width = `${100 * clamp(hit.similarity, 1)}%`;
  $(".them", card).setAttribute("aria-pressed", String(hit.is_them === true));
  $(".not", card).setAttribute("aria-pressed", String(hit.is_them === false));
  return card;
}

function view(hit) {
  const path = `/api/hits/${hit.id}`;
  const still = make("img", { src: `${path}/frame/large`, alt: `${source(hit)}, with the person marked` });
  $("#viewer-title").textContent = source(hit);
  $("#viewed").replaceChildren(still);
  if (hit.time !== null) {
    const video = make("video", { src: `${path}/media#t=${hit.time.toFixed(2)}`, controls: "", playsinline: "" });
    const note = make("p", {}, "This browser cannot play this kind of video; this is the frame.");
    video.muted = true;
    video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    video.addEventListener("error", () => $("#viewed").replaceChildren(still, note));
    $("#viewed").replaceChildren(video);
  }
  $("#viewer").showModal();
}

// ---- the whole page ----

function drawPromise(least) {
  const { calibration } = state;
  $("#least").textContent = Number(least).toFixed(2);
  const tried = calibration?.similarities.filter((similarity) => similarity <= Number(least) + 1e-9).length;
  const share = tried ? calibration.precision[tried - 1] : null;
  if (!calibration) $("#promise").textContent = "How many of them are right is not known: the run has no calibration.";
  else if (share === null) $("#promise").textContent = "None were that similar on images held out from training.";
  else $("#promise").textContent = `${Math.round(100 * share)} % were right on images held out from training.`;
}

function drawFilters({ folders, videos }, filters) {
  const options = folders.map((folder) => make("option", { value: folder }, folder === "." ? "(top folder)" : folder));
  $("#folder").replaceChildren(make("option", { value: "" }, "All folders"), ...options);
  $("#folder").value = filters.folder ?? "";
  $("#folder").parentElement.hidden = folders.length < 2;
  $("#times").hidden = videos === 0;
  $("#after").value = filters.after === null ? "" : clock(filters.after);
  $("#before").value = filters.before === null ? "" : clock(filters.before);
  $("#similarity").value = filters.similarity;
  drawPromise(filters.similarity);
}

function advice({ gallery, indexing, images, examples }) {
  if (!gallery) return indexing.running ? ["The index is being made", "You can search as soon as it stands."] : ["There is no index", "Start the page again with --folder."];
  if (!gallery.people) return ["Nobody is in this index", "No person was found in its images and videos."];
  if (examples.length) return ["No results", "Lower the similarity, or choose another folder or time."];
  if (images.length) return ["Choose the person", "Click one of the boxes in your image, or draw one."];
  return ["Start with an image", "Give an image of the person, then choose them in it."];
}

function drawIndexing({ gallery, indexing }) {
  const media = gallery && [count(gallery.images, "image"), ...(gallery.videos ? [count(gallery.videos, "video")] : [])];
  $("#about").textContent = gallery ? `${count(gallery.people, "person", "people")} in ${media.join(" and ")}` : "";
  $("#indexing").hidden = !indexing.running;
  if (indexing.total) Object.assign($("#indexed"), { max: indexing.total, value: indexing.done });
  $("#unreadable").hidden = !indexing.unreadable.length;
  $("#unreadable summary").textContent = `${count(indexing.unreadable.length, "file")} could not be read`;
  $("#unreadable ul").replaceChildren(...indexing.unreadable.map((line) => make("li", {}, line)));
  if (indexing.error) fail(indexing.error);
  clearTimeout(timer);
  if (indexing.running) timer = setTimeout(() => send("GET", "/api/state"), 1000);
}

function draw(next) {
  const focused = document.activeElement?.dataset?.key;
  state = next;
  const { gallery, images, hits, examples, filters } = state;
  drawIndexing(state);
  if (drawnImages !== (drawnImages = JSON.stringify([images, examples]))) {
    $("#images").replaceChildren(...[...images].reverse().map(drawImage)); // not while a box is being drawn
  }
  $("#query").classList.toggle("has-images", images.length > 0);
  $("#advice").hidden = !examples.length;
  $("#history").hidden = !images.length;
  $("#undo").disabled = !state.can_undo;
  $("#export").hidden = !hits.length;
  $("#filters").hidden = !gallery || !examples.length;
  if (gallery) drawFilters(gallery, filters);
  for (const id of cards.keys()) if (!hits.some((hit) => hit.id === id)) cards.delete(id);
  $("#hits").replaceChildren(...hits.map(drawHit));
  $("#more").hidden = !state.more;
  const [title, text] = hits.length ? [count(hits.length, "result"), ""] : advice(state);
  $("#results-title").textContent = hits.length ? title : "Results";
  $("#empty").hidden = hits.length > 0;
  $("#empty b").textContent = title;
  $("#empty p:last-child").textContent = text;
  say(`${title}. ${text}`);
  if (focused) $(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function filter(changed = {}) {
  const [after, before] = ["#after", "#before"].map((id) => seconds($(id).value));
  if (Number.isNaN(after) || Number.isNaN(before)) return fail("Give times as minutes:seconds, such as 1:30.");
  fail(null);
  const similarity = Number($("#similarity").value);
  send("POST", "/api/filters", { folder: $("#folder").value || null, after, before, similarity, top: state.filters.top, ...changed });
}

function start() {
  const on = (selector, event, act) => $(selector).addEventListener(event, act);
  on("#file", "change", (event) => upload([...event.target.files]));
  on("#error button", "click", () => fail(null));
  on("#undo", "click", () => send("POST", "/api/undo"));
  on("#clear", "click", () => send("POST", "/api/clear"));
  on("#more", "click", () => filter({ top: clamp(2 * state.filters.top, Number($("main").dataset.mostHits)) }));
  on("#close", "click", () => $("#viewer").close());
  on("#viewer", "close", () => $("#viewed").replaceChildren());
  on("#filters", "submit", (event) => event.preventDefault());
  on("#filters", "change", () => filter());
  on("#similarity", "input", (event) => drawPromise(event.target.value));
  for (const [event, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
    addEventListener(event, (dragged) => {
      dragged.preventDefault();
      $("#drop").classList.toggle("over", isOver);
      if (event === "drop") upload([...dragged.dataTransfer.files]);
    });
  }
  send("GET", "/api/state");
}

// The address that is printed at start has the token in its fragment, which only this script reads.
function signIn(form) {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  form.token.value = token;
  form.submit();
}

if ($("#sign-in")) signIn($("#sign-in"));
else start();
