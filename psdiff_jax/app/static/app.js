// The page: draws the state that the server answers with, and sends what the user does.

import { draftBox, place } from "./box.js";
import { $, copy, count, exact, fail, make, say, seconds } from "./dom.js";
import { drawHits } from "./results.js";

const drawn = {}; // part of the page -> what the state said of it when it was drawn last, as JSON
let state = null;
let queue = Promise.resolve();
let timer = null;
let unreached = false; // by the last request
let searches = 0; // how often a new one was begun
let wanted = null; // filters that wait for those sent before
let filtering = false; // some are under way
let touched = false; // a filter since then

const differs = (part, said) => drawn[part] !== (drawn[part] = JSON.stringify(said));

// One request after the other, so that the last answer is the newest state.
function send(method, path, body) {
  return (queue = queue.then(() => request(method, path, body)));
}

// The error, or null.
async function request(method, path, body) {
  const isWrite = method !== "GET";
  const isFile = body instanceof Blob;
  const headers = body && !isFile ? { "Content-Type": "application/json" } : {};
  if (isWrite) $("#results").setAttribute("aria-busy", "true");
  let error = null;
  try {
    const response = await fetch(path, { method, headers, body: isFile ? body : JSON.stringify(body) });
    const answer = await response.json();
    if (response.ok && (isWrite || unreached)) fail(null);
    if (response.ok) draw(answer);
    else error = answer.error;
    unreached = false;
  } catch {
    error = "The server does not answer; see whether it still runs.";
    unreached = true;
  }
  if (error) fail(error);
  if (isWrite) $("#results").removeAttribute("aria-busy");
  clearTimeout(timer);
  if (unreached || state?.indexing.running) timer = setTimeout(() => send("GET", "/api/state"), 1000);
  return error;
}

// On a narrow page the results are below the image.
async function choose(chosen) {
  const error = await send("POST", "/api/choose", chosen);
  if (!error && matchMedia("(max-width: 56rem)").matches) $("#results").scrollIntoView();
}

async function upload(files) {
  const limit = Number($("main").dataset.maxBytes);
  const [search, errors] = [searches, []];
  fail(null);
  for (const file of files) {
    if (search !== searches) break; // the others are not of the new search
    if (file.size > limit) {
      errors.push(`${file.name} is larger than ${limit / 1e6} MB; give a smaller image`);
      continue;
    }
    say(`Looking for people in ${file.name}`);
    $("#drop").classList.add("busy");
    errors.push(await send("POST", `/api/images?name=${encodeURIComponent(file.name)}`, file));
    $("#drop").classList.remove("busy");
  }
  if (errors.some(Boolean)) fail(errors.filter(Boolean).join(" "));
  $("#file").value = "";
}

const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

function drawImage(image) {
  const { id, name, width, height, people } = image;
  const element = copy("#image");
  const stage = $(".stage", element);
  const example = state.examples.find((each) => each.image === id);
  const isChosen = ({ box }) => example !== undefined && box.every((v, i) => Math.abs(v - example.box[i]) < 0.01);
  element.ariaLabel = name;
  element.dataset.id = id;
  Object.assign($("img", element), { src: `/api/images/${id}`, alt: name, width, height });
  Object.assign($(".name", element), { textContent: name, title: name });
  if (people.length) $(".found", element).textContent = `${count(people.length, "person", "people")} found`;
  const draw = $(".draw", element);
  draw.dataset.key = `${id}/draw`;
  draw.onclick = () => draftBox(image, stage, draw, (box) => (box ? choose({ image: id, box }) : drawImages()));
  $(".remove", element).ariaLabel = `Remove ${name}`;
  $(".remove", element).onclick = () => send("DELETE", `/api/images/${id}`).then(() => $("#file").focus());
  people.forEach((person, i) => {
    const box = make("button", { type: "button", className: "person", ariaPressed: String(isChosen(person)) });
    box.ariaLabel = `Person ${i + 1} of ${people.length}`;
    box.dataset.key = `${id}/${i}`;
    box.style.zIndex = people.filter((other) => area(other.box) > area(person.box)).length; // the smaller one in front
    box.onclick = () => choose({ image: id, person: i });
    stage.append(place(box, person.box, image));
  });
  const isDrawn = example !== undefined && !people.some(isChosen);
  if (isDrawn) stage.append(place(make("div", { className: "person drawn" }), example.box, image));
  return element;
}

const judge = (hit, isThem) => send("POST", "/api/judge", { hit: hit.id, is_them: isThem });

function drawImages() {
  const { images, examples } = state;
  const drafted = $(".veil")?.closest(".image").dataset.id;
  if (images.some(({ id }) => id === drafted)) return; // a box is being drawn in it
  if (differs("images", [images, examples])) $("#images").replaceChildren(...[...images].reverse().map(drawImage));
}

function drawPromise(least) {
  const { calibration } = state;
  $("#least").textContent = Number(least).toFixed(2);
  const tried = calibration?.similarities.filter((similarity) => similarity <= Number(least) + 1e-9).length;
  const share = tried ? calibration.precision[tried - 1] : null;
  if (!calibration) $("#promise").textContent = "How many of them are right is not known: the run has no calibration.";
  else if (share === null) $("#promise").textContent = "None were that similar on images held out from training.";
  else $("#promise").textContent = `${Math.round(100 * share)} % were right on images held out from training.`;
}

