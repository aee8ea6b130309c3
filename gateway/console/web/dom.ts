// Making and updating elements.

type Value = string | number | boolean | ((event: Event) => void) | undefined;

/**
 * Makes an element. A function is a listener of the event behind "on", true an attribute
 * without a value; false and undefined are none. Children that are strings become text, so
 * nothing that a room or a user is called can become markup.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, attributes: Record<string, Value> = {}, ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false && value !== undefined) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** Makes an element of SVG. */
export function svg(tag: string, attributes: Record<string, string | number> = {}, ...children: Node[]): SVGElement {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** The element of the page with this ID, which must be there. */
export function byID<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

/** Sets a text, and touches nothing if it is that already: a reader's place stays. */
export function setText(target: Node, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

/** Shows a problem, or hides the last one. */
export function setProblem(target: HTMLElement, text: string): void {
  setText(target, text);
  target.hidden = text === '';
}

/** What a row of a {@link List} is: its element, and how it shows another state. */
export interface Row<T> {
  element: HTMLElement;
  update(item: T): void;
}

/**
 * The children of an element, one for each item, in their order. An item that stays keeps its
 * element, and so the focus that may be in it.
 */
export class List<T> {
  #rows = new Map<string, Row<T>>();

  constructor(readonly parent: HTMLElement, readonly key: (item: T) => string, readonly make: (item: T) => Row<T>) {}

  show(items: readonly T[]): void {
    const before = this.#rows;
    this.#rows = new Map();
    let place: Element | null = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      const row = before.get(key) ?? this.make(item);
      before.delete(key);
      this.#rows.set(key, row);
      row.update(item);
      if (row.element === place) place = place.nextElementSibling;
      else this.parent.insertBefore(row.element, place);
    }
    for (const row of before.values()) row.element.remove();
  }
}
