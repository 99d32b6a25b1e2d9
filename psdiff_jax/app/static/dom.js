// Elements, what is said to the user, and times as they are written.

export const $ = (selector, within = document) => within.querySelector(selector);
export const make = (tag, values, text = "") => Object.assign(document.createElement(tag), { textContent: text }, values);
export const copy = (template) => $(template).content.firstElementChild.cloneNode(true);
export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
export const say = (text) => $("#status").textContent === text || ($("#status").textContent = text);
export const seconds = (text) => (text.trim() ? text.split(":").reduce((sum, part) => sum * 60 + Number(part), 0) : null);
export const clock = (time) => `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}`;
export const exact = (time) => `${clock(time)}${String(time).match(/\.\d+$/) ?? ""}`; // `seconds` reads the same time again

export function fail(message) {
  $("#error").hidden = !message;
  $("#error p").textContent = message ?? "";
}
