// What the tests of the console and of the playground share.

import type { Browser, Page } from 'playwright-core';
import { expect } from 'vitest';
import { apiKey, type Gateway, until } from './world.js';

/** A Visit is a page that is looked at, with everything that went wrong in it. */
export class Visit {
  readonly problems: string[] = [];

  private constructor(readonly page: Page) {}

  /** to opens a page in a browser profile of its own. */
  static async to(browser: Browser, url: string, options: Parameters<Browser['newContext']>[0] = {}): Promise<Visit> {
    const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })).newPage();
    const visit = new Visit(page);
    page.on('pageerror', (err) => visit.problems.push(`${err.name}: ${err.message}`));
    page.on('console', (message) => {
      // What a server refuses, or a link that is cut, the browser reports by itself.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource') && !message.text().startsWith('WebSocket connection')) {
        visit.problems.push(message.text());
      }
    });
    await page.goto(url);
    return visit;
  }

  /** close ends the visit, in which nothing may have gone wrong: no error, nothing the policy forbids. */
  async close(): Promise<void> {
    await this.page.context().close();
    expect(this.problems).toEqual([]);
  }
}

/** A Member is a client in a room, without an SDK: what it hears is kept as it came. */
export class Member {
  private constructor(readonly page: Page) {}

  static async enter(browser: Browser, gateway: Gateway, userID: string, roomID: string, delay: number): Promise<Member> {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`${gateway.http}/healthz`); // any page of its origin will do
    await page.evaluate(
      ([url, userID, roomID, delay]) => {
        const w = window as any;
        w.heard = [];
        w.socket = new WebSocket(url);
        w.calls = 0;
        w.call = (method: string, params: object) => {
          const id = ++w.calls;
          w.socket.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }));
          return id;
        };
        w.socket.onmessage = (event: MessageEvent<string>) => w.heard.push(JSON.parse(event.data));
        w.socket.onopen = () => {
          w.call('login', { userID, userName: `The one called ${userID}` });
          w.call('enterRoom', { roomInfo: { roomID, roomName: `Room ${roomID}` }, config: { roomDestroyDelayTime: delay } });
        };
      },
      [`${gateway.url}/v1/ws`, userID, roomID, delay] as const,
    );
    const member = new Member(page);
    await member.hears('roomStateChanged', { roomID, state: 'connected' });
    return member;
  }

  /** call waits for the answer, which is a success: what is called next comes after it. */
  async call(method: string, params: object): Promise<void> {
    const id = await this.page.evaluate(([method, params]) => (window as any).call(method, params), [method, params] as const);
    let answer: any;
    await until(`the answer to ${method}`, async () => {
      answer = await this.page.evaluate((id) => (window as any).heard.find((e: any) => e.id === id), id);
      return answer;
    });
    expect(answer).not.toHaveProperty('error');
  }

  /** hears waits for an event with these params, and gives all of them. */
  async hears(method: string, params: object): Promise<any> {
    let found: any;
    await until(`${method} ${JSON.stringify(params)}`, async () => {
      const heard: any[] = await this.page.evaluate(() => (window as any).heard);
      found = heard.find((e) => e.method === method && Object.entries(params).every(([key, value]) => e.params[key] === value));
      return found;
    });
    return found.params;
  }

  /** goes loses its link, without a goodbye. */
  async goes(): Promise<void> {
    await this.page.context().close();
  }
}

/** createRooms has so many rooms made by a backend; name gives the ID of the nth. */
export async function createRooms(gateway: Gateway, many: number, name: (n: number) => string): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < many) {
      const n = next++;
      expect(await gateway.backend('POST', '/v1/rooms', { roomID: name(n), roomName: `Room number ${n}`, roomDestroyDelayTime: 3600 })).toBe(201);
    }
  };
  await Promise.all(Array.from({ length: 16 }, worker));
}

/** The key that gateways take which check tokens. */
export const tokensKey = `${apiKey}-of-the-tests`;

/**
 * contrasts gives what can be read on the page and has too little contrast with what is behind
 * it: less than 4.5, or 3 if it is large (WCAG 2.2, 1.4.3).
 */
export function contrasts(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })!;
    const rgba = (color: string): [number, number, number, number] => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r!, g!, b!, a! / 255];
    };
    const over = (top: number[], under: number[]) => [0, 1, 2].map((i) => top[i]! * top[3]! + under[i]! * (1 - top[3]!));
    const ground = (element: Element | null): number[] => {
      if (!element) {
        return matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0] : [255, 255, 255];
      }
      const color = rgba(getComputedStyle(element).backgroundColor);
      return color[3] === 1 ? color : over(color, ground(element.parentElement));
    };
    const luminance = (c: number[]) => {
      const [r, g, b] = c.slice(0, 3).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
    };
    const poor: string[] = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement!;
      const text = node.textContent!.trim();
      if (!text || !element.checkVisibility({ visibilityProperty: true }) || element.closest('.unseen, noscript, :disabled')) {
        continue;
      }
      const style = getComputedStyle(element);
      const behind = ground(element);
      const [light, dark] = [luminance(over(rgba(style.color), behind)), luminance(behind)].sort((a, b) => b - a);
      const ratio = (light! + 0.05) / (dark! + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) {
        poor.push(`${JSON.stringify(text.slice(0, 40))} has ${ratio.toFixed(2)}: ${style.color} on ${behind.map(Math.round)}`);
      }
    }
    return [...new Set(poor)];
  });
}

/**
 * nameless gives what can be operated or is a picture, and has no name for those who do not see
 * it: by Chromium's own accessibility tree, which is what a screen reader is given.
 */
export async function nameless(page: Page): Promise<string[]> {
  const session = await page.context().newCDPSession(page);
  const { nodes } = (await session.send('Accessibility.getFullAXTree')) as {
    nodes: { ignored: boolean; role?: { value: string }; name?: { value: string }; properties?: { name: string; value: { value: unknown } }[] }[];
  };
  const wanted = ['button', 'link', 'textbox', 'searchbox', 'combobox', 'checkbox', 'switch', 'image', 'img', 'dialog', 'log', 'table', 'region', 'navigation', 'form'];
  const roles = new Set(nodes.map((n) => n.role?.value));
  expect([...roles]).toEqual(expect.arrayContaining(['heading', 'main', 'navigation', 'button', 'combobox'])); // it is the page
  return nodes
    .filter((n) => !n.ignored && (wanted.includes(n.role?.value ?? '') || n.properties?.some((p) => p.name === 'focusable' && p.value.value === true)))
    .filter((n) => n.role?.value !== 'RootWebArea' && n.role?.value !== 'table' && !n.name?.value.trim())
    .map((n) => JSON.stringify(n));
}

/** tabTo presses Tab until something has the focus, which has to show. It may not take forever. */
export async function tabTo(page: Page, what: string, reached: (name: string, role: string) => boolean): Promise<void> {
  for (let i = 0; i < 120; i++) {
    await page.keyboard.press('Tab');
    const at = await page.evaluate(() => {
      const element = document.activeElement as HTMLElement;
      const style = getComputedStyle(element);
      const label = (element as HTMLInputElement).labels?.[0]?.textContent;
      return {
        name: element.getAttribute('aria-label') ?? label ?? element.textContent ?? '',
        role: element.getAttribute('role') ?? element.tagName.toLowerCase(),
        shown: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
      };
    });
    if (at.role === 'body') {
      continue; // round once more
    }
    expect(at.shown, `the focus on ${at.role} ${at.name} shows`).toBe(true);
    if (reached(at.name.trim(), at.role)) {
      return;
    }
  }
  throw new Error(`${what} was not reached by the keyboard`);
}
