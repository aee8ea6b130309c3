// What the application has been told of the room's attributes and members, so that it can
// be told the difference when events were missed for good.

import { ZIMRoomAttributesUpdateAction } from './enums.js';
import type { ZIMRoomAttributesUpdateInfo, ZIMUserInfo } from './types.js';

/**
 * maxKnown is how many members are kept. Rooms above it are sampled: their members are not
 * to be known anyway.
 */
export const maxKnown = 1_000;

/** change changes attributes as an event says. */
export function change(known: Map<string, string>, infos: ZIMRoomAttributesUpdateInfo[]): void {
  for (const { action, roomAttributes } of infos) {
    for (const [key, value] of Object.entries(roomAttributes)) {
      if (action === ZIMRoomAttributesUpdateAction.Set) {
        known.set(key, value);
      } else {
        known.delete(key);
      }
    }
  }
}

/** Attributes are those of a room, as the application has been told. */
export class AttributesKnown {
  private known = new Map<string, string>();

  apply(infos: ZIMRoomAttributesUpdateInfo[]): void {
    change(this.known, infos);
  }

  /** become takes what the attributes are now, and gives what has changed: what was set first. */
  become(now: Record<string, string>): ZIMRoomAttributesUpdateInfo[] {
    const set = Object.entries(now).filter(([key, value]) => this.known.get(key) !== value);
    const gone = [...this.known.keys()].filter((key) => !Object.hasOwn(now, key));
    this.known = new Map(Object.entries(now));
    const infos: ZIMRoomAttributesUpdateInfo[] = [];
    if (set.length > 0) {
      infos.push({ action: ZIMRoomAttributesUpdateAction.Set, roomAttributes: Object.fromEntries(set) });
    }
    if (gone.length > 0) {
      const roomAttributes = Object.fromEntries(gone.map((key) => [key, '']));
      infos.push({ action: ZIMRoomAttributesUpdateAction.Delete, roomAttributes });
    }
    return infos;
  }
}

/**
 * MembersKnown are the others in a room, as the application has been told by events and
 * by its own queries. Members are a set: who is told twice is there once.
 *
 * A walk reads the member list anew. While one is under way, events say only what changes
 * for the application, and are noted in what the walk has found, too: its pages are of
 * different positions.
 */
export class MembersKnown {
  private known: Map<string, ZIMUserInfo> | undefined = new Map(); // undefined: too many
  private found: Map<string, ZIMUserInfo> | undefined;

  constructor(private readonly self: string) {}

  /** seen notes what the application has been told by a query. */
  seen(users: ZIMUserInfo[]): void {
    this.add(users);
  }

  /** seenAll notes that the application is told of all there are, and gives those of whom it does not know that they went. */
  seenAll(users: ZIMUserInfo[]): ZIMUserInfo[] {
    const there = new Set(users.map((u) => u.userID));
    const gone = [...(this.known?.values() ?? [])].filter((u) => !there.has(u.userID));
    this.left(gone);
    this.add(users);
    return gone;
  }

  /** forget is for rooms in which entries and departures are sampled. */
  forget(): void {
    this.known = undefined;
    this.found = undefined;
  }

  /** joined notes who came, and gives those that the application has to be told of. */
  joined(users: ZIMUserInfo[]): ZIMUserInfo[] {
    const told = this.found ? users.filter((u) => !this.known?.has(u.userID)) : users;
    this.found = this.note(this.found, users);
    this.add(users);
    return told;
  }

  /** left notes who went, and gives those that the application has to be told of. */
  left(users: ZIMUserInfo[]): ZIMUserInfo[] {
    const told = this.found && this.known ? users.filter((u) => this.known?.has(u.userID)) : users;
    for (const u of users) {
      this.found?.delete(u.userID);
      this.known?.delete(u.userID);
    }
    return told;
  }

  beginWalk(): void {
    this.found = new Map();
  }

  /** page notes a page of the list. It gives false if the room has become too large for a walk. */
  page(users: ZIMUserInfo[]): boolean {
    this.found = this.note(this.found, users);
    return this.found !== undefined;
  }

  /** endWalk gives who went and who came, as far as the application has not been told. */
  endWalk(): { left: ZIMUserInfo[]; joined: ZIMUserInfo[]; count: number } {
    const found = this.found ?? new Map<string, ZIMUserInfo>();
    const known = this.known ?? new Map<string, ZIMUserInfo>();
    this.found = undefined;
    this.known = found;
    return {
      left: [...known.values()].filter((u) => !found.has(u.userID)),
      joined: [...found.values()].filter((u) => !known.has(u.userID)),
      count: found.size + 1,
    };
  }

  abortWalk(): void {
    this.found = undefined;
  }

  private add(users: ZIMUserInfo[]): void {
    this.known = this.note(this.known, users);
  }

  private note(into: Map<string, ZIMUserInfo> | undefined, users: ZIMUserInfo[]): Map<string, ZIMUserInfo> | undefined {
    for (const u of users) {
      if (into && u.userID !== this.self) {
        into.set(u.userID, u);
      }
    }
    return into && into.size <= maxKnown ? into : undefined;
  }
}