function drawFolders(folders, chosen) {
  const options = folders.map((folder) => make("option", { value: folder }, folder === "." ? "(top folder)" : folder));
  $("#folder").replaceChildren(make("option", { value: "" }, "All folders"), ...options);
  $("#folder").value = chosen ?? "";
  $("#folder").parentElement.hidden = folders.length < 2;
}

// Each only where the state differs from the one before, so that what is being typed or dragged stays.
function drawFilters({ folders, videos }, { folder, similarity, ...times }) {
  $("#times").hidden = videos === 0;
  if (differs("folder", [folders, folder])) drawFolders(folders, folder);
  if (wanted || touched) return;
  for (const name of ["after", "before"]) {
    if (differs(name, times[name])) $(`#${name}`).value = times[name] === null ? "" : exact(times[name]);
  }
  if (differs("similarity", similarity)) {
    $("#similarity").value = similarity;
    drawPromise(similarity);
  }
}

function advice({ gallery, indexing, images, examples }) {
  if (!gallery && indexing.running) return ["The index is being made", "You can search as soon as it stands."];
  if (!gallery) return ["There is no index", "Start the page again with --folder."];
  if (!gallery.people) return ["Nobody is in this index", "No person was found in its images and videos."];
  if (examples.length) return ["No results", "Lower the similarity, or choose another folder or time."];
  if (images.length) return ["Choose the person", "Click one of the boxes in your image, or draw one."];
  return ["Start with an image", "Give an image of the person, then choose them in it."];
}

function drawIndexing({ gallery, indexing }) {
  const { people = 0, images = 0, videos = 0 } = gallery ?? {};
  const media = [images && count(images, "image"), videos && count(videos, "video")].filter(Boolean);
  $("#about").textContent = media.length ? `${count(people, "person", "people")} in ${media.join(" and ")}` : "";
  $("#indexing").hidden = !indexing.running;
  if (indexing.total) Object.assign($("#indexed"), { max: indexing.total, value: indexing.done });
  $("#unreadable").hidden = !indexing.unreadable.length;
  $("#unreadable summary").textContent = `${count(indexing.unreadable.length, "file")} could not be read`;
  $("#unreadable ul").replaceChildren(...indexing.unreadable.map((line) => make("li", {}, line)));
  if (indexing.error && indexing.error !== state?.indexing.error) fail(indexing.error);
}

function draw(next) {
  const focused = document.activeElement?.dataset?.key;
  drawIndexing(next);
  state = next;
  const { gallery, images, hits, examples, filters } = state;
  drawImages();
  $("#query").classList.toggle("has-images", images.length > 0);
  $("#advice").hidden = !examples.length;
  $("#history").hidden = !images.length;
  $("#undo").disabled = !state.can_undo;
  $("#export").hidden = !hits.length;
  $("#filters").hidden = !gallery || !examples.length;
  if (gallery) drawFilters(gallery, filters);
  if (differs("hits", hits)) drawHits(hits, judge); // else a press may be under way
  $("#more").hidden = !state.more;
  const [title, text] = hits.length ? [count(hits.length, "result"), ""] : advice(state);
  $("#results-title").textContent = hits.length ? title : "Results";
  $("#empty").hidden = hits.length > 0;
  $("#empty b").textContent = title;
  $("#empty p:last-child").textContent = text;
  say(`${title}. ${text}`);
  if (focused) $(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// One change after the other; of those that wait only the last is sent.
async function filter(changed = {}) {
  const [after, before] = ["#after", "#before"].map((id) => seconds($(id).value));
  if (Number.isNaN(after) || Number.isNaN(before)) return fail("Give times as minutes:seconds, such as 1:30.");
  fail(null);
  const [folder, similarity] = [$("#folder").value || null, Number($("#similarity").value)];
  const top = wanted?.top ?? state.filters.top;
  wanted = { folder, after, before, similarity, top, ...changed };
  touched = false;
  if (filtering) return;
  filtering = true;
  while (wanted) {
    const next = wanted;
    wanted = null;
    await send("POST", "/api/filters", next);
  }
  filtering = false;
}

function start() {
  const on = (selector, event, act) => $(selector).addEventListener(event, act);
  on("#file", "change", (event) => upload([...event.target.files]));
  on("#error button", "click", () => fail(null));
  on("#undo", "click", () => send("POST", "/api/undo"));
  on("#clear", "click", () => {
    searches += 1;
    send("POST", "/api/clear").then(() => $("#file").focus());
  });
  on("#more", "click", () => filter({ top: Math.min(2 * state.filters.top, $("main").dataset.mostHits) }));
  on("#close", "click", () => $("#viewer").close());
  on("#viewer", "close", () => {
    $("#viewed video")?.removeAttribute("src"); // ends its download
    $("#viewed video")?.load();
    $("#viewed").replaceChildren();
  });
  on("#filters", "submit", (event) => event.preventDefault());
  on("#filters", "input", () => (touched = true));
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
