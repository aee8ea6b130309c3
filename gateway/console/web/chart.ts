// A small chart of how a number has gone.

import { svg } from './dom';

const width = 120;
const height = 32;

/** How many values a chart holds. */
export const span = 60;

/** A line over the newest {@link span} values; what it says is in its label, too. */
export class Chart {
  readonly element: SVGElement;
  readonly #base = svg('path', { class: 'base', d: `M0,${height - .5}H${width}`, 'vector-effect': 'non-scaling-stroke' });
  readonly #area = svg('path', { class: 'area' });
  readonly #line = svg('path', { class: 'line', 'vector-effect': 'non-scaling-stroke' });
  #values: number[] = [];

  /** name says what the number is; format how one is written. */
  constructor(readonly name: string, readonly format: (n: number) => string) {
    this.element = svg('svg', {
      class: 'chart', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': name,
    }, this.#base, this.#area, this.#line);
  }

  add(value: number): void {
    this.#values.push(value);
    if (this.#values.length > span) this.#values.shift();
    const values = this.#values;
    const highest = Math.max(...values);
    const scale = (height - 3) / Math.max(1, highest);
    const step = width / (span - 1);
    const first = width - (values.length - 1) * step;
    const points = values.map((v, i) => `${(first + i * step).toFixed(1)},${(height - 1 - v * scale).toFixed(1)}`);
    this.#line.setAttribute('d', `M${points.join('L')}`);
    this.#area.setAttribute('d', `M${first.toFixed(1)},${height}L${points.join('L')}L${width},${height}Z`);
    this.element.setAttribute('aria-label', `${this.name}: now ${this.format(value)}, highest ${this.format(highest)}`);
  }
}
