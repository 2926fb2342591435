// A rival for `fovea bench`: ONNX Runtime, from the npm package onnxruntime-node. Runs the ONNX file
// of the bench model, and for attention a model of one node, com.microsoft.MultiHeadAttention, which
// is its fused kernel. Driven by the same lines on standard input as rival_torch.cpp:
//   setup infer KEY=VALUE...      threads=N tensors=FILE model=FILE.onnx, dtype=f32
//   setup attention KEY=VALUE...  threads=N tensors=FILE heads=N, dtype=f32
//   output FILE, run N, memory, quit
'use strict';

const fs = require('fs');
const readline = require('readline');
const ort = require('onnxruntime-node');

// A file in the safetensors format: eight bytes of header length, a JSON header, the data.
function readTensors(path) {
  const bytes = fs.readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  const kinds = {F32: ['float32', Float32Array], U8: ['uint8', Uint8Array],
                 I32: ['int32', Int32Array]};
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const [type, Kind] = kinds[entry.dtype];
    const [begin, end] = entry.data_offsets;
    // A copy begins at any address; the element types want their own.
    const data = Uint8Array.prototype.slice.call(bytes, 8 + length + begin, 8 + length + end);
    tensors[name] = new ort.Tensor(type, new Kind(data.buffer), entry.shape);
  }
  return tensors;
}

// The wire format of protocol buffers, as far as a small ONNX model needs it: fields of numbers
// (given as a number) and of bytes (a string, or the fields of a message).
function varint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 + 128);
  bytes.push(value);
  return Buffer.from(bytes);
}
function field(number, value) {
  if (typeof value === 'number') return Buffer.concat([varint(number * 8), varint(value)]);
  const bytes = Buffer.from(value);
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}
function message(...fields) {
  return Buffer.concat(fields);
}

// The numbers are those of the fields in onnx.proto3.
function attentionModel(shapes, heads) {
  const kFloat = 1, kIntAttribute = 2;
  const value = (name, shape) => {
    const dims = shape.map((size) => field(1, message(field(1, size))));
    const tensor = message(field(1, kFloat), field(2, message(...dims)));
    return message(field(1, name), field(2, message(field(1, tensor))));
  };
  const numHeads = message(field(1, 'num_heads'), field(3, heads), field(20, kIntAttribute));
  const node = message(field(1, 'q'), field(1, 'k'), field(1, 'v'), field(2, 'out'),
                       field(4, 'MultiHeadAttention'), field(5, numHeads),
                       field(7, 'com.microsoft'));
  const graph = message(field(1, node), field(2, 'attention'), field(11, value('q', shapes.q)),
                        field(11, value('k', shapes.k)), field(11, value('v', shapes.v)),
                        field(12, value('out', shapes.q)));
  const opset = (domain, version) => field(8, message(field(1, domain), field(2, version)));
  return message(field(1, 8), field(7, graph), opset('', 17), opset('com.microsoft', 1));
}

function statusBytes(key) {
  const line = fs.readFileSync('/proc/self/status', 'utf8').split('\n').find(
      (text) => text.startsWith(key + ':'));
  return line ? parseInt(line.slice(key.length + 1), 10) * 1024 : 0;
}

async function setup(words) {
  const kind = words[0];
  const options = Object.fromEntries(words.slice(1).map((word) => word.split(/=(.*)/s, 2)));
  if (options.dtype !== 'f32') throw new Error('only f32 is measured here');
  const tensors = readTensors(options.tensors);
  const sessionOptions = {intraOpNumThreads: Number(options.threads), interOpNumThreads: 1,
                          executionMode: 'sequential', graphOptimizationLevel: 'all'};
  let model, feeds, output;
  if (kind === 'infer') {
    model = fs.readFileSync(options.model);
    feeds = {image: tensors.image};
    output = 'logits';
  } else if (kind === 'attention') {
    const {q, k, v} = tensors;
    model = attentionModel({q: q.dims, k: k.dims, v: v.dims}, Number(options.heads));
    feeds = {q, k, v};
    output = 'out';
  } else {
    throw new Error(`unknown problem ${kind}`);
  }
  const session = await ort.InferenceSession.create(new Uint8Array(model), sessionOptions);
  const resident = statusBytes('VmRSS');
  return {run: () => session.run(feeds, [output]), output, resident,
          kernel: kind === 'attention' ? 'MultiHeadAttention' : 'onnx'};
}

let problem = null;

async function answer(line) {
  const [command, ...words] = line.trim().split(/\s+/);
  if (command === 'setup') {
    problem = await setup(words);
    return `ok version=${require('onnxruntime-node/package.json').version} kernel=${problem.kernel}`;
  }
  if (problem === null) throw new Error('no problem is set up');
  if (command === 'output') {
    const data = (await problem.run())[problem.output].data;
    fs.writeFileSync(words[0], Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    return 'ok';
  }
  if (command === 'run') {
    const times = [];
    for (let i = 0; i < Number(words[0]); ++i) {
      const start = process.hrtime.bigint();
      await problem.run();
      times.push(Number(process.hrtime.bigint() - start) / 1e6);
    }
    return ['times', ...times].join(' ');
  }
  if (command === 'memory')
    return `ok resident=${problem.resident} peak=${statusBytes('VmHWM')}`;
  throw new Error(`unknown command ${command}`);
}

async function main() {
  for await (const line of readline.createInterface({input: process.stdin})) {
    if (line === 'quit') break;
    let reply;
    try {
      reply = await answer(line);
    } catch (error) {
      reply = 'error ' + String(error.message).split('\n')[0];
    }
    process.stdout.write(reply + '\n');
  }
  process.exit(0);
}

main();
