import { jitter } from './backoff.js';
import type { Call, Calls, Done } from './calls.js';
import { enters } from './calls.js';
import { ZIMRoomEvent, ZIMRoomState } from './enums.js';
import type { Emit } from './events.js';
import type { Told } from './meanwhile.js';
import type { PositionOnWire } from './position.js';
import { Progress } from './position.js';
import { failureOf, isFailedEntry, Room } from './room.js';
import type { ZIMEventOfRoomMemberChangedResult, ZIMEventOfRoomStateChangedResult, ZIMUserInfo } from './types.js';
import {
  attributeInfos,
  attributes,
  type Fields,
  list,
  memberAttributes,
  message,
  object,
  roomState,
  text,
  users,
  whole,
} from './wire.js';

/** In rooms of more members than this the list is not read anew: the application has to ask. */
export const maxWalk = 500;

const pageSize = 100;

// What could not be read is read again after a random wait, up to readMost.
const readFirst = 500;
const readMost = 8_000;

/** maxNamed is how many rooms a resume may name. */
const maxNamed = 500;

/**
 * Rooms follows the client into rooms and out of them, drops events that were passed on
 * before, and makes good for history that was lost.
 */
export class Rooms {
  private readonly rooms = new Map<string, Room>();

  // Failed entries whose answer follows: if that says that they may be repeated, the
  // application hears nothing of the failure.
  private readonly held = new Map<string, ZIMEventOfRoomStateChangedResult>();

  constructor(
    private readonly self: string,
    private readonly calls: Calls,
    private readonly emit: Emit,
    private readonly reenter: boolean,
  ) {}

  /** positions is what a resume names. */
  positions(): PositionOnWire[] {
    const all: PositionOnWire[] = [];
    for (const room of this.rooms.values()) {
      if (room.progress && all.length < maxNamed) {
        all.push(room.progress.onWire(room.id));
      }
    }
    return all;
  }

  /** interrupted says of each room that the link is lost. */
  interrupted(): void {
    for (const room of [...this.rooms.values()]) {
      room.half = undefined;
      this.stopReading(room); // it is read when it is connected anew
      if (room.progress) {
        this.say(room, state(room.id, ZIMRoomState.Connecting, ZIMRoomEvent.NetworkInterrupted));
      }
    }
  }

  /** ended takes the client out of all rooms. */
  ended(event: ZIMRoomEvent): void {
    for (const room of [...this.rooms.values()]) {
      this.forget(room);
      this.say(room, state(room.id, ZIMRoomState.Disconnected, event));
    }
  }

  /** received passes an event of a room on. It throws if it is malformed. */
  received(method: string, params: Fields): void {
    switch (method) {
      case 'roomStateChanged':
        return this.stateChanged({ roomID: text(params, 'roomID'), ...roomState(params), extendedData: text(params, 'extendedData') }, params);
      case 'roomMemberJoined':
      case 'roomMemberLeft':
        return this.membersChanged(method, params);
      case 'roomMessageReceived':
        return this.messageReceived(params);
      case 'roomAttributesUpdated':
      case 'roomAttributesBatchUpdated':
        return this.attributesUpdated(method, params);
      case 'roomMemberAttributesUpdated':
        return this.memberAttributesUpdated(params);
      case 'roomModeChanged':
        return this.modeChanged(params);
      case 'roomHistoryLost':
        return this.historyLost(params);
    }
    // One that this version does not know may move the position all the same.
    if (typeof params['roomID'] === 'string') {
      this.take(params['roomID'], params);
    }
  }

  /** ask sends a request. The answer to a query is brought up to what was told of the room before it came. */
  ask(method: string, params: object, done: Done): void {
    const room = method.startsWith('query') ? this.rooms.get((params as { roomID?: string }).roomID ?? '') : undefined;
    room?.meanwhile.begin();
    this.calls.send(method, params, (err, result) => {
      if (!err) {
        room?.meanwhile.bringUp(method, result);
      }
      room?.meanwhile.end();
      done(err, result);
    });
  }

  /** answered notes what an answer says about a room, before whoever asked is told. */
  answered(call: Call, ok: boolean, result: Fields): void {
    const entered = enters(call);
    if (entered !== undefined) {
      this.entryAnswered(call, entered, ok);
      return;
    }
    if (ok && call.method === 'sendRoomMessage') {
      // No event comes of a message of one's own. The answer has come after all before it.
      const progress = this.rooms.get((call.params as { roomID: string }).roomID)?.progress;
      if (progress && progress.epoch === whole(result, 'epoch')) {
        progress.take(whole(result, 'seq'));
      }
    }
  }

