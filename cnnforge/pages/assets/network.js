// Compute a network: operations in the form of `cnnforge/explaining/network.py`. Values are float32
// arrays in the order (row, column, channel). Sums are computed in float64.

const ACTIVATIONS = {
  linear: (x) => x,
  relu: (x) => Math.max(x, 0),
  relu6: (x) => Math.min(Math.max(x, 0), 6),
  leaky_relu: (x, slope) => (x >= 0 ? x : slope * x),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  tanh: Math.tanh,
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  hard_sigmoid: (x) => Math.min(Math.max(x / 6 + 0.5, 0), 1),
  hard_silu: (x) => x * Math.min(Math.max(x / 6 + 0.5, 0), 1),
  softplus: (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
};
ACTIVATIONS.swish = ACTIVATIONS.silu;
ACTIVATIONS.hard_swish = ACTIVATIONS.hard_silu;

// The error function: its series, or the continued fraction of 1 - erf for large values.
function erf(x) {
  const size = Math.abs(x);
  let value;
  if (size < 2.5) {
    let term = size, sum = size;
    for (let n = 1; n < 60; n++) {
      term *= -size * size / n;
      sum += term / (2 * n + 1);
    }
    value = 2 / Math.sqrt(Math.PI) * sum;
  } else {
    let rest = 0;
    for (let n = 60; n > 0; n--) rest = n / 2 / (size + rest);
    value = 1 - Math.exp(-size * size) / Math.sqrt(Math.PI) / (size + rest);
  }
  return x < 0 ? -value : value;
}

function softmax(values, width) {
  const made = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += width) {
    let high = -Infinity, sum = 0;
    for (let i = 0; i < width; i++) high = Math.max(high, values[start + i]);
    for (let i = 0; i < width; i++) sum += Math.exp(values[start + i] - high);
    for (let i = 0; i < width; i++) made[start + i] = Math.exp(values[start + i] - high) / sum;
  }
  return made;
}

function conv(x, [height, width, channels], { shape: [rows, columns, filters], settings, weights }) {
  const { size: [tall, wide], strides, dilation, before, groups } = settings;
  const kernel = weights.kernel.data, bias = weights.bias.data;
  const own = channels / groups, each = filters / groups;
  const made = new Float32Array(rows * columns * filters), sums = new Float64Array(filters);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
    sums.set(bias);
    for (let u = 0; u < tall; u++) {
      const y = i * strides[0] - before[0] + u * dilation[0];
      if (y < 0 || y >= height) continue;
      for (let v = 0; v < wide; v++) {
        const z = j * strides[1] - before[1] + v * dilation[1];
        if (z < 0 || z >= width) continue;
        const from = (y * width + z) * channels, tap = (u * wide + v) * own * filters;
        for (let c = 0; c < own; c++) {
          const at = tap + c * filters;
          if (groups === 1) {
            const value = x[from + c];
            if (value !== 0) for (let f = 0; f < filters; f++) sums[f] += value * kernel[at + f];
          } else {
            for (let f = 0; f < filters; f++) {
              sums[f] += x[from + Math.floor(f / each) * own + c] * kernel[at + f];
            }
          }
        }
      }
    }
    made.set(sums, (i * columns + j) * filters);
  }
  return made;
}

function pool(x, [height, width, channels], { kind, shape: [rows, columns], settings }) {
  const { size: [tall, wide], strides, before } = settings, max = kind === "max_pool";
  const made = new Float32Array(rows * columns * channels);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) for (let c = 0; c < channels; c++) {
    let value = max ? -Infinity : 0, count = 0;
    for (let u = 0; u < tall; u++) for (let v = 0; v < wide; v++) {
      const y = i * strides[0] - before[0] + u, z = j * strides[1] - before[1] + v;
      if (y < 0 || y >= height || z < 0 || z >= width) continue;
      const one = x[(y * width + z) * channels + c];
      value = max ? Math.max(value, one) : value + one;
      count++;
    }
    made[(i * columns + j) * channels + c] = max ? value : value / count;
  }
  return made;
}

function global(x, [height, width, channels], max) {
  const sums = new Float64Array(channels).fill(max ? -Infinity : 0), count = height * width;
  for (let i = 0; i < count; i++) for (let c = 0; c < channels; c++) {
    const value = x[i * channels + c];
    sums[c] = max ? Math.max(sums[c], value) : sums[c] + value;
  }
  return Float32Array.from(sums, (sum) => (max ? sum : sum / count));
}

