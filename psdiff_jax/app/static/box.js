// Boxes over a picture: xyxy in pixels of an image {width, height}, whatever size it is shown at.

const SMALLEST = 8; // pixels of the page
const clamp = (value, most) => Math.min(Math.max(value, 0), most);

export function place(element, [x1, y1, x2, y2], { width, height }) {
  const percent = (share) => `${100 * share}%`;
  Object.assign(element.style, { left: percent(x1 / width), top: percent(y1 / height) });
  Object.assign(element.style, { width: percent((x2 - x1) / width), height: percent((y2 - y1) / height) });
  return element;
}

// A box to draw with the pointer, or to move with the arrow keys, over the picture in `stage`; `done` takes it, or null
// where it is given up. `button` begins it, and gives it up.
export function draftBox(image, stage, button, done) {
  const before = stage.querySelector(".veil");
  if (before) return before.end(null);
  const { width, height } = image;
  const help = "Box to search for. Arrow keys move it, with Shift they resize it, Enter searches, Escape removes it.";
  const veil = Object.assign(document.createElement("div"), { className: "veil" });
  const draft = document.createElement("div");
  Object.assign(draft, { className: "draft", tabIndex: 0, role: "application", ariaLabel: help });
  let box = [0.4 * width, 0.25 * height, 0.6 * width, 0.85 * height];
  const text = button.textContent;
  let from = null;
  const show = (next) => place(draft, (box = next), image);
  const at = (event) => {
    const edge = veil.getBoundingClientRect();
    const share = [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height];
    return [clamp(share[0], 1) * width, clamp(share[1], 1) * height];
  };
  veil.end = (found) => {
    veil.remove();
    button.textContent = text;
    button.focus();
    done(found);
  };
  const search = () => {
    const least = (SMALLEST * width) / veil.getBoundingClientRect().width;
    if (Math.min(box[2] - box[0], box[3] - box[1]) >= least) veil.end(box); // else a click: go on drawing
  };
  veil.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    veil.setPointerCapture(event.pointerId);
    from = at(event);
    show([...from, ...from]);
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
  veil.addEventListener("pointercancel", () => (from = null));
  draft.addEventListener("keydown", (event) => {
    const step = 0.02 * Math.max(width, height);
    const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const [dx, dy] = arrows[event.key] ?? [0, 0];
    const [x1, y1, x2, y2] = box;
    if (event.key === "Enter") search();
    else if (event.key === "Escape") veil.end(null);
    else if (!(event.key in arrows)) return;
    else if (event.shiftKey) {
      const [right, bottom] = [Math.max(x2 + dx, x1 + step), Math.max(y2 + dy, y1 + step)];
      show([x1, y1, clamp(right, width), clamp(bottom, height)]);
    } else {
      const [x, y] = [clamp(x1 + dx, width - (x2 - x1)), clamp(y1 + dy, height - (y2 - y1))];
      show([x, y, x + x2 - x1, y + y2 - y1]);
    }
    event.preventDefault();
  });
  show(box);
  veil.append(draft);
  stage.append(veil);
  button.textContent = "Cancel";
  draft.focus();
}
