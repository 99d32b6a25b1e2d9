// The cards of the results, and the frame or video of one of them.

import { $, clock, copy, make } from "./dom.js";

const cards = new Map(); // hit id -> its element, kept between draws so that pictures do not load again

const source = (hit) => (hit.time === null ? hit.image : `${hit.image}, at ${clock(hit.time)}`);

function makeCard(hit, judge) {
  const card = copy("#card");
  const [path, where, isVideo] = [`/api/hits/${hit.id}`, source(hit), hit.time !== null];
  $(".crop", card).src = `${path}/crop`;
  $(".frame", card).src = `${path}/frame/small`;
  $(".play", card).textContent = isVideo ? `▶ ${clock(hit.time)}` : "";
  $(".open", card).ariaLabel = `${isVideo ? "Play" : "Show"} ${where}`;
  $(".open", card).dataset.key = `${hit.id}/open`;
  $(".open", card).onclick = () => view(hit);
  Object.assign($(".source", card), { textContent: where, title: where });
  $(".verdict", card).ariaLabel = `Is ${where} them?`;
  for (const [name, isThem] of Object.entries({ them: true, not: false })) {
    const toggle = $(`.${name}`, card);
    const said = () => (toggle.ariaPressed === "true" ? null : isThem); // a second click takes it back
    toggle.dataset.key = `${hit.id}/${name}`;
    toggle.onclick = () => judge(hit, said());
  }
  return card;
}

function drawHit(hit, judge) {
  const card = cards.get(hit.id) ?? makeCard(hit, judge);
  cards.set(hit.id, card);
  card.classList.toggle("is-them", hit.is_them === true);
  card.classList.toggle("is-not", hit.is_them === false);
  $(".rank", card).textContent = hit.rank;
  $(".value", card).textContent = hit.similarity.toFixed(2);
  $(".bar i", card).style.width = `${100 * Math.max(hit.similarity, 0)}%`;
  $(".them", card).ariaPressed = String(hit.is_them === true);
  $(".not", card).ariaPressed = String(hit.is_them === false);
  return card;
}

// The cards of the hits, best first; judge(hit, true, false or null) is called with what the user says of one.
export function drawHits(hits, judge) {
  for (const id of cards.keys()) if (!hits.some((hit) => hit.id === id)) cards.delete(id);
  $("#hits").replaceChildren(...hits.map((hit) => drawHit(hit, judge)));
}

function view(hit) {
  const path = `/api/hits/${hit.id}`;
  const still = make("img", { src: `${path}/frame/large`, alt: `${source(hit)}, with the person marked` });
  $("#viewer-title").textContent = source(hit);
  $("#viewed").replaceChildren(still);
  if (hit.time !== null) {
    const video = make("video", { src: `${path}/media#t=${hit.time.toFixed(2)}`, controls: true, playsInline: true });
    const note = make("p", {}, "This browser cannot play this kind of video; this is the frame.");
    video.muted = true;
    video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    video.onerror = () => video.isConnected && $("#viewed").replaceChildren(still, note);
    $("#viewed").replaceChildren(video);
  }
  $("#viewer").showModal();
}
