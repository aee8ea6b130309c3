// The answer to a query is as of a position, and events after that may have been told before
// it comes. An application that puts the answer in the place of what it knows would take them back.

import { change } from './picture.js';
import type { ZIMRoomAttributesUpdateInfo, ZIMUserInfo } from './types.js';
import { attributes, type Fields, Malformed, users, whole } from './wire.js';

/** maxTold is how many events are kept for answers that are on their way; the oldest are let go. */
const maxTold = 1_000;

/** What an event, or several, has told up to a position. */
export interface Told {
  epoch: number;
  seq: number; // 0 if it has none
  left?: ZIMUserInfo[] | undefined; // before those who came
  joined?: ZIMUserInfo[] | undefined;
  count?: number | undefined; // of the members
  infos?: ZIMRoomAttributesUpdateInfo[] | undefined;
}

/** Meanwhile is what was told of one room while there were queries about it, to bring their answers up to it. */
export class Meanwhile {
  private asked = 0;
  private told: Told[] = [];

  begin(): void {
    this.asked++;
  }

  end(): void {
    if (--this.asked === 0) {
      this.told = [];
    }
  }

  note(told: Told): void {
    if (this.asked > 0 && told.seq > 0) {
      this.told.push(structuredClone(told)); // listeners have the same
      if (this.told.length > maxTold) {
        this.told.shift();
      }
    }
  }

  /** bringUp changes the result of a query. One that is malformed it leaves to who reads it. */
  bringUp(method: string, result: Fields): void {
    try {
      this.change(method, result);
    } catch (err) {
      if (!(err instanceof Malformed)) {
        throw err;
      }
    }
  }

  private change(method: string, result: Fields): void {
    const epoch = whole(result, 'epoch');
    const seq = whole(result, 'seq');
    const later = this.told.filter((t) => t.epoch === epoch && t.seq > seq);
    if (later.length === 0) {
      return;
    }
    switch (method) {
      case 'queryRoomMemberList':
        result['memberList'] = moveOn(users(result, 'memberList'), later, result['nextFlag'] === '');
        break;
      case 'queryRoomOnlineMemberCount':
        result['count'] = later.findLast((t) => t.count !== undefined)?.count ?? result['count'];
        break;
      case 'queryRoomAllAttributes': {
        const now = new Map(Object.entries(attributes(result, 'roomAttributes')));
        later.forEach((t) => change(now, t.infos ?? []));
        result['roomAttributes'] = Object.fromEntries(now);
        break;
      }
      default:
        return;
    }
    result['seq'] = later.at(-1)?.seq;
  }
}

/** moveOn takes those out of a page who have left, and adds those who came to the last one. */
function moveOn(page: ZIMUserInfo[], told: Told[], isLast: boolean): ZIMUserInfo[] {
  const there = new Map(page.map((u) => [u.userID, u]));
  for (const { left = [], joined = [] } of told) {
    for (const u of [...left, ...joined]) {
      there.delete(u.userID);
    }
    for (const u of isLast ? joined : []) {
      there.set(u.userID, u);
    }
  }
  return [...there.values()];
}
