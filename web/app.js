// The page: a picture in, its classes painted over it.

import { Network } from "./network.js";

const MODEL = new URLSearchParams(location.search).get("model") ?? "icnet.onnx";
const SAMPLE = "sample.png";
const LARGEST = 1600; // pixels of a side that is shown

const element = (id) => document.getElementById(id);
const [picture, overlay] = [element("picture"), element("labels")];
let network;
let labels; // of what is shown
let turn = 0; // the last picture wins

function say(text, failed = false) {
  element("status").textContent = text;
  element("status").classList.toggle("failed", failed);
}

/** Label a picture and show it. */
async function show(source) {
  const mine = ++turn;
  element("stage").classList.add("waiting");
  try {
    const bitmap = await createImageBitmap(source, { imageOrientation: "from-image" }).catch(() => {
      throw new Error("This is no picture that the browser can open; give a JPEG, PNG or WebP file");
    });
    const fit = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    [picture.width, picture.height] = [bitmap.width, bitmap.height].map((side) => Math.round(side * fit));
    picture.getContext("2d").drawImage(bitmap, 0, 0, picture.width, picture.height);
    overlay.width = overlay.height = 0;
    labels = undefined;
    say("Labelling ...");
    await new Promise(requestAnimationFrame);
    const begin = performance.now();
    const image = resized(bitmap, ...network.sizeFor(bitmap.width, bitmap.height));
    const prepared = performance.now();
    const found = await network.segment(image);
    const done = performance.now();
    if (mine !== turn) return;
    labels = { values: found, width: image.width, height: image.height };
    paint();
    list();
    const drawn = performance.now();
    const [before, during, after] = [prepared - begin, done - prepared, drawn - done].map(Math.round);
    say(
      `${network.title}, trained on ${network.trainedOn}, ${network.runtime}: ${before} ms to prepare, ` +
        `${during} ms in the network (${image.width}x${image.height}), ${after} ms to draw`,
    );
    document.body.dataset.done = String(mine);
  } catch (error) {
    if (mine === turn) say(error.message, true);
  } finally {
    if (mine === turn) element("stage").classList.remove("waiting");
  }
}

function resized(bitmap, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

function paint() {
  const { values, width, height } = labels;
  [overlay.width, overlay.height] = [width, height];
  const image = new ImageData(width, height);
  values.forEach((label, i) => image.data.set([...network.palette[label], 255], 4 * i));
  overlay.getContext("2d").putImageData(image, 0, 0);
  overlay.style.height = `${picture.clientHeight}px`;
}

function list() {
  const counts = new Array(network.names.length).fill(0);
  for (const label of labels.values) counts[label]++;
  const present = counts.map((count, label) => ({ count, label })).filter(({ count }) => count);
  present.sort((one, other) => other.count - one.count);
  element("legend").replaceChildren(
    ...present.map(({ count, label }) => {
      const [item, colour, share] = ["li", "span", "span"].map((name) => document.createElement(name));
      colour.className = "colour";
      colour.style.background = `rgb(${network.palette[label].join()})`;
      share.className = "share";
      share.textContent = `${((100 * count) / labels.values.length).toFixed(1)} %`;
      item.append(colour, network.names[label], share);
      return item;
    }),
  );
}

function point(event) {
  if (!labels) return;
  const box = overlay.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * labels.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * labels.height);
  const inside = x >= 0 && y >= 0 && x < labels.width && y < labels.height;
  element("pointed").textContent = inside ? network.names[labels.values[y * labels.width + x]] : "\u00a0";
}

function connect() {
  for (const id of ["file", "camera"]) {
    element(id).addEventListener("change", ({ target }) => {
      if (target.files.length) show(target.files[0]);
      target.value = "";
    });
  }
  element("sample").addEventListener("click", showSample);
  element("opacity").addEventListener("input", ({ target }) => (overlay.style.opacity = target.value / 100));
  overlay.style.opacity = element("opacity").value / 100;
  for (const kind of ["pointermove", "pointerdown"]) overlay.addEventListener(kind, point);
  overlay.addEventListener("pointerleave", () => (element("pointed").textContent = "\u00a0"));
  addEventListener("resize", () => (overlay.style.height = `${picture.clientHeight}px`));
  addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) show(file);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) show(file);
  });
}

async function showSample() {
  await show(await (await fetch(SAMPLE)).blob());
}

try {
  network = await Network.load(MODEL);
  connect();
  window.icnet = { network, labels: () => labels }; // for who looks from the console, and the tests
  await showSample();
} catch (error) {
  say(`The network cannot be loaded: ${error.message}`, true);
}
