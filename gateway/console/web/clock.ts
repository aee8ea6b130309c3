// Deadlines are on the clock of Redis, and are counted down on it.

import { setText } from './dom';
import { duration } from './format';

let ahead = Number.NaN; // of Redis's clock, to ours since the page was opened, in ms

/** Notes what Redis's clock said in an answer that has just come. */
export function sync(serverTime: number): void {
  const now = serverTime - performance.now();
  // An answer that took long is behind: the latest that any of them claims is the nearest.
  // One that is far off was set.
  if (Number.isNaN(ahead) || now > ahead || ahead - now > 2000) ahead = now;
}

/** Redis's clock now, in unix ms. */
export function serverNow(): number {
  return Number.isNaN(ahead) ? Date.now() : ahead + performance.now();
}

/** From here on a deadline is near, in ms. */
const near = 60_000;

function show(target: HTMLElement, deadline: number): void {
  const left = deadline - serverNow();
  setText(target, duration(left));
  target.classList.toggle('soon', left < near);
}

/** Makes an element count down to a deadline, or show a text instead. */
export function countDown(target: HTMLElement, deadline: number | undefined, otherwise = ''): void {
  if (deadline === undefined) {
    delete target.dataset['deadline'];
    target.classList.remove('soon');
    setText(target, otherwise);
    return;
  }
  target.dataset['deadline'] = String(deadline);
  show(target, deadline);
}

/** Lets everything that counts down do so for as long as the page is open. */
export function startClock(): void {
  setInterval(() => {
    for (const target of document.querySelectorAll<HTMLElement>('[data-deadline]')) {
      show(target, Number(target.dataset['deadline']));
    }
  }, 250);
}
