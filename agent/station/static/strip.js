/**
 * A moving ECG strip on a true grid, swept like a bedside monitor: 25 mm/s, 10 mm/mV, an erase bar before the pen.
 *
 * Blocks arrive in bursts (a second's worth at once, or five). The strip plays them out evenly: it keeps a little less
 * than one block in hand and bends its speed by a few per cent to follow the sender's clock.
 */

const MM_PER_SECOND = 25;
const GAINS = [10, 5, 2.5]; // mm per mV; the smaller ones only where a beat would leave the strip, and then said so
const ZERO = 0.62; // of the height: R waves point up
const ERASE_MM = 5;
const INVALID = -32768;
const MV_PER_COUNT = 0.002;
const MEMORY = 20; // s
const TRACE = "#7cf5a9";

/** Split a binary message into records: {bed, epoch, rate, first, samples: Int16Array}. */
export function* records(buffer) {
  const view = new DataView(buffer);
  if (view.getUint32(0) !== 0x45434731) return; // "ECG1"
  let at = 8;
  for (let left = view.getUint32(4, true); left > 0; left--) {
    const count = view.getUint32(at + 8, true);
    yield {
      bed: view.getUint32(at, true),
      epoch: view.getUint32(at + 4, true),
      rate: view.getFloat32(at + 12, true),
      first: view.getFloat64(at + 16, true),
      samples: new Int16Array(buffer, at + 24, count),
    };
    at += 24 + 2 * count;
  }
}

