// Pages of a list that can be asked for only one after the other: each answer has the flag of
// the next page, and "" if there is none.

/** Two buttons, and where they have led to. */
export class Pager {
  #flags = [''];
  #next = '';

  constructor(
    readonly previous: HTMLButtonElement, readonly following: HTMLButtonElement,
    signal: AbortSignal, readonly changed: () => void,
  ) {
    previous.addEventListener('click', () => {
      if (this.#flags.length > 1) this.#go(this.#flags.slice(0, -1));
    }, { signal });
    following.addEventListener('click', () => {
      if (this.#next) this.#go([...this.#flags, this.#next]);
    }, { signal });
    this.#enable();
  }

  /** The flag of the page that is shown. */
  get flag(): string {
    return this.#flags.at(-1) ?? '';
  }

  /** Its number, from 1. */
  get number(): number {
    return this.#flags.length;
  }

  /** Takes what the answer for the page that is shown had as the next one's flag. */
  got(nextFlag: string): void {
    this.#next = nextFlag;
    this.#enable();
  }

  /** How many pages there are at least, if the list has so many items. */
  pages(items: number, size: number): number {
    return Math.max(this.number + (this.#next ? 1 : 0), Math.ceil(items / size));
  }

  /** Goes back to the first page. */
  first(): void {
    this.#go(['']);
  }

  #go(flags: string[]): void {
    this.#flags = flags;
    this.#next = '';
    this.changed();
  }

  // A button that is off keeps the focus that it may have, and says that it is off.
  #enable(): void {
    this.previous.ariaDisabled = String(this.#flags.length < 2);
    this.following.ariaDisabled = String(this.#next === '');
  }
}
