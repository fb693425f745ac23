// An exported network: pixels in, labels out.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";
import { readMetadata } from "./onnx.js";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.logLevel = "error";

const SHORT_SIDE = 360; // pixels, where a network takes any size

export class Network {
  /**
   * Load an .onnx file of export.py, onto the GPU where the browser has WebGPU.
   *
   * @param {string} url Of the file.
   * @returns {Promise<Network>}
   * @throws {Error} If there is none, or it is not from export.py.
   */
  static async load(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`there is no ${url}; export one as web/README.md says`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const metadata = readMetadata(bytes);
    const missing = ["names", "palette", "mean", "std", "normalize", "head"].filter((key) => !(key in metadata));
    if (missing.length) throw new Error(`${url} lacks ${missing.join(", ")}; give an .onnx file of export.py`);
    const providers = (await hasGPU()) ? ["webgpu", "wasm"] : ["wasm"];
    for (const provider of providers) {
      try {
        return new Network(await ort.InferenceSession.create(bytes, { executionProviders: [provider] }), metadata, provider);
      } catch (error) {
        if (provider === providers.at(-1)) throw error;
      }
    }
  }

  constructor(session, metadata, provider) {
    this.session = session;
    this.runtime = provider === "webgpu" ? "WebGPU" : "WebAssembly";
    this.names = JSON.parse(metadata.names);
    this.palette = JSON.parse(metadata.palette);
    this.normalize = metadata.normalize !== "true";
    [this.mean, this.std] = [metadata.mean, metadata.std].map((text) => JSON.parse(text).map((value) => 255 * value));
    this.title = metadata.model ? JSON.parse(metadata.model).name : "network";
    this.trainedOn = metadata.data_title ?? "unknown data";
    this.shape = session.inputMetadata[0].shape; // sides that are open have names
  }

  /** Return the size [width, height] that a picture of a size is brought to; its shape stays. */
  sizeFor(width, height) {
    const [, , rows, columns] = this.shape;
    const fixed = Number.isInteger(rows) && Number.isInteger(columns);
    const factor = fixed ? Math.min(columns / width, rows / height) : SHORT_SIDE / Math.min(width, height);
    return [width, height].map((side) => Math.max(1, Math.round(side * factor)));
  }

  /**
   * Label a picture. What it leaves of a network's fixed size, right and below, is filled with the mean colour.
   *
   * @param {ImageData} image Of the size that sizeFor tells.
   * @returns {Promise<Uint8Array>} The class of each pixel, row by row.
   */
  async segment({ data, width, height }) {
    const [rows, columns] = this.shape.slice(2).map((side, axis) => (Number.isInteger(side) ? side : [height, width][axis]));
    const area = rows * columns;
    const pixels = this.normalize ? new Float32Array(3 * area) : new Uint8Array(3 * area);
    for (let channel = 0; channel < 3; channel++) {
      const [mean, std] = this.normalize ? [this.mean[channel], this.std[channel]] : [0, 1];
      pixels.fill(this.normalize ? 0 : Math.round(this.mean[channel]), channel * area, (channel + 1) * area);
      for (let y = 0; y < height; y++) {
        const [from, to] = [4 * y * width + channel, channel * area + y * columns];
        for (let x = 0; x < width; x++) pixels[to + x] = (data[from + 4 * x] - mean) / std;
      }
    }
    const input = new ort.Tensor(this.normalize ? "float32" : "uint8", pixels, [1, 3, rows, columns]);
    const results = await this.session.run({ [this.session.inputNames[0]]: input });
    const output = results[this.session.outputNames[0]];
    const values = await output.getData();
    const all = output.dims.length === 4 ? largest(values, this.names.length, area) : values;
    const labels = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) labels.set(all.subarray(y * columns, y * columns + width), y * width);
    return labels;
  }
}

/** Return the position of the largest of each pixel's scores, which lie class by class. */
function largest(scores, classes, area) {
  const labels = new Uint8Array(area);
  const best = Float32Array.from(scores.subarray(0, area));
  for (let label = 1; label < classes; label++) {
    for (let i = 0; i < area; i++) {
      const score = scores[label * area + i];
      if (score > best[i]) [best[i], labels[i]] = [score, label];
    }
  }
  return labels;
}

async function hasGPU() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}