export class Strip {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.epoch = -1;
    this.gain = GAINS[0];
    this.offset = 0;
    this.mm = 0;
    this.width = this.height = 0;
  }

  /** Take a record in. @param {number} now seconds */
  push({ epoch, rate, first, samples }, now) {
    if (epoch !== this.epoch || rate !== this.rate || first - this.end > MEMORY * rate) this.#reset(epoch, rate, first);
    const skip = Math.max(0, this.end - first);
    if (skip >= samples.length) return;
    for (; this.end < first; this.end++) this.ring[this.end % this.ring.length] = NaN;
    for (let i = skip; i < samples.length; i++, this.end++) {
      this.ring[this.end % this.ring.length] = samples[i] === INVALID ? NaN : samples[i] * MV_PER_COUNT;
    }
    this.#follow((samples.length - skip) / rate, now);
  }

  #reset(epoch, rate, first) {
    this.epoch = epoch;
    this.rate = rate;
    this.ring = new Float32Array(Math.ceil(MEMORY * rate)).fill(NaN);
    this.begin = this.end = first;
    this.play = null; // position of the pen; null until the first drawing
    this.drawn = first;
    this.interval = 1;
    this.arrival = null;
    this.live = 0; // estimate of the sender's present position at this.liveAt
    this.liveAt = 0;
    this.clean = false;
  }

  /** Learn from an arrival how the sender's clock runs and how far apart its blocks come. */
  #follow(seconds, now) {
    if (this.arrival === null) {
      [this.live, this.liveAt, this.arrival] = [this.end, now, now];
      return;
    }
    const wait = Math.min(8, Math.max(seconds < 8 ? seconds : 0, now - this.arrival));
    this.interval = wait > this.interval ? wait : 0.95 * this.interval + 0.05 * wait;
    const error = this.end - (this.live + (now - this.liveAt) * this.rate);
    this.live = Math.abs(error) > 1.5 * this.rate ? this.end : this.end - 0.85 * error;
    [this.liveAt, this.arrival] = [now, now];
  }

  /** Fit the canvas to its box. @param {number} mm CSS pixels per drawn millimetre */
  resize(mm) {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    const width = Math.round(box.width * ratio);
    const height = Math.round(box.height * ratio);
    if (width === this.width && height === this.height && mm * ratio === this.mm) return;
    [this.width, this.height, this.mm] = [width, height, mm * ratio];
    this.canvas.width = Math.max(1, width);
    this.canvas.height = Math.max(1, height);
    this.clean = false;
  }

  /** Draw what is due. @param {number} now seconds */
  draw(now) {
    if (!this.width || !this.height) return;
    if (this.epoch < 0 || this.end === this.begin) {
      if (!this.clean) this.#paper(0, this.width);
      this.clean = true;
      return;
    }
    this.#advance(now);
    const pen = Math.floor(this.play);
    const sweep = this.#sweep();
    if (!this.clean || pen - this.drawn > 0.9 * sweep || pen < this.drawn) {
      this.#fit(pen);
      this.#paper(0, this.width);
      this.drawn = Math.max(this.begin, this.end - this.ring.length, Math.ceil(pen - 0.97 * sweep));
      this.erased = pen;
      this.clean = true;
    }
    if (pen === this.drawn) return;
    if (Math.floor(pen / sweep) !== Math.floor(this.drawn / sweep)) this.#fit(pen);
    this.#erase(pen);
    this.#stroke(this.drawn, pen);
    this.drawn = pen;
  }

  /** Samples in one sweep over the strip. */
  #sweep() {
    return (this.width / (MM_PER_SECOND * this.mm)) * this.rate;
  }

  #x(position) {
    const sweep = this.#sweep();
    return ((position % sweep) / sweep) * this.width;
  }

  #advance(now) {
    const target = this.live + (now - this.liveAt) * this.rate - (1.1 * this.interval + 0.25) * this.rate;
    if (this.play === null || Math.abs(target - this.play) > 2.5 * this.rate) {
      this.play = Math.min(this.end, Math.max(this.begin, target));
    } else {
      const bend = Math.max(-0.2, Math.min(0.2, (0.5 * (target - this.play)) / this.rate));
      this.play = Math.min(this.end, this.play + Math.max(0, now - this.playedAt) * this.rate * (1 + bend));
    }
    this.playedAt = now;
  }

  /** Choose the zero line and the gain for the sweep that begins: both stay for the whole of it, so ST is never bent. */
  #fit(pen) {
    const span = 8 * this.rate;
    const values = [];
    for (let i = Math.max(this.begin, pen - span); i < this.end; i++) {
      const value = this.ring[i % this.ring.length];
      if (!Number.isNaN(value)) values.push(value);
    }
    if (values.length < 0.3 * this.rate) return;
    values.sort((a, b) => a - b);
    const at = (q) => values[Math.floor(q * (values.length - 1))];
    this.offset = at(0.5);
    const up = at(0.9995) - this.offset;
    const down = this.offset - at(0.0005);
    const fits = (gain, slack) =>
      up * gain * this.mm * slack < ZERO * this.height && down * gain * this.mm * slack < (1 - ZERO) * this.height;
    const gain = GAINS.find((g) => fits(g, g > this.gain ? 1.15 : 0.97)) ?? GAINS.at(-1);
    if (gain !== this.gain) {
      this.gain = gain;
      this.clean = false; // the other sweep's remains would have another scale
    }
  }

  /** Lay fresh paper before the pen, from where the last call ended. */
  #erase(pen) {
    const front = pen + (ERASE_MM / MM_PER_SECOND) * this.rate;
    const [a, b] = [this.#x(this.erased), this.#x(front)];
    if (front - this.erased >= this.#sweep()) this.#paper(0, this.width);
    else if (b >= a) this.#paper(a, b);
    else {
      this.#paper(a, this.width);
      this.#paper(0, b);
    }
    this.erased = front;
  }

  #stroke(from, to) {
    const c = this.context;
    const zero = this.#zero();
    const scale = this.gain * this.mm;
    let last = Infinity;
    let pen = false;
    c.beginPath();
    for (let i = Math.max(this.begin, from - 1); i < to; i++) {
      const value = this.ring[i % this.ring.length];
      const x = this.#x(i);
      if (Number.isNaN(value) || x < last - 1) pen = false;
      last = x;
      if (Number.isNaN(value)) continue;
      const y = Math.min(this.height - 1, Math.max(1, zero - (value - this.offset) * scale));
      if (pen) c.lineTo(x, y);
      else c.moveTo(x, y);
      pen = true;
    }
    c.strokeStyle = TRACE;
    c.lineWidth = Math.max(1.25, 0.38 * this.mm);
    c.lineJoin = "round";
    c.stroke();
  }

  #zero() {
    return Math.round(ZERO * this.height);
  }

  /** Lay fresh paper between two abscissae. The grid hangs on the zero line, so that heights can be counted off. */
  #paper(from, to) {
    const a = Math.max(0, Math.floor(from));
    const b = Math.min(this.width, Math.ceil(to));
    if (b <= a) return;
    if (!this.grid || this.grid.width !== this.width || this.grid.height !== this.height || this.gridMm !== this.mm) {
      this.#rule();
    }
    this.context.drawImage(this.grid, a, 0, b - a, this.height, a, 0, b - a, this.height);
  }

  #rule() {
    this.grid = document.createElement("canvas");
    this.grid.width = this.width;
    this.grid.height = this.height;
    this.gridMm = this.mm;
    const c = this.grid.getContext("2d", { alpha: false });
    c.fillStyle = "#0a1014";
    c.fillRect(0, 0, this.width, this.height);
    for (const [every, colour] of [[1, "#122127"], [5, "#21404a"]]) {
      if (every * this.mm < 2.5) continue; // closer lines would be a grey haze
      c.fillStyle = colour;
      for (let k = 0; k * this.mm < this.width; k += every) c.fillRect(Math.round(k * this.mm), 0, 1, this.height);
      const zero = this.#zero();
      const first = -Math.floor(zero / this.mm / every) * every;
      for (let k = first; zero + k * this.mm < this.height; k += every) {
        c.fillRect(0, Math.round(zero + k * this.mm), this.width, 1);
      }
    }
  }
}