  /** shown notes what the application is about to be told by the answer to a query of its own. */
  shown(method: string, params: object, result: Fields): void {
    if (method !== 'queryRoomMemberList' && method !== 'queryRoomMembers') {
      return;
    }
    const room = this.rooms.get(text(result, 'roomID'));
    const memberList = users(result, 'memberList');
    const first = !(params as { config?: { nextFlag?: string | null } }).config?.nextFlag;
    if (room && method === 'queryRoomMemberList' && first && text(result, 'nextFlag') === '') {
      // All there are. Who went without being told of does so before the list, not behind it.
      this.tellWalk(room, 'roomMemberLeft', room.members.seenAll(memberList), memberList.length);
    } else {
      room?.members.seen(memberList);
    }
  }

  /** unknown says that nobody will hear what became of an entry. */
  unknown(call: Call): void {
    const room = this.rooms.get(enters(call) ?? '');
    if (room && !room.progress) {
      this.held.delete(room.id);
      this.forget(room);
      this.say(room, state(room.id, ZIMRoomState.Disconnected, failureOf(call.method)));
    }
  }

  private entryAnswered(call: Call, roomID: string, ok: boolean): void {
    const held = this.held.get(roomID);
    this.held.delete(roomID);
    const room = this.rooms.get(roomID);
    if (held) {
      this.out(held);
    } else if (ok && room) {
      room.entry = { method: call.method, params: call.params };
      if (call.writes > 1) {
        room.attributesStale = true; // the repeat of an entry does not tell them
        this.readAnew(room);
      }
    }
  }

  private stateChanged(ev: ZIMEventOfRoomStateChangedResult, params: Fields): void {
    switch (ev.state) {
      case ZIMRoomState.Connected:
        return this.connected({ ...ev, epoch: whole(params, 'epoch'), seq: whole(params, 'seq') });
      case ZIMRoomState.Disconnected:
        if (isFailedEntry(ev) && this.calls.entry(ev.roomID)) {
          this.held.set(ev.roomID, ev);
          return;
        }
        return this.out(ev);
      case ZIMRoomState.Connecting: {
        this.held.delete(ev.roomID);
        const room = this.find(ev.roomID);
        this.flush(room);
        this.say(room, ev);
      }
    }
  }

  private connected(ev: ZIMEventOfRoomStateChangedResult & { epoch: number; seq: number }): void {
    this.held.delete(ev.roomID);
    // One that nobody has announced: the client came in by an entry that it has given up.
    const unannounced = !this.rooms.has(ev.roomID);
    const room = this.find(ev.roomID);
    if (room.progress) {
      room.progress.connected(ev.epoch, ev.seq);
    } else {
      room.progress = new Progress(ev.epoch, ev.seq);
    }
    if (unannounced) {
      room.attributesStale = room.membersStale = true;
    }
    room.mode = 'full'; // if it is sampled, that is said again
    this.say(room, ev);
    this.readAnew(room);
  }

  /** out takes the client out of a room. Of one that it is not in it was told before. */
  private out(ev: ZIMEventOfRoomStateChangedResult): void {
    const room = this.rooms.get(ev.roomID);
    if (!room) {
      return;
    }
    this.flush(room);
    this.forget(room);
    this.say(room, ev);
    if (this.reenter && ev.event === ZIMRoomEvent.ConnectTimeout && room.entry) {
      const { method, params } = again(room);
      // What it comes to is told by the states of the room.
      this.calls.send(method, params, () => {});
    }
  }

  private membersChanged(method: 'roomMemberJoined' | 'roomMemberLeft', params: Fields): void {
    const data: ZIMEventOfRoomMemberChangedResult = {
      roomID: text(params, 'roomID'),
      memberList: users(params, 'memberList'),
      memberCount: whole(params, 'memberCount'),
    };
    const room = this.take(data.roomID, params);
    if (!room) {
      return;
    }
    const seq = whole(params, 'seq');
    if (seq > 0) {
      data.seq = seq;
    }
    if (method === 'roomMemberLeft' && seq === 0 && whole(params, 'membersSeq') === 0 && room.mode === 'full') {
      room.half = data;
      return;
    }
    note(room, seq, { [method === 'roomMemberJoined' ? 'joined' : 'left']: data.memberList, count: data.memberCount });
    this.tellMembers(room, method, data);
    if (room.membersStale && (data.memberCount ?? 0) <= maxWalk) {
      this.readAnew(room);
    }
  }

