// A tab with the SDK in it, and what its listeners were told.

import type { Browser, Page } from 'playwright-core';
import { until } from './world.js';

export type Report = [step: string, data: any];

export class Tab {
  readonly reports: Report[] = [];
  userID = '';

  private constructor(readonly page: Page) {}

  /** open opens a page of World.pages, in a profile of its own, until close. */
  static async open(browser: Browser, site: string): Promise<Tab> {
    const page = await (await browser.newContext()).newPage();
    const tab = new Tab(page);
    await page.exposeFunction('report', (step: string, data: unknown) => {
      tab.reports.push([step, data]);
    });
    await page.goto(site);
    await page.waitForFunction(() => 'ZIM' in window);
    return tab;
  }

  /** login makes the SDK of the tab, logs in, and reports every event in short. */
  async login(userID: string, config: object, token = ''): Promise<void> {
    this.userID = userID;
    await this.page.evaluate(
      async ([userID, config, token]) => {
        const w = window as any;
        const zim = (w.zim = w.ZIM.create({ appID: 1, ...config }));
        const users = (d: any) => d.memberList.map((m: any) => m.userID);
        const on = (type: string, short: (d: any) => unknown) => zim.on(type, (_: unknown, d: any) => w.report(type, short(d)));
        on('connectionStateChanged', (d) => [d.state, d.event]);
        on('roomStateChanged', (d) => [d.roomID, d.state, d.event]);
        on('roomMemberJoined', users);
        on('roomMemberLeft', users);
        on('roomMessageReceived', (d) => d.messageList.map((m: any) => m.message));
        on('roomAttributesUpdated', (d) => d.infos);
        on('roomHistoryLost', (d) => d.roomID);
        on('tokenWillExpire', (d) => d.second > 0);
        on('error', (d) => d);
        await zim.login(userID, { userName: userID, token });
      },
      [userID, config, token] as const,
    );
  }

  /** call calls a method of the SDK, and gives what it comes to, or {code}. */
  call(method: string, ...args: unknown[]): Promise<any> {
    return this.page.evaluate(
      async ([method, args]) => {
        try {
          return await (window as any).zim[method](...args);
        } catch (err: any) {
          return { code: err.code, message: err.message };
        }
      },
      [method, args] as const,
    );
  }

  say(roomID: string, message: string): Promise<any> {
    return this.call('sendRoomMessage', { type: 1, message }, roomID);
  }

  close(): Promise<void> {
    return this.page.context().close();
  }

  /** told gives the reports of a step. */
  told(step: string): any[] {
    return this.reports.filter(([s]) => s === step).map(([, data]) => data);
  }

  /** reported waits for a report, and gives it. Without data any of that step will do. */
  async reported(step: string, data?: unknown): Promise<any> {
    const want = JSON.stringify(data);
    const is = ([s, d]: Report) => s === step && (data === undefined || JSON.stringify(d) === want);
    await until(() => `the report ${step} ${want ?? ''}; there are ${JSON.stringify(this.reports)}`, () => this.reports.some(is));
    return this.reports.find(is)?.[1];
  }
}
