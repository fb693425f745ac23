// What an .onnx file of export.py tells of itself, read from the bytes: onnxruntime-web does not show it.

const METADATA_PROPS = 14; // of ModelProto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
const LENGTH_DELIMITED = 2;

/**
 * Read a file's metadata.
 *
 * @param {Uint8Array} bytes An .onnx file.
 * @returns {Object<string, string>} Its entries.
 * @throws {Error} If it is no such file.
 */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  const entries = {};
  for (const [number, content] of fields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const [key, value] = [...fields(content)].map(([, part]) => text.decode(part));
    entries[key] = value;
  }
  return entries;
}

/** Yield number and content of each length-delimited field of a protocol buffer's message; others are skipped. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new Error("the file is truncated or no .onnx file");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === LENGTH_DELIMITED) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("the file is truncated or no .onnx file");
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (kind === 0) {
      varint();
    } else if (kind === 1 || kind === 5) {
      at += kind === 1 ? 8 : 4;
    } else {
      throw new Error("the file is truncated or no .onnx file");
    }
  }
}