  private tellMembers(room: Room, method: 'roomMemberJoined' | 'roomMemberLeft', data: ZIMEventOfRoomMemberChangedResult): void {
    const told = method === 'roomMemberJoined' ? room.members.joined(data.memberList) : room.members.left(data.memberList);
    if (told.length > 0) {
      this.emit(method, { ...data, memberList: told });
    }
  }

  private messageReceived(params: Fields): void {
    const fromConversationID = text(params, 'fromConversationID');
    const messageList = list(params, 'messageList').map((m) => message(m, this.self));
    if (!this.take(fromConversationID, params)) {
      return;
    }
    const seq = whole(params, 'seq');
    const info = { isOfflineMessage: (params['info'] as Fields | undefined)?.['isOfflineMessage'] === true };
    this.emit('roomMessageReceived', { messageList, fromConversationID, info, ...(seq > 0 && { seq }) });
    this.emit('receiveRoomMessage', { messageList, fromConversationID });
  }

  private attributesUpdated(method: 'roomAttributesUpdated' | 'roomAttributesBatchUpdated', params: Fields): void {
    const roomID = text(params, 'roomID');
    const infos = attributeInfos(params);
    const room = this.take(roomID, params);
    if (room) {
      const seq = whole(params, 'seq');
      room.attributes.apply(infos);
      note(room, seq, { infos });
      this.emit(method, { roomID, infos, operatedInfo: operator(params), seq });
    }
  }

  private memberAttributesUpdated(params: Fields): void {
    const roomID = text(params, 'roomID');
    const infos = list(params, 'infos').map((i) => ({
      attributesInfo: memberAttributes(object(i['attributesInfo'], 'attributesInfo')),
    }));
    if (this.take(roomID, params)) {
      this.emit('roomMemberAttributesUpdated', { roomID, infos, operatedInfo: operator(params), seq: whole(params, 'seq') });
    }
  }

  private modeChanged(params: Fields): void {
    const mode = params['mode'] === 'sampled' ? 'sampled' : 'full';
    const room = this.rooms.get(text(params, 'roomID'));
    if (!room) {
      return;
    }
    this.flush(room);
    room.mode = mode;
    room.membersStale = true;
    if (mode === 'sampled') {
      room.members.forget();
      this.stopWalk(room);
    }
    this.emit('roomModeChanged', { roomID: room.id, mode });
    this.readAnew(room);
  }

  private historyLost(params: Fields): void {
    const roomID = text(params, 'roomID');
    const fromSeq = whole(params, 'fromSeq');
    const toSeq = whole(params, 'toSeq');
    const room = this.rooms.get(roomID);
    if (!room) {
      return;
    }
    this.flush(room);
    room.progress?.take(toSeq);
    this.stopWalk(room);
    room.attributesStale = room.membersStale = true;
    this.emit('roomHistoryLost', { roomID, fromSeq, toSeq });
    this.readAnew(room);
  }

  /**
   * take moves the position of a room on to an event. It gives undefined if the event is not
   * to be passed on: it was before, or the client is not in the room.
   */
  private take(roomID: string, params: Fields): Room | undefined {
    const room = this.rooms.get(roomID);
    if (!room) {
      return undefined;
    }
    this.flush(room);
    if (!room.progress) {
      return room; // the attributes of a room that the client is entering
    }
    const fresh = room.progress.take(whole(params, 'seq')) === 'fresh';
    room.progress.knowsMembers(whole(params, 'membersSeq'));
    return fresh ? room : undefined;
  }

  /** flush passes on the first half of a difference, now that the second is here. */
  private flush(room: Room): void {
    if (room.half) {
      const half = room.half;
      room.half = undefined;
      this.tellMembers(room, 'roomMemberLeft', half);
    }
  }

  /** readAnew asks for what is stale of a room, and tells the application the difference. */
  private readAnew(room: Room): void {
    if (this.rooms.get(room.id) !== room || !room.progress) {
      return; // an application has left it meanwhile
    }
    if (room.attributesStale) {
      this.readAttributes(room);
    }
    if (room.membersStale && room.mode === 'full' && !room.walking) {
      this.walk(room);
    }
  }

  private readAttributes(room: Room): void {
    room.attributesStale = false;
    const round = ++room.attributesRound;
    const isCurrent = () => this.rooms.get(room.id) === room && round === room.attributesRound;
    const failed = () => {
      room.attributesStale = true;
      this.readLater(room);
    };
    this.read('queryRoomAllAttributes', { roomID: room.id }, isCurrent, failed, (result) => {
      const infos = room.attributes.become(attributes(result, 'roomAttributes'));
      room.failedReads = 0;
      if (infos.length > 0) {
        const method = infos.length > 1 ? 'roomAttributesBatchUpdated' : 'roomAttributesUpdated';
        this.emit(method, { roomID: room.id, infos, operatedInfo: { userID: '' } });
      }
    });
  }

