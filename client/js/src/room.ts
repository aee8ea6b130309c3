import { ZIMRoomEvent, ZIMRoomState } from './enums.js';
import { Meanwhile } from './meanwhile.js';
import { AttributesKnown, MembersKnown } from './picture.js';
import { Progress } from './position.js';
import type { ZIMEventOfRoomMemberChangedResult, ZIMEventOfRoomStateChangedResult } from './types.js';

/** What it takes to enter a room again. */
export interface Entry {
  method: string;
  params: object;
}

/** A Room is what the client knows of a room that it is in, or is entering. */
export class Room {
  /** Set while the client is in the room. */
  progress: Progress | undefined;

  /** The last state that the application was told. */
  said: { state: ZIMRoomState; event: ZIMRoomEvent } | undefined;

  /** How the client came in, if that was answered. */
  entry: Entry | undefined;

  mode: 'full' | 'sampled' = 'full';

  readonly attributes = new AttributesKnown();
  readonly members: MembersKnown;
  readonly meanwhile = new Meanwhile();

  /** The picture has to be read anew. */
  attributesStale = false;
  membersStale = false;

  /** Counts what makes a query that is under way for that out of date. */
  attributesRound = 0;
  membersRound = 0;
  walking = false;

  /** A picture that could not be read is read again after a while. */
  againTimer: ReturnType<typeof setTimeout> | undefined;
  failedReads = 0; // in a row

  /**
   * The first half of a difference, those who left; the second follows at once. If the link
   * is cut between the two, the whole difference comes again.
   */
  half: ZIMEventOfRoomMemberChangedResult | undefined;

  constructor(
    readonly id: string,
    self: string,
  ) {
    this.members = new MembersKnown(self);
  }

  /** isNews says whether the application has not been told this state last, and notes that it is now. */
  isNews(ev: Pick<ZIMEventOfRoomStateChangedResult, 'state' | 'event'>): boolean {
    const news = this.said?.state !== ev.state || this.said.event !== ev.event;
    this.said = { state: ev.state, event: ev.event };
    return news;
  }
}

const failures = new Set([ZIMRoomEvent.CreateFailed, ZIMRoomEvent.EnterFailed, ZIMRoomEvent.SwitchFailed]);

/** isFailedEntry says whether an entry has ended with this state: its answer follows at once. */
export function isFailedEntry(ev: ZIMEventOfRoomStateChangedResult): boolean {
  return ev.state === ZIMRoomState.Disconnected && failures.has(ev.event);
}

/** failureOf is the event that says of an entry that it has failed. */
export function failureOf(method: string): ZIMRoomEvent {
  switch (method) {
    case 'createRoom':
      return ZIMRoomEvent.CreateFailed;
    case 'switchRoom':
      return ZIMRoomEvent.SwitchFailed;
  }
  return ZIMRoomEvent.EnterFailed;
}
