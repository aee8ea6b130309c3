import type { ZIMError } from './errors.js';
import type { Log } from './log.js';
import type {
  EventOfRoomHistoryLostResult,
  EventOfRoomModeChangedResult,
  ZIMEventOfConnectionStateChangedResult,
  ZIMEventOfConversationMessageReceivedResult,
  ZIMEventOfReceiveConversationMessageResult,
  ZIMEventOfRoomAttributesUpdatedResult,
  ZIMEventOfRoomMemberChangedResult,
  ZIMEventOfRoomMembersAttributesUpdatedResult,
  ZIMEventOfRoomStateChangedResult,
  ZIMEventOfTokenWillExpireResult,
} from './types.js';

/** Events are all there are, by name. The last two are ours. */
export interface Events {
  error: ZIMError;
  tokenWillExpire: ZIMEventOfTokenWillExpireResult;
  connectionStateChanged: ZIMEventOfConnectionStateChangedResult;
  /** ZIM's older name of roomMessageReceived; both are raised. */
  receiveRoomMessage: ZIMEventOfReceiveConversationMessageResult;
  roomMessageReceived: ZIMEventOfConversationMessageReceivedResult;
  roomStateChanged: ZIMEventOfRoomStateChangedResult;
  roomMemberJoined: ZIMEventOfRoomMemberChangedResult;
  roomMemberLeft: ZIMEventOfRoomMemberChangedResult;
  roomAttributesUpdated: ZIMEventOfRoomAttributesUpdatedResult;
  roomAttributesBatchUpdated: ZIMEventOfRoomAttributesUpdatedResult;
  roomMemberAttributesUpdated: ZIMEventOfRoomMembersAttributesUpdatedResult;
  roomHistoryLost: EventOfRoomHistoryLostResult;
  roomModeChanged: EventOfRoomModeChangedResult;
}

/** Emit raises an event to the application. */
export type Emit = <K extends keyof Events>(type: K, data: Events[K]) => void;

/** Listeners holds one listener for each type of event, as in ZIM: a later one replaces it. */
export class Listeners<Z> {
  private readonly byType = new Map<keyof Events, (zim: Z, data: never) => void>();

  constructor(
    private readonly zim: Z,
    private readonly log: Log,
  ) {}

  on<K extends keyof Events>(type: K, listener: (zim: Z, data: Events[K]) => void): void {
    if (typeof listener === 'function') {
      this.byType.set(type, listener as (zim: Z, data: never) => void);
    } else {
      this.byType.delete(type); // on(type, null) is how ZIM's own applications take one away
    }
  }

  off(type: keyof Events): void {
    this.byType.delete(type);
  }

  /**
   * emit calls the listener. What it throws must not leave the state of a room half
   * changed: it is thrown again where nothing of ours is under way.
   */
  emit<K extends keyof Events>(type: K, data: Events[K]): void {
    const listener = this.byType.get(type) as ((zim: Z, data: Events[K]) => void) | undefined;
    if (!listener) {
      return;
    }
    try {
      listener(this.zim, data);
    } catch (err) {
      this.log.error(`the listener of ${type} has thrown`);
      setTimeout(() => {
        throw err;
      }, 0);
    }
  }
}