function dense(x, { shape, weights }) {
  const [count] = shape.slice(-1), kernel = weights.kernel.data, sums = Float64Array.from(weights.bias.data);
  for (let i = 0; i < x.length; i++) {
    if (x[i] !== 0) for (let f = 0; f < count; f++) sums[f] += x[i] * kernel[i * count + f];
  }
  return Float32Array.from(sums);
}

function affine(x, { shape, weights }) {
  const channels = shape[shape.length - 1], { scale: { data: scale }, offset: { data: offset } } = weights;
  return x.map((value, i) => value * scale[i % channels] + offset[i % channels]);
}

function zeroPadding(x, [height, width, channels], { shape: [rows, columns, all], settings: { before } }) {
  const made = new Float32Array(rows * columns * all);
  for (let i = 0; i < height; i++) for (let j = 0; j < width; j++) {
    const from = (i * width + j) * channels, to = ((i + before[0]) * columns + j + before[1]) * all + before[2];
    made.set(x.subarray(from, from + channels), to);
  }
  return made;
}

function cropping(x, [, columns, channels], { shape: [rows, wide], settings: { before } }) {
  const made = new Float32Array(rows * wide * channels);
  for (let i = 0; i < rows; i++) {
    const from = ((i + before[0]) * columns + before[1]) * channels;
    made.set(x.subarray(from, from + wide * channels), i * wide * channels);
  }
  return made;
}

// Each value several times, below and next to each other.
function upsampling(x, [, width, channels], { shape: [rows, columns], settings: { size } }) {
  const made = new Float32Array(rows * columns * channels);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) {
    const from = (Math.floor(i / size[0]) * width + Math.floor(j / size[1])) * channels;
    made.set(x.subarray(from, from + channels), (i * columns + j) * channels);
  }
  return made;
}

function concatenate(parts, shapes) {
  const widths = shapes.map((shape) => shape[shape.length - 1]), all = widths.reduce((a, b) => a + b);
  const count = parts[0].length / widths[0], made = new Float32Array(count * all);
  let start = 0;
  parts.forEach((part, k) => {
    for (let i = 0; i < count; i++) made.set(part.subarray(i * widths[k], (i + 1) * widths[k]), i * all + start);
    start += widths[k];
  });
  return made;
}

const COMBINE = { add: (a, b) => a + b, subtract: (a, b) => a - b, multiply: (a, b) => a * b };

// Combine values of one shape, or maps and one value per channel.
function combine(parts, function_) {
  const longest = Math.max(...parts.map((part) => part.length)), made = new Float32Array(longest);
  for (let i = 0; i < longest; i++) {
    let value = parts[0][i % parts[0].length];
    for (let k = 1; k < parts.length; k++) value = function_(value, parts[k][i % parts[k].length]);
    made[i] = value;
  }
  return made;
}

function computed(operation, operations, values) {
  const parts = operation.inputs.map((at) => values[at]), shapes = operation.inputs.map((at) => operations[at].shape);
  const [x] = parts, [shape] = shapes, { kind, settings } = operation;
  if (kind === "conv") return conv(x, shape, operation);
  if (kind === "max_pool" || kind === "average_pool") return pool(x, shape, operation);
  if (kind === "global_average" || kind === "global_max") return global(x, shape, kind === "global_max");
  if (kind === "dense") return dense(x, operation);
  if (kind === "affine") return affine(x, operation);
  if (kind === "flatten") return x;
  if (kind === "zero_padding") return zeroPadding(x, shape, operation);
  if (kind === "cropping") return cropping(x, shape, operation);
  if (kind === "upsampling") return upsampling(x, shape, operation);
  if (kind === "concatenate") return concatenate(parts, shapes);
  if (kind in COMBINE) return combine(parts, COMBINE[kind]);
  if (settings.function === "softmax") return softmax(x, shape[shape.length - 1]);
  const activation = ACTIVATIONS[settings.function];
  return x.map((value) => activation(value, settings.slope));
}

// The values of the first `count` operations for a picture, pixel values 0..255.
function forward(operations, pixels, count = operations.length) {
  const values = [Float32Array.from(pixels)];
  for (let at = 1; at < count; at++) values.push(computed(operations[at], operations, values));
  return values;
}

// Unpack the weights of operations, in place.
function unpackNetwork(operations) {
  for (const { weights } of operations) for (const name in weights) weights[name] = unpack(weights[name]);
  return operations;
}