  /** read asks for a part of a picture. What an answer that cannot be read throws is thrown on. */
  private read(method: string, params: object, isCurrent: () => boolean, failed: () => void, take: (result: Fields) => void): void {
    this.ask(method, params, (err, result) => {
      if (!isCurrent()) {
        return;
      }
      if (err) {
        failed();
        return;
      }
      try {
        take(result);
      } catch (why) {
        failed();
        throw why;
      }
    });
  }

  /** readLater reads what is stale of a room after a while. */
  private readLater(room: Room): void {
    room.againTimer ??= setTimeout(
      () => {
        room.againTimer = undefined;
        this.readAnew(room);
      },
      jitter(room.failedReads++, readFirst, readMost),
    );
  }

  private stopReading(room: Room): void {
    clearTimeout(room.againTimer);
    room.againTimer = undefined;
  }

  private walk(room: Room): void {
    room.membersStale = false;
    room.walking = true;
    room.members.beginWalk();
    const round = ++room.membersRound;
    const roomID = room.id;
    const isCurrent = () => this.rooms.get(roomID) === room && round === room.membersRound;
    const giveUp = () => {
      this.stopWalk(room);
      room.membersStale = true; // until the room is connected anew, or is small enough
    };
    const failed = () => {
      giveUp();
      this.readLater(room);
    };
    const page = (nextFlag: string) => {
      this.read('queryRoomMemberList', { roomID, config: { count: pageSize, nextFlag } }, isCurrent, failed, (result) => {
        if (!room.members.page(users(result, 'memberList'))) {
          giveUp();
          return;
        }
        const next = text(result, 'nextFlag');
        if (next !== '') {
          page(next);
          return;
        }
        room.walking = false;
        room.failedReads = 0;
        const { left, joined, count } = room.members.endWalk();
        this.tellWalk(room, 'roomMemberLeft', left, count);
        this.tellWalk(room, 'roomMemberJoined', joined, count);
      });
    };
    this.read('queryRoomOnlineMemberCount', { roomID }, isCurrent, failed, (result) => {
      if (whole(result, 'count') > maxWalk) {
        giveUp();
        return;
      }
      page('');
    });
  }

  private tellWalk(room: Room, method: 'roomMemberLeft' | 'roomMemberJoined', memberList: ZIMUserInfo[], memberCount: number): void {
    if (memberList.length > 0) {
      this.emit(method, { roomID: room.id, memberList, memberCount });
    }
  }

  private stopWalk(room: Room): void {
    room.walking = false;
    room.membersRound++;
    room.members.abortWalk();
  }

  private forget(room: Room): void {
    this.stopReading(room);
    this.rooms.delete(room.id);
  }

  private find(roomID: string): Room {
    let room = this.rooms.get(roomID);
    if (!room) {
      room = new Room(roomID, this.self);
      this.rooms.set(roomID, room);
    }
    return room;
  }

  private say(room: Room, ev: ZIMEventOfRoomStateChangedResult): void {
    if (room.isNews(ev)) {
      this.emit('roomStateChanged', ev);
    }
  }
}

function state(roomID: string, s: ZIMRoomState, event: ZIMRoomEvent): ZIMEventOfRoomStateChangedResult {
  return { roomID, state: s, event, extendedData: '' };
}

/** note is for queries about the room that are not answered yet. */
function note(room: Room, seq: number, told: Omit<Told, 'epoch' | 'seq'>): void {
  room.meanwhile.note({ epoch: room.progress?.epoch ?? 0, seq, ...told });
}

function operator(params: Fields): { userID: string } {
  const by = params['operatedInfo'] as Fields | undefined;
  return { userID: typeof by?.['userID'] === 'string' ? by['userID'] : '' };
}

/** again is the request that enters a room as it was entered: what may create it may do so again. */
function again(room: Room): { method: string; params: object } {
  const { method, params } = room.entry ?? { method: 'joinRoom', params: {} };
  const p = params as { roomInfo?: object; toRoomInfo?: object; isCreateWhenRoomNotExisted?: boolean; config?: object };
  if (method === 'createRoom' || method === 'enterRoom') {
    return { method: 'enterRoom', params };
  }
  if (method === 'switchRoom' && p.isCreateWhenRoomNotExisted) {
    return { method: 'enterRoom', params: { roomInfo: p.toRoomInfo, config: p.config } };
  }
  return { method: 'joinRoom', params: { roomID: room.id } };
}
